"""Backbones with something of their own: a term in the loss, another readout, other scores."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from recbole.model.loss import BPRLoss
from torch import nn

from recbole_llmemb.config.keys import values_of
from recbole_llmemb.core import checkpoint
from recbole_llmemb.core.errors import UserError, explained
from recbole_llmemb.data.loaders import BATCH_ITEMS, LOSS_POSITION, MASKED
from recbole_llmemb.models.llmemb.model import LLMEmbMixin
from recbole_llmemb.models.llmemb.parts import item_layer


class BERT4RecModel(LLMEmbMixin):
    """BERT4Rec (Sun et al., CIKM 2019) over an LLM item table (LLMEmb §3.3).

    Not causal: ``train_mode: sequence`` reads each sequence once and predicts the items
    masked in it, BERT4Rec's own task; ``prefix`` masks RecBole's augmented rows. The
    mask is a learned vector beside the table.
    """

    n_special_ids = 1

    @property
    def item_bias(self):
        return self.output_bias

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        if self._every_position:
            return self.forward(item_seq)
        masked, position = self.append_mask(item_seq, item_seq_len)
        return self.gather_indexes(self.forward(masked), position)

    def append_mask(self, item_seq, item_seq_len):
        """Put the mask after each history, where the next item is to be predicted.

        RecBole drops the oldest item of every history to make room; here that happens
        only where the history fills the model.

        ``item_seq`` (b, w), ``item_seq_len`` (b,).
        Returns sequences ``(b, min(w + 1, max_seq_length))`` and the mask's position ``(b,)``.
        """
        width = item_seq.shape[1]
        rows = torch.arange(item_seq.shape[0], device=item_seq.device)  # torch.export: no len()
        longer = torch.cat([item_seq, item_seq.new_zeros(item_seq.shape[0], 1)], dim=1)
        longer[rows, item_seq_len] = self.mask_token
        if width < self.max_seq_length:
            return longer, item_seq_len
        full = item_seq_len == width
        masked = torch.where(full.unsqueeze(1), longer[:, 1:], longer[:, :-1])
        return masked, item_seq_len - full.long()

    def _prefix_loss(self, interaction):
        recboles, trimmed = self._has_recboles_loss, MASKED[0] in interaction
        if recboles and not trimmed:
            return super()._prefix_loss(interaction)
        sequences = interaction[self.MASK_ITEM_SEQ]
        chunks = [sequences]
        if trimmed:
            chunks = [sequences[begin:end, :width] for begin, end, width in interaction.chunks]
        places, items, negatives = self._masked(interaction)
        states = torch.cat([self.forward(chunk).flatten(0, 1) for chunk in chunks])
        targets = {self.POS_ITEM_ID: items, self.NEG_ITEM_ID: negatives}
        return self.position_loss(states.index_select(0, places), targets, padding=recboles)

    def _masked(self, interaction):
        """Places, items and negatives of what the loss of masked rows predicts, ``(m,)`` each.

        RecBole's leaves out those that begin a row.
        """
        recboles = self._has_recboles_loss
        if MASKED[0] in interaction:
            masked = [interaction[name] for name in MASKED]
            return [each[: interaction.targets] for each in masked] if recboles else masked
        items, index = interaction[self.POS_ITEMS], interaction[self.MASK_INDEX]
        rows, which = ((items > 0) & (index > 0) if recboles else items > 0).nonzero(as_tuple=True)
        places = rows * interaction[self.MASK_ITEM_SEQ].shape[1] + index[rows, which]
        return [places, *(c[rows, which] for c in (items, interaction[self.NEG_ITEMS]))]

    def aligned_items(self, interaction):
        if LOSS_POSITION in interaction:
            return super().aligned_items(interaction)
        items = self._masked(interaction)[1]
        return items if self.align_positions else torch.unique(items)

    def _needed_items(self, interaction):
        # RecBole's masked rows hold masks and negatives of their own: adapt everything.
        return super()._needed_items(interaction) if BATCH_ITEMS in interaction else None


class NextItNetModel(LLMEmbMixin):
    """NextItNet (Yuan et al., WSDM 2019).

    RecBole reads its state at the last padded position. In sequence mode it is read at the
    last item, in training and in ranking: there padding changes nothing.
    """

    loss_reads_all_items = True

    def adjust(self, config, dataset):
        self.padding_free = self._at_last_item = config["train_mode"] == "sequence"

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        if not self._at_last_item:
            return self.forward(item_seq)
        hidden = self.residual_blocks(self.item_embedding(item_seq))
        return self.final_layer(self.gather_indexes(hidden, item_seq_len - 1))

    def own_terms(self, states, interaction):
        norms = self.reg_loss([self.item_embedding.weight, self.final_layer.weight])
        return self.reg_weight * norms + self.reg_loss_rb()


class CaserModel(LLMEmbMixin):
    """Caser (Tang and Wang, WSDM 2018)."""

    loss_reads_all_items = True
    fewest = {"embedding_size": 2}  # RecBole squeezes a width of 1 away

    def own_terms(self, states, interaction):
        layers = (self.user_embedding, self.item_embedding, self.conv_v, self.fc1, self.fc2)
        norms = self.reg_loss([layer.weight for layer in layers])
        return self.reg_weight * norms + self.reg_loss_conv_h()


class GCSANModel(LLMEmbMixin):
    """GC-SAN (Xu et al., IJCAI 2019)."""

    loss_reads_all_items = True

    def own_terms(self, states, interaction):
        return self.reg_weight * self.reg_loss(self.item_embedding.weight)


class HGNModel(LLMEmbMixin):
    """HGN (Ma et al., KDD 2019): a second layer of item embeddings makes the scores.

    With a table both are adapted from it, each by an adapter of its own.
    """

    def adjust(self, config, dataset):
        layer = item_layer(config, dataset, self.item_embedding_for_prediction)
        if hasattr(layer, "table"):
            layer.table = self.item_embedding.table  # which need not be there twice
        self.item_embedding_for_prediction = layer

    @property
    def output_items(self):
        return self.item_embedding_for_prediction

    def own_terms(self, states, interaction):
        return self.reg_loss(
            self.user_embedding(interaction[self.USER_ID]),
            self.output_items(interaction[self.POS_ITEM_ID]),
            self.item_embedding(interaction[self.ITEM_SEQ]),
        )


class SHANModel(LLMEmbMixin):
    """SHAN (Ying et al., IJCAI 2018), which reads a history with its padding in front."""

    uses_recbole_prefix_loss = False  # its transform reverses histories row by row, in Python

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        width = item_seq.shape[1]
        places = torch.arange(width, device=item_seq.device) + item_seq_len.unsqueeze(1)
        return self.forward(item_seq.gather(1, places % width), user)

    def own_terms(self, states, interaction):
        users = self.user_embedding(interaction[self.USER_ID])
        return self.reg_loss(users, self.item_embedding(interaction[self.POS_ITEM_ID]))


class NPEModel(LLMEmbMixin):
    """NPE (Nguyen and Takasu, IJCAI 2018), which scores with rectified item embeddings."""

    def scored(self, rows):
        return torch.relu(rows)


class HRMModel(LLMEmbMixin):
    """HRM (Wang et al., SIGIR 2015)."""

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        return self.forward(item_seq, user, item_seq_len.clone())  # average pooling changes them


class FOSSILModel(LLMEmbMixin):
    """Fossil (He and McAuley, ICDM 2016)."""

    def own_terms(self, states, interaction):
        users = self.user_lambda(interaction[self.USER_ID])
        items = self.item_embedding(interaction[self.POS_ITEM_ID])
        return self.reg_loss(users, items, states)


class TransRecModel(LLMEmbMixin):
    """TransRec (He et al., RecSys 2017): a score is a bias less a distance.

    A state is the last item translated by the user, so that every position has one.
    """

    uses_backbone_loss = False

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        if not self._every_position:
            return self.forward(user, item_seq, item_seq_len)
        translation = self.user_embedding(user) + self.T
        return self.item_embedding(item_seq) + translation.unsqueeze(1)

    def pair_scores(self, states, ids):
        states = states if ids.dim() == 1 else states.unsqueeze(1)
        distance = self._l2_distance(states, self.item_embedding(ids))
        return (self.bias(ids) - distance).squeeze(-1)

    def scores(self, batch, ids=None):
        if ids is not None:
            return self.pair_scores(self.states(batch), ids)
        # RecBole's repeats the items for every row: gigabytes on a catalog of thousands.
        way = {"compute_mode": "donot_use_mm_for_euclid_dist"}
        return self.bias.weight.t() - torch.cdist(self.states(batch), self.items().vectors, **way)

    def own_terms(self, states, interaction):
        return self.reg_loss(self.T)  # the others of RecBole's have no gradient


class FEARecModel(LLMEmbMixin):
    """FEARec (Du et al., SIGIR 2023); with ``contrast`` it keeps its own loss."""

    # Layers share the frequencies, and it looks for delays among the positions.
    fewest = {"n_layers": 2, "MAX_ITEM_LIST_LENGTH": 3}
    loss_reads_all_items = True
    # RecBole's looks for other histories of each target even where none is used.
    uses_recbole_prefix_loss = False

    @classmethod
    def scores_are_products(cls, config):
        return values_of(config).get("contrast") not in ("us", "un", "su", "us_x")

    def adjust(self, config, dataset):
        self.dataset = SimpleNamespace(inter_feat=_Histories(dataset.inter_feat, self.ITEM_SEQ))

    def get_same_item_index(self, dataset):
        """Rows of each target item, found by sorting instead of one search per row."""
        items = dataset.inter_feat[self.ITEM_ID].numpy()
        order = np.argsort(items, kind="stable")
        values, starts = np.unique(items[order], return_index=True)
        return dict(zip(values.tolist(), np.split(order, starts[1:])))


class _Histories:
    """The rows of a dataset, whose histories are gathered one by one."""

    def __init__(self, rows, field):
        self.rows, self.field = rows, field

    def __getitem__(self, key):
        if isinstance(key, str):
            return self if key == self.field else self.rows[key]
        return self.rows[int(key)][self.field]


class S3RecModel(LLMEmbMixin):
    """S³-Rec (Zhou et al., CIKM 2020), fine-tuned: from scratch or from given weights."""

    n_special_ids = 1  # its mask

    def backbone_settings(self, config):
        # Built for fine-tuning, it would load a checkpoint at once, and as a pickle.
        return {"train_stage": "pretrain"}

    def adjust(self, config, dataset):
        self.train_stage = "finetune"
        self.loss_fct = nn.CrossEntropyLoss() if self.loss_type == "CE" else BPRLoss()
        if config["pre_model_path"]:
            self._load_weights(config["pre_model_path"])

    def _load_weights(self, path):
        state = checkpoint.load(path)["state_dict"]
        if not isinstance(self.item_embedding, nn.Embedding):  # the table's stay as they are
            state = {k: v for k, v in state.items() if not k.startswith("item_embedding.")}
        told = f"pre_model_path {path} is not of RecBole's S3Rec of the same sizes and data"
        why = f"{told} ({{reason}}); give another, or leave it empty."
        with explained(why, RuntimeError, key="pre_model_path", where=path):
            missing = self.load_state_dict(state, strict=False).missing_keys
            for key in missing:
                if not key.startswith(("item_embedding.", "item_sc")):
                    raise RuntimeError(f"{key} is missing")

    def sequence_forward(self, item_seq, item_seq_len, user=None):
        return self.gather_indexes(self.forward(item_seq, bidirectional=False), item_seq_len - 1)


class COREModel(LLMEmbMixin):
    """CORE (Hou et al., SIGIR 2022), which has a cosine and a temperature of its own."""

    _chunks = None  # Of the batch whose loss RecBole's code makes

    def _prefix_loss(self, interaction):
        self._chunks = getattr(interaction, "chunks", None)
        try:
            return super()._prefix_loss(interaction)
        finally:
            self._chunks = None

    def forward(self, item_seq):
        forward = super().forward
        if not self._chunks:
            return forward(item_seq)
        return torch.cat([forward(item_seq[begin:end, :w]) for begin, end, w in self._chunks])


class SASRecCPRModel(LLMEmbMixin):
    """Softmax-CPR (Chang et al., WSDM 2024) over SASRec or GRU4Rec."""

    def adjust(self, config, dataset):
        if not hasattr(self.item_embedding, "bias"):  # GRU4RecCPR gives its layer one
            self.item_embedding.bias = None
        if dataset.item_num < max(self.reranker_CAN_NUM):
            told = f"reranker_CAN_NUM is {config['reranker_CAN_NUM']}, but there are only"
            raise UserError(f"{told} {dataset.item_num - 1} items; give a smaller one.")

    def own_scores(self, batch):
        batch = self._trim_padding(batch)
        _, chances = self.calculate_loss_prob(batch, only_compute_prob=True)
        if self.post_remove_context:
            chances.scatter_(1, batch[self.ITEM_SEQ], 0)
        return chances


GRU4RecCPRModel = SASRecCPRModel
