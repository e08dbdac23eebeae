"""LLMEmb over BERT4Rec."""

import torch

from recbole_llmemb.models.llmemb.model import LLMEmbMixin


class BERT4RecModel(LLMEmbMixin):
    """BERT4Rec (Sun et al., CIKM 2019) over an LLM item table (LLMEmb §3.3).

    Not causal: ``train_mode: sequence`` reads each sequence once and predicts the items
    masked in it, BERT4Rec's own task; ``prefix`` masks RecBole's augmented rows. The
    mask is a learnt vector beside the table.
    """

    cloze = True
    extra_rows = 1

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

        Parameters
        ----------
        item_seq : torch.LongTensor (b, w)
        item_seq_len : torch.LongTensor (b,)

        Returns
        -------
        tuple of torch.LongTensor
            Sequences ``(b, min(w + 1, max_seq_length))`` and the mask's position ``(b,)``.
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
        plain = self.item_scores.plain and self.log_popularity is None
        recboles = plain and self.loss_type != "BCE"
        if hasattr(interaction, "masked"):
            return self._trimmed_loss(interaction, recboles)
        return super()._prefix_loss(interaction) if recboles else self._masked_loss(interaction)

    def _trimmed_loss(self, interaction, recboles):
        """Loss of a :class:`LengthSortedMaskedBatch`; ``recboles``: what RecBole's own loss is."""
        sequences = interaction[self.MASK_ITEM_SEQ]
        chunks = [sequences[begin:end, :width] for begin, end, width in interaction.chunks]
        states = torch.cat([self.forward(chunk).flatten(0, 1) for chunk in chunks])
        masked = interaction.masked
        if recboles:
            masked = [each[: interaction.targets] for each in masked]
        places, items, negatives = masked
        targets = {self.POS_ITEM_ID: items, self.NEG_ITEM_ID: negatives}
        return self.position_loss(states.index_select(0, places), targets, padding=recboles)

    def _masked_loss(self, interaction):
        masked = interaction[self.MASK_INDEX]
        states = self.forward(interaction[self.MASK_ITEM_SEQ])
        rows, columns = (interaction[self.POS_ITEMS] > 0).nonzero(as_tuple=True)
        picked = states[rows, masked[rows, columns]]
        targets = {
            self.POS_ITEM_ID: interaction[self.POS_ITEMS][rows, columns],
            self.NEG_ITEM_ID: interaction[self.NEG_ITEMS][rows, columns],
        }
        return self.position_loss(picked, targets)

    def _needed_items(self, interaction, one_pass):
        # RecBole's masked rows hold masks and negatives of their own: adapt everything.
        return super()._needed_items(interaction, one_pass) if one_pass else None
