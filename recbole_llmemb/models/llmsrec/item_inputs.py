"""How items come before the LLM: as rows of a table, or as text."""

from __future__ import annotations

import torch
from torch import nn
from tqdm import tqdm

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.llmsrec import texts
from recbole_llmemb.models.llmsrec.layers import learnt_token, slot_projection, standardised
from recbole_llmemb.models.llmsrec.prefix import Prefixes
from recbole_llmemb.models.llmsrec.prompt_batch import Prompts, pad_rows, slot
from recbole_llmemb.models.llmsrec.prompt_builder import TableBook, TextBook, recent


class _Form(nn.Module):
    """What both forms have: f_I, ``[UserOut]``, and the way of a user prompt through the LLM."""

    def __init__(self, config, llm, teacher):
        super().__init__()
        self.llm, self.most = llm, config["history_items"]
        vectors = standardised(teacher.item_embeddings)
        self.register_buffer("cf_items", vectors, persistent=False)
        self.history_projection = slot_projection(vectors.shape[1], llm.width, llm.spread)
        self.user_out = learnt_token(llm.width, llm.spread)
        self._begun = None

    def user_states(self, items, lengths, prompts):
        """The LLM's states at ``[UserOut]``, ``(b, H)``.

        Shapes: ``lengths`` (b,).
        ``items`` (b, w): right-padded histories.
        ``prompts``: from the form's ``book``.
        """
        shown, _ = recent(items, lengths, self.most)
        vectors = self._slots(shown)
        missing = self.book.n_slots - vectors.shape[1]
        vectors = nn.functional.pad(vectors, (0, 0, 0, missing))
        prefix = mask = None
        if self.book.shared:
            if self._begun is None:
                tokens = torch.tensor([self.book.shared], device=items.device)
                self._begun = self.llm.keys_values(tokens)
            count = len(items)
            prefix = [tuple(p.expand(count, -1, -1, -1) for p in pair) for pair in self._begun]
            mask = prompts.mask.new_ones(count, len(self.book.shared))
        return self.llm.states(prompts, vectors, prefix, mask)

    def _slots(self, shown):
        raise NotImplementedError

    def _with_end(self, count, vectors):
        """``[UserOut]`` before the vectors of a history, slot 0 before slots 1, 2, …"""
        return torch.cat([self.user_out.expand(count, 1, -1), vectors], dim=1)


class TableForm(_Form):
    """``item_input: table``: an item is its table row and its CF vector, each in a slot.

    Item representations come from both without the LLM, so ranking all items is one product.
    """

    def __init__(self, config, llm, teacher, table, left=False):
        super().__init__(config, llm, teacher)
        self.register_buffer("table", table, persistent=False)
        self.table_projection = slot_projection(table.shape[1], llm.width, llm.spread)
        self.book = TableBook(llm, self.most, left)
        self.item_width = table.shape[1] + self.cf_items.shape[1]

    def _slots(self, shown):
        rows = self.table_projection(self.table[shown].float())
        own = self.history_projection(self.cf_items[shown])
        both = torch.stack([rows, own], dim=2).flatten(1, 2)
        return self._with_end(len(shown), both)

    def item_states(self, ids):
        """What the item head reads: table row beside CF vector, ``(m, D + d)``."""
        return torch.cat([self.table[ids].float(), self.cf_items[ids]], dim=1)

    def all_item_states(self, head, show_progress=False):
        """Item representations of the whole catalogue, padding left out, ``(n_items - 1, s)``."""
        ids = torch.arange(1, len(self.table), device=self.table.device)
        return torch.cat([head(self.item_states(part)) for part in ids.split(8192)])


class TextForm(_Form):
    """``item_input: text``: the paper's prompts; the LLM reads every item.

    Each item is read once per call. Where the LLM keeps prefixes, what stands before an item's
    ``[HistoryEmb]`` is read once and for all.

    ``titles``: by item id.
    ``clock``: of the times of histories, if user prompts are to name dates.
    """

    def __init__(self, config, llm, teacher, titles, clock=None, left=False):
        super().__init__(config, llm, teacher)
        self.left = left
        self.item_out = learnt_token(llm.width, llm.spread)
        share = bool(config["prefix_cache"])
        self.book = TextBook(llm, titles, self.most, clock, left, share)
        self.item_width = llm.width
        self.batch_size = config["llm_batch_size"]
        end = [slot(1), *llm.tokenise([texts.ITEM_END])[0], slot(0), *llm.tail]
        begun = llm.tokenise([texts.item_text(title) for title in titles[1:]])
        begun = [llm.head + ids for ids in begun]
        self._check_lengths([len(ids) + len(end) for ids in begun], titles)
        self.prefixes = None
        if llm.keeps_prefixes:
            self.prefixes = Prefixes(
                llm,
                begun,
                config["prefix_cache"],
                self.batch_size,
                config["show_progress"],
            )
            begun = [[]] * len(begun)
        rows = [[], *(ids + end for ids in begun)]
        self._flat = torch.tensor([code for row in rows for code in row])
        self._lengths = torch.tensor([len(row) for row in rows])
        self._starts = self._lengths.cumsum(0) - self._lengths

    def _check_lengths(self, sizes, titles):
        over = [i for i, size in enumerate(sizes, start=1) if size > (self.llm.longest or size)]
        if over:
            first = titles[over[0]]
            raise UserError(
                f"{len(over)} of {len(sizes)} items have titles too long for the LLM, which reads "
                f"{self.llm.longest} tokens ({first[:40]!r}… has {len(first):,} characters); set "
                "item_value_max_chars lower, or name another LLM (llm_model)."
            )

    def _slots(self, shown):
        return self._with_end(len(shown), self.history_projection(self.cf_items[shown]))

    def item_prompts(self, ids):
        """Prompts of items ``(m,)``, on the CPU; without their beginnings if those are kept."""
        codes = pad_rows(self._starts[ids], self._lengths[ids], self._flat)
        return Prompts.from_codes(codes, 2, self.left)

    def item_states(self, ids, prompts=None):
        """The LLM's states at ``[ItemOut]`` of the items ``(m,)``, ``(m, H)``.

        ``ids`` (m,): None of them padding.
        ``prompts``: from :meth:`item_prompts`, which otherwise is asked.
        """
        if prompts is None:
            prompts = self.item_prompts(ids.cpu()).to(ids.device)
        own = self.history_projection(self.cf_items[ids]).unsqueeze(1)
        vectors = torch.cat([self.item_out.expand(len(ids), 1, -1), own], dim=1)
        if self.prefixes is None:
            return self.llm.states(prompts, vectors)
        return self.llm.states(prompts, vectors, *self.prefixes.layers(ids - 1))

    def all_item_states(self, head, show_progress=False):
        """Item representations of the whole catalogue, padding left out, ``(n_items - 1, s)``."""
        lengths = self._lengths if self.prefixes is None else self.prefixes.lengths
        lengths = lengths[1:] if self.prefixes is None else lengths
        order = torch.argsort(lengths, descending=True) + 1
        batches = order.split(self.batch_size)
        if show_progress:
            batches = tqdm(batches, desc="Items")
        device = self.cf_items.device
        found = torch.cat([head(self.item_states(batch.to(device))) for batch in batches])
        return torch.empty_like(found).index_copy_(0, order.to(device) - 1, found)
