"""What LLM-SRec reads of a dataset: titles and dates, prompts made of them, training batches.

A prompt (section 4 of LLM-SRec) is a row of codes: 0 or more is a token, :data:`PAD` is padding,
and ``slot(s)`` is the place of the row's vector s. Slot 0 is ``[UserOut]`` or ``[ItemOut]``, whose
state is read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from recbole.data.interaction import Interaction

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.data.histories import POSITION, sampled_users, with_shuffled_histories
from recbole_llmemb.data.loaders import SequenceTrainDataLoader
from recbole_llmemb.data.windows import plan_batches, trim_histories
from recbole_llmemb.encode.shards import hash_lists
from recbole_llmemb.models.settings import LLMSRecSettings
from recbole_llmemb.records.items import open_dataset_items

USER_START = "This user has made a series of purchases in the following order: "
USER_END = ". Based on this sequence of purchases, generate user representation token:"
ITEM_START = "The item title and item embedding are as follows: "
ITEM_END = ", then generate item representation token:"

PAD = -1
# Seconds since 1970 lie here from 1973 to 2128; positions in a sequence do not, nor years.
_SECONDS = (1e8, 5e9)
#: The next item and the random ones of each row, ``(b, 1 + k)``, as rows of the next column.
CANDIDATES = "candidate_rows"
#: The distinct items among them, ``(m,)``.
CANDIDATE_ITEMS = "candidate_items"


def history_text(number: int, title: str, date: str | None = None) -> str:
    """What stands before an item's ``[HistoryEmb]`` in a user prompt.

    ``number``: from 1, the oldest item shown.
    ``date``: ``YYYY-MM-DD``; without it the prompt says nothing of time.
    """
    begin = USER_START if number == 1 else ","
    time = f"Time: {date}, " if date else ""
    return f'{begin}Item No.{number}, {time}"{title}"'


def item_text(title: str) -> str:
    """What stands before ``[HistoryEmb]`` in an item prompt."""
    return f'{ITEM_START}"{title}"'


def slot(number: int) -> int:
    """The code of a row's vector ``number``."""
    return -2 - number


def pad_codes(rows: Iterable[Iterable[int]], left: bool = False) -> torch.Tensor:
    """Prompts as one tensor ``(b, L)``."""
    # By way of arrays: PyTorch takes a list number by number.
    tensors = [torch.frombuffer(array("i", row), dtype=torch.int32) for row in rows]
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(tensors, True, PAD, side).long()


def fill(embeddings: torch.Tensor, codes: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Put vectors into the slots of embedded prompts; a GPU waits for nothing.

    ``embeddings`` (b, L, H): of the tokens, anything elsewhere.
    ``codes`` (b, L): tell where which vector goes.
    ``vectors`` (b, S, H): for slots 0 … S − 1 of each row; gradients flow to them.
    """
    begin = torch.arange(len(codes), device=codes.device).unsqueeze(1) * vectors.shape[1]
    places = begin + (slot(0) - codes).clamp(min=0)
    chosen = vectors.to(embeddings.dtype).flatten(0, 1).index_select(0, places.flatten())
    return torch.where((codes < PAD).unsqueeze(-1), chosen.view_as(embeddings), embeddings)


def recent(items: torch.Tensor, lengths: torch.Tensor, most: int) -> torch.Tensor:
    """The last ``most`` items of right-padded histories ``(b, w)`` of these lengths ``(b,)``.

    Returns ``(b, w')`` with w' ≤ ``most``, padded on the right.
    """
    shown = lengths.clamp(max=most)
    offsets = torch.arange(min(most, items.shape[1]), device=items.device)
    index = ((lengths - shown).unsqueeze(1) + offsets).clamp(max=items.shape[1] - 1)
    return items.gather(1, index) * (offsets < shown.unsqueeze(1))


def item_titles(config, dataset):
    """The title of each item id, cut to ``item_value_max_chars``, or ``missing_title``.

    ``config``: ``item_title_field``; empty: ``title`` or the first of ``item_text_fields``. One
    that comes from a checkpoint knows the titles the model was trained with; a new one is told.
    Returns by item id; the first, padding, is empty.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    named = [name for name in [config["item_title_field"]] if name]
    found = open_dataset_items(path, config, also=named).read()
    fields = named or ["title", *(config["item_text_fields"] or ())]
    chosen = next((name for name in fields if name in found.fields), None)
    if chosen is None:
        raise UserError(
            f"{path} has no field {fields[0]!r}; name the one with the items' titles by "
            f"item_title_field (it has {', '.join(found.fields)}).",
            key="item_title_field",
            where=path,
        )
    cut = config["item_value_max_chars"] or None  # 0: nothing is cut
    none = LLMSRecSettings.of(config).missing_title
    titles = {t: a.get(chosen, none)[:cut] for t, a in zip(found.tokens, found.attributes)}
    tokens = dataset.field2id_token[dataset.iid_field]
    found = ["", *(titles.get(str(token), none) for token in tokens[1:])]
    mark, before = hash_lists(map(str, tokens[1:]), found[1:]), config["item_titles_used"]
    if before and before["fingerprint"] != mark:
        told = f"The titles in {path} (item_title_field: {chosen}) are not those that this model"
        told = f"{told} was trained with, which its prompts read; put those back."
        raise UserError(told, key="item_title_field", where=path)
    config["item_titles_used"] = {"fingerprint": mark}
    return found


def dates_of(times):
    """``YYYY-MM-DD`` of times ``(…)`` in seconds (or milliseconds) since 1970."""
    days = np.floor(_in_seconds(times) / 86_400).astype(np.int64)
    return days.astype("datetime64[D]").astype(str)


def has_dates(config, dataset):
    """Whether prompts name dates: ``prompt_dates``, or whether the time field holds real times.

    A notice says so where it does not: positions in a sequence are not times.
    """
    if config["prompt_dates"] is not None:
        return bool(config["prompt_dates"])
    store = getattr(dataset, "sorted_interactions", None)
    if store is None or dataset.time_field not in store.fields:
        return False
    times = _in_seconds(dataset.time_scaling.times(store.fields[dataset.time_field].numpy()))
    low, high = _SECONDS
    real = times.size > 0 and bool(times.min() >= low and times.max() <= high)
    if not real:
        getLogger().warning(
            f"{dataset.time_field} of {config['dataset']} holds no times in seconds since 1970, "
            "so prompts name no dates; prompt_dates: True or False says otherwise."
        )
    return real


def _in_seconds(times):
    times = np.asarray(times, dtype=np.float64)
    return times / 1000 if times.size and np.abs(times).max() > 1e11 else times


class PairTrainDataLoader(SequenceTrainDataLoader):
    """Batches of (history → next item) pairs of about equal prompt lengths.

    ``train_targets`` says which pairs make an epoch: ``one`` of each user, drawn anew each
    epoch; each user's ``last``; or ``every`` one.

    ``config, dataset, sampler, shuffle``: as for :class:`SequenceTrainDataLoader`.

    ``form``: makes the prompts beside the batch. The model sets it before training.
    """

    def __init__(self, config, dataset, sampler=None, shuffle=True):
        if config["shuffle_train"]:
            dataset = with_shuffled_histories(dataset, config["seed"], config["history_items"])
        super().__init__(config, dataset, sampler, shuffle)
        self.form = None
        self.negatives_per_target = config["negative_items"]
        self.negatives = self._negative_sampler({"distribution": "uniform"})
        self.time_list = dataset.time_field + config["LIST_SUFFIX"]
        self.rows = dataset.inter_feat
        users = self.rows[self.uid_field].numpy()
        order = np.lexsort((self.rows[POSITION].numpy(), users))
        if config["user_sample"]:
            chosen = sampled_users(dataset, config["user_sample"])
            order = order[chosen[users[order]]]
        self.order = order
        _, self.first, self.count = np.unique(users[order], return_index=True, return_counts=True)

    def pairs(self, generator=None):
        """Row numbers of an epoch's pairs."""
        kind, generator = self.config["train_targets"], generator or self.generator
        if kind == "every":
            return self.order
        if kind == "last":
            return self.order[self.first + self.count - 1]
        draw = torch.rand(len(self.first), generator=generator).numpy()
        return self.order[self.first + (draw * self.count).astype(np.int64)]

    def _draw_plan(self):
        generator, size = self.generator, self.config["train_batch_size"]
        pairs = len(self.order if self.config["train_targets"] == "every" else self.first)
        parts = min(self.config["epoch_parts"], max(1, pairs // size))  # none without a batch
        if parts > 1:  # all of them are of one plan, which an interrupted training finds again
            number = self.config["seed"] * 1_000_003 + self.epoch // parts
            generator = torch.Generator().manual_seed(number)
        rows = self.pairs(generator)
        costs = np.ones(len(rows), dtype=np.int64)
        batches = plan_batches(self._sizes(rows), costs, size, generator, self.shuffle)
        begin, end = (len(batches) * (self.epoch % parts + i) // parts for i in (0, 1))
        return [rows[batch] for batch in batches[begin:end]]

    def _sizes(self, rows):
        chosen = self.rows[rows]
        lengths = chosen[self.length_field]
        if self.form is None:
            return lengths.numpy()
        parts = torch.arange(len(rows)).split(65_536)  # histories of all rows would be large
        sizes = [self.form.prompt_sizes(chosen[p][self.list_field], lengths[p]) for p in parts]
        return torch.cat(sizes).numpy()

    def collate(self, index):
        """Build the batch of these rows.

        Shapes: ``index`` (b,).
        Returns RecBole's fields of the rows, histories cut to the longest; :data:`CANDIDATES`,
        :data:`CANDIDATE_ITEMS`; and the prompts.
        """
        batch = self.rows[index].materialize()
        trim_histories(batch, self.config)
        targets = batch[self.iid_field]
        k = self.negatives_per_target
        owners = batch[self.uid_field].repeat_interleave(k)
        drawn = self.negatives.sample(owners, targets.repeat_interleave(k)).view(-1, k)
        candidates = torch.cat([targets.unsqueeze(1), drawn], dim=1)
        items, places = torch.unique(candidates, return_inverse=True)
        columns = dict(batch.interaction) | {CANDIDATES: places, CANDIDATE_ITEMS: items}
        if self.form is not None:
            lists, lengths = batch[self.list_field], batch[self.length_field]
            times = batch.interaction.get(self.time_list)
            columns |= self.form.prompts(lists, lengths, times, items)
        return Interaction(columns)
