"""How items come before the LLM: as rows of a table, or as text; and the prompts of both forms."""

from __future__ import annotations

from array import array
from os.path import commonprefix

import torch
from torch import nn

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.models.llmsrec import prompts
from recbole_llmemb.models.llmsrec.layers import learned_token, slot_projection, standardized
from recbole_llmemb.models.llmsrec.llm import PrefixKVCache
from recbole_llmemb.models.llmsrec.prompts import history_text, item_text, pad_codes, recent, slot
from recbole_llmemb.models.settings import LLMSRecSettings

#: Columns of a batch with the prompts of its users and of its items.
USER_PROMPT, ITEM_PROMPT = "user_prompt", "item_prompt"
# Titles that a tokenizer may join with the quotation mark before them in different ways, and dates
# that have no digit of their years in common.
_BEGINNINGS = ("A b", "the", "7", "(x", "#1", "'s", '"', ".5", "&", "É", " ", "")
_MOST_KEPT = 500_000  # texts whose tokens are known; more are forgotten and tokenized again
_DATES = prompts.dates_of([86_400.0 * 4001 * number for number in range(len(_BEGINNINGS))])


class _Form(nn.Module):
    """What both forms have: f_I, ``[UserOut]``, and the way of a user prompt through the LLM.

    ``time_scaling``: of the times of histories, if user prompts name dates.
    ``shared_prefix_tokens``: what all user prompts begin with, left out of them: a decoder reads it
    once.
    """

    time_scaling = None
    size_key, slots_per_item = "history_items", 2

    def __init__(self, config, llm, teacher):
        super().__init__()
        self.llm, self.most = llm, config[self.size_key]
        self.left = config["llm_padding_side"] == "left"
        if self.left and not llm.supports_kv_prefix:
            told = "llm_padding_side is 'left', which is for decoders; leave it at 'right'."
            raise UserError(told, key="llm_padding_side")
        vectors = teacher.item_embeddings
        if config["cf_standardize"]:
            vectors = standardized(vectors)
        self.register_buffer("cf_items", vectors, persistent=False)
        self.history_projection = slot_projection(vectors.shape[1], llm.width, llm.embedding_std)
        self.user_out = learned_token(llm.width, llm.embedding_std)
        self.shared_prefix_tokens, self._shared_prefix = [], None

    def prompts(self, items, lengths, times, candidates):
        """Columns of a batch: its users' prompts, and those of its candidates ``(m,)``, if any."""
        return {USER_PROMPT: self.user_prompts(items, lengths, times)}

    def user_states(self, items, lengths, codes):
        """The LLM's states at ``[UserOut]``, ``(b, H)``.

        Shapes: ``lengths`` (b,).
        ``items`` (b, w): right-padded histories.
        ``codes``: from :meth:`user_prompts`.
        """
        vectors = self._history_vectors(recent(items, lengths, self.most))
        vectors = torch.cat([self.user_out.expand(len(items), 1, -1), vectors], dim=1)
        return self.llm.states(codes, vectors, self.beginning(items.device))

    def beginning(self, device):
        """Keys and values of what all user prompts begin with, which is read once."""
        if self.shared_prefix_tokens and self._shared_prefix is None:
            tokens = torch.tensor([self.shared_prefix_tokens], device=device)
            self._shared_prefix = self.llm.keys_values(tokens)
        return self._shared_prefix


class TableForm(_Form):
    """``item_input: table``: an item is its table row and its CF vector, each in a slot.

    Item representations come from both without the LLM, so ranking all items is one product.
    """

    def __init__(self, config, llm, teacher, table):
        super().__init__(config, llm, teacher)
        self.register_buffer("table", table, persistent=False)
        self.table_projection = slot_projection(table.shape[1], llm.width, llm.embedding_std)
        self.item_width = table.shape[1] + self.cf_items.shape[1]
        begin, end = llm.tokenize([prompts.USER_START.rstrip(), prompts.USER_END])
        begin = llm.head + begin
        if llm.supports_kv_prefix:
            self.shared_prefix_tokens, begin = begin, []
        end = [*end, slot(0), *llm.tail]
        counts = range(self.most + 1)
        slots = [range(1, self.slots_per_item * n + 1) for n in counts]
        self._rows = [[*begin, *map(slot, numbers), *end] for numbers in slots]
        self._sizes = torch.tensor([len(row) for row in self._rows])
        longest = int(self._sizes.max()) + len(self.shared_prefix_tokens)
        if longest > llm.max_prompt_tokens:
            told = f"{self.size_key} is {self.most}, which takes {longest} tokens"
            advice = "set it lower, or name another LLM (llm_model)"
            reads = f"the LLM reads {llm.max_prompt_tokens}"
            raise UserError(f"{told}, but {reads}; {advice}.", key=self.size_key)

    def prompt_sizes(self, items, lengths):
        """Tokens of each user's prompt, ``(b,)``: what is to be batched together."""
        return self._sizes[lengths.clamp(max=self.most)]

    def user_prompts(self, items, lengths, times=None):
        """Codes of the prompts of right-padded histories ``(b, w)``."""
        shown = lengths.clamp(max=self.most).tolist()
        return pad_codes([self._rows[count] for count in shown], self.left).to(items.device)

    def _history_vectors(self, shown):
        rows = self.table_projection(self.table[shown].float())
        own = self.history_projection(self.cf_items[shown])
        return torch.stack([rows, own], dim=2).flatten(1, 2)

    def item_states(self, ids, codes=None):
        """What the item head reads: table row beside CF vector, ``(m, D + d)``."""
        return torch.cat([self.table[ids].float(), self.cf_items[ids]], dim=1)

    def encode_catalog(self, head, show_progress=False):
        """Item representations of the whole catalog, padding left out, ``(n_items - 1, s)``."""
        ids = torch.arange(1, len(self.table), device=self.table.device)
        return torch.cat([head(self.item_states(part)) for part in ids.split(8192)])


class CausalForm(TableForm):
    """``causal_pass``: an item is one slot, and the LLM's state there is the user's after it."""

    size_key, slots_per_item = "MAX_ITEM_LIST_LENGTH", 1

    def __init__(self, config, llm, teacher, table):
        if not llm.supports_kv_prefix:
            told = "causal_pass is True, but this LLM cannot read from left to right"
            raise UserError(f"{told}; name a decoder, or a BERT (llm_model).", key="causal_pass")
        super().__init__(config, llm, teacher, table)
        self.user_out = None
        self.dropout = nn.Dropout(LLMSRecSettings.of(config).input_dropout)

    def position_states(self, items, lengths):
        """The LLM's states after each item of right-padded histories ``(b, w)``, ``(b, w, H)``."""
        vectors = self.table_projection(self.dropout(self.table[items].float()))
        vectors = vectors + self.history_projection(self.dropout(self.cf_items[items]))
        mask = (torch.arange(items.shape[1], device=items.device) < lengths.unsqueeze(1)).long()
        states = self.llm.position_states(vectors, mask, self.beginning(items.device))
        return self.dropout(states)

    def user_states(self, items, lengths, codes=None):
        """The LLM's states after the last item, ``(b, H)``."""
        shown = recent(items, lengths, self.most)
        lengths = lengths.clamp(max=self.most)
        states = self.position_states(shown[:, : int(lengths.max())], lengths)
        return states[torch.arange(len(items), device=items.device), lengths - 1]

    def user_prompts(self, items, lengths, times=None):
        """None: histories are read as they are."""
        return None

    def item_states(self, ids, codes=None):
        """As of the table form."""
        return self.dropout(super().item_states(ids))


class TextForm(_Form):
    """``item_input: text``: the paper's prompts; the LLM reads every item.

    Each item is read once per call. Of decoders, what stands before an item's ``[HistoryEmb]`` is
    read once and for all.

    ``titles``: by item id.
    """

    def __init__(self, config, llm, teacher, titles, time_scaling=None):
        super().__init__(config, llm, teacher)
        self.titles, self.time_scaling, self._known = titles, time_scaling, {}
        self.item_out = learned_token(llm.width, llm.embedding_std)
        self.item_width = llm.width
        self.batch_size = config["llm_batch_size"]
        user_end, item_end = llm.tokenize([prompts.USER_END, prompts.ITEM_END])
        self._user_end = array("i", [*user_end, slot(0), *llm.tail])
        self._item_end = array("i", [slot(1), *item_end, slot(0), *llm.tail])
        self._title_sizes = torch.tensor([len(ids) for ids in llm.tokenize(titles)])
        dates = _DATES if time_scaling else [None] * len(_BEGINNINGS)
        self._around = len(llm.tokenize([history_text(2, "", dates[0])])[0]) + 1
        if llm.supports_kv_prefix and config["prefix_cache"]:
            probes = [history_text(1, title, date) for title, date in zip(_BEGINNINGS, dates)]
            # A token less than what these share: titles may begin with anything.
            self.shared_prefix_tokens = llm.head + commonprefix(llm.tokenize(probes))[:-1]
        begun = [row.tolist() for row in self._item_beginnings(range(1, len(titles)))]
        self._sizes = torch.tensor([len(row) for row in begun])
        self._check_sizes(self._sizes + len(self._item_end))
        self.prefixes = None
        if llm.supports_kv_prefix:
            own = config["prefix_cache"], self.batch_size, config["show_progress"]
            self.prefixes = PrefixKVCache(llm, begun, *own)

    def _tokens(self, texts):
        """Token ids of texts, one after the other; those that were met before are known."""
        if len(self._known) > _MOST_KEPT:
            self._known.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for text, ids in zip(new, self.llm.tokenize(new)):
            self._known[text] = array("i", ids)
        return map(self._known.get, texts)

    def _item_beginnings(self, ids):
        head, texts = array("i", self.llm.head), [item_text(self.titles[item]) for item in ids]
        return [head + tokens for tokens in self._tokens(texts)]

    def _check_sizes(self, sizes):
        most = self.llm.max_prompt_tokens
        over = (sizes > most).nonzero().flatten().tolist()
        if over:
            raise UserError(
                f"{len(over)} of {len(sizes)} items have titles too long for the LLM, which reads "
                f"{most} tokens ({self.titles[over[0] + 1][:40]!r}…); set item_value_max_chars "
                "lower, or name another LLM (llm_model).",
                key="item_value_max_chars",
            )

    def prompts(self, items, lengths, times, candidates):
        """As of the base; candidates have prompts, too."""
        users = super().prompts(items, lengths, times, candidates)
        return users | {ITEM_PROMPT: self.item_prompts(candidates)}

    def prompt_sizes(self, items, lengths):
        """Tokens of each user's prompt (nearly), ``(b,)``: what is to be batched together."""
        # Padding has no title, and no token.
        sizes = self._title_sizes[recent(items, lengths, self.most)].sum(1)
        return sizes + lengths.clamp(max=self.most) * self._around

    def user_prompts(self, items, lengths, times=None):
        """Codes of the prompts of right-padded histories ``(b, w)`` with their times, if dated.

        A prompt that is longer than the LLM reads loses its oldest items.
        """
        dates = None
        if self.time_scaling is not None:
            if times is None:
                told = (
                    "The prompts of this LLMSRec name dates, but the histories come without times"
                )
                raise UserError(f"{told}; give each item its time.", key="prompt_dates")
            dates = prompts.dates_of(self.time_scaling.times(times.cpu().numpy()))
        histories = []
        for row, (ids, length) in enumerate(zip(items.tolist(), lengths.tolist())):
            when = [None] * length if dates is None else dates[row, :length].tolist()
            histories.append(list(zip(ids[:length], when))[-self.most :])
        rows = self._user_rows(histories)
        for row, history in enumerate(histories):
            dropped = 0
            while len(rows[row]) > self.llm.max_prompt_tokens:
                dropped += 1
                if dropped == len(history):
                    told = f"The LLM reads {self.llm.max_prompt_tokens} tokens, fewer than a prompt"
                    advice = "name another one (llm_model), or use item_input: table"
                    raise UserError(f"{told}; {advice}.", key="llm_model")
                (rows[row],) = self._user_rows([history[dropped:]], dropped)
        n_shared = len(self.shared_prefix_tokens)
        if any(row[:n_shared].tolist() != self.shared_prefix_tokens for row in rows):
            told = "The LLM's tokenizer joins an instruction and a title; set prefix_cache: 0."
            raise UserError(told, key="prefix_cache")
        return pad_codes([row[n_shared:] for row in rows], self.left).to(items.device)

    def _user_rows(self, histories, dropped=0):
        """Codes of whole prompts of histories, which are lists of (item, date).

        What stands before a slot is tokenized as a whole, as by a tokenizer that knew the slot as a
        special token.

        ``dropped``: how many items are left out before the first.
        """
        texts = [
            history_text(number, self.titles[item], date)
            for history in histories
            for number, (item, date) in enumerate(history, start=1)
        ]
        tokens, rows = self._tokens(texts), []
        for history in histories:
            row = array("i", self.llm.head)
            for number in range(1, len(history) + 1):
                row += next(tokens)
                row.append(slot(dropped + number))
            rows.append(row + self._user_end)
        return rows

    def item_prompts(self, ids):
        """Codes of the prompts of items ``(m,)``; of decoders, only their ends."""
        begun = [array("i")] * len(ids) if self.prefixes else self._item_beginnings(ids.tolist())
        return pad_codes([row + self._item_end for row in begun], self.left).to(ids.device)

    def _history_vectors(self, shown):
        return self.history_projection(self.cf_items[shown])

    def item_states(self, ids, codes=None):
        """The LLM's states at ``[ItemOut]`` of the items ``(m,)``, ``(m, H)``.

        ``ids`` (m,): None of them padding.
        ``codes``: from :meth:`item_prompts`, which otherwise is asked.
        """
        codes = self.item_prompts(ids) if codes is None else codes
        own = self.history_projection(self.cf_items[ids]).unsqueeze(1)
        vectors = torch.cat([self.item_out.expand(len(ids), 1, -1), own], dim=1)
        begun = self.prefixes.layers(ids - 1) if self.prefixes else ()
        return self.llm.states(codes, vectors, *begun)

    def encode_catalog(self, head, show_progress=False):
        """Item representations of the whole catalog, padding left out, ``(n_items - 1, s)``."""
        order = torch.argsort(self._sizes, descending=True)
        batches = order.to(self.cf_items.device).split(self.batch_size)
        batches = progress_bar(batches, "Items", disable=not show_progress)
        found = torch.cat([head(self.item_states(batch + 1)) for batch in batches])
        return torch.empty_like(found).index_copy_(0, order.to(found.device), found)
