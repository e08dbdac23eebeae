"""User prompts of a batch, made on the CPU while the device computes."""

from __future__ import annotations

from os.path import commonprefix

import numpy as np
import torch

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.models.llmsrec import texts
from recbole_llmemb.models.llmsrec.prompt_batch import PAD, Prompts, pad_rows, slot

# Titles that a tokeniser may join with the quotation mark before them in different ways.
_BEGINNINGS = ("A b", "the", "7", "(x", "#1", "'s", '"', ".5", "&", "É", " ", "")


def recent(items, lengths, most, more=()):
    """The last items of right-padded histories.

    Shapes: ``items`` (b, w), ``lengths`` (b,).
    ``most``: how many items are shown.
    ``more`` (b, w): cut in the same way.
    Returns ``(b, w')`` items with w' ≤ ``most``, their number ``(b,)``, and ``more``.
    """
    shown = lengths.clamp(max=most)
    offsets = torch.arange(min(most, items.shape[1]), device=items.device)
    index = (lengths - shown).unsqueeze(1) + offsets
    inside = offsets < shown.unsqueeze(1)
    index = index.clamp(max=items.shape[1] - 1)
    rows = [values.gather(1, index) * inside for values in (items, *more)]
    return rows[0], shown, *rows[1:]


class TableBook:
    """Prompts of ``item_input: table``: two slots per item, its table row's and its CF vector's.

    ``most``: items of a history that are shown.
    ``left``: whether padding comes first.

    ``shared``: Tokens that all prompts begin with, left out of them where the LLM keeps prefixes.
    """

    def __init__(self, llm, most, left=False):
        self.most, self.left = most, left
        self.n_slots = 2 * most + 1
        start, end = llm.tokenise([texts.USER_START.rstrip(), texts.USER_END])
        self.shared = llm.head + start if llm.keeps_prefixes else []
        start = [] if self.shared else llm.head + start
        rows = []
        for count in range(most + 1):
            slots = [slot(number) for number in range(1, 2 * count + 1)]
            rows.append(torch.tensor([*start, *slots, *end, slot(0), *llm.tail]))
        self.codes = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
        self.sizes = (self.codes != PAD).sum(1)
        longest = int(self.sizes.max()) + len(self.shared)
        if llm.longest is not None and longest > llm.longest:
            raise UserError(
                f"history_items is {most}, which takes {longest} tokens, but the LLM reads "
                f"{llm.longest}; set it lower, or name another LLM (llm_model)."
            )

    def sizes_of(self, items, lengths, times=None):
        """Tokens of each prompt (nearly), ``(b,)``: what is to be batched together."""
        return self.sizes[lengths.clamp(max=self.most)]

    def prompts(self, items, lengths, times=None):
        """Prompts of right-padded histories ``(b, w)``, on the CPU."""
        shown = lengths.clamp(max=self.most)
        width = int(self.sizes[shown].max())
        return Prompts.from_codes(self.codes[shown, :width], self.n_slots, self.left)


class TextBook:
    """Prompts of ``item_input: text``: the paper's, one slot per item after its title.

    What stands before a slot is tokenised as a whole, as a tokeniser would do that knew the
    slot as a special token, and once: it is kept by place, item and date.

    ``titles``: by item id.
    ``most``: items of a history that are shown.
    ``clock``: turns times of histories into seconds, whose dates are named; without one, none are.
    ``left``: whether padding comes first.
    ``share``: whether what all prompts begin with is left out where the LLM keeps prefixes.
    """

    _MOST_KEPT = 2_000_000  # pieces; more are forgotten and tokenised again

    def __init__(self, llm, titles, most, clock=None, left=False, share=True):
        self.llm, self.titles, self.most, self.left = llm, titles, most, left
        self.clock = clock
        self.n_slots = most + 1
        self.limit = llm.longest
        end = [*llm.tokenise([texts.USER_END])[0], slot(0), *llm.tail]
        # Fixed pieces: the first is the special tokens, then one per slot, then the end.
        self._fixed = [[slot(number)] for number in range(1, most + 1)] + [end]
        self.title_sizes = torch.tensor([len(ids) for ids in llm.tokenise(titles)])
        self.shared = []
        if llm.keeps_prefixes and share:
            # Of days from 1970 to 2090, so that no digit of the years is shared.
            probes = [self._text(1, t, 4001 * i) for i, t in enumerate(_BEGINNINGS)]
            # A token less than what these share: titles may begin with anything.
            self.shared = llm.head + commonprefix(llm.tokenise(probes))[:-1]
        self._around = len(llm.tokenise([self._text(2, "", 0)])[0]) + 1
        self._forget()

    def _text(self, number, title, day):
        text = texts.history_text(number, title, texts.date_of(day) if self.clock else None)
        return texts.USER_START + text if number == 1 else text

    def _forget(self):
        self.keys = np.empty(0, dtype=np.int64)  # sorted
        self.numbers = np.empty(0, dtype=np.int64)  # of the pieces of the keys
        self.flat, self.starts, self.lengths = torch.empty(0, dtype=torch.long), [], []
        self._store(self._fixed)

    def _store(self, pieces):
        """Add pieces to the flat array; returns the first one's number."""
        first, begin = len(self.starts), len(self.flat)
        lengths = torch.tensor([len(piece) for piece in pieces])
        starts = begin + lengths.cumsum(0) - lengths
        more = torch.tensor([code for piece in pieces for code in piece], dtype=torch.long)
        self.flat = torch.cat([self.flat, more])
        self.starts = torch.cat([torch.as_tensor(self.starts, dtype=torch.long), starts])
        self.lengths = torch.cat([torch.as_tensor(self.lengths, dtype=torch.long), lengths])
        return first

    def _pieces(self, places, items, days):
        """Piece numbers of (place from 1, item, day), flat ``int64`` arrays of equal length."""
        if len(self.keys) > self._MOST_KEPT:
            self._forget()
        keys = ((days + 1_000_000) * len(self.titles) + items) * (self.most + 1) + places
        wanted, where = np.unique(keys, return_index=True)
        new = ~np.isin(wanted, self.keys, assume_unique=True)
        if new.any():
            rows = where[new]
            parts = zip(places[rows].tolist(), items[rows].tolist(), days[rows].tolist())
            ids = self.llm.tokenise([self._text(p, self.titles[i], d) for p, i, d in parts])
            ids = [self._begun(one) if place == 1 else one for place, one in zip(places[rows], ids)]
            first = self._store(ids)
            merged = np.concatenate([self.keys, wanted[new]])
            numbers = np.concatenate([self.numbers, first + np.arange(int(new.sum()))])
            order = np.argsort(merged, kind="stable")
            self.keys, self.numbers = merged[order], numbers[order]
        return self.numbers[np.searchsorted(self.keys, keys)]

    def _begun(self, ids):
        """The first piece of a prompt: without what is shared, or with the special tokens."""
        ids = self.llm.head + ids
        if not self.shared:
            return ids
        if ids[: len(self.shared)] != self.shared:
            raise UserError(
                "The tokenizer of this LLM joins the instruction and the title after it in a way "
                "that cannot be cut apart; set prefix_cache: 0."
            )
        return ids[len(self.shared) :]

    def sizes_of(self, items, lengths, times=None):
        """Tokens of each prompt (nearly), ``(b,)``: what is to be batched together."""
        shown_items, shown = recent(items, lengths, self.most)
        # Padding has no title, and no token.
        return self.title_sizes[shown_items].sum(1) + shown * self._around

    def prompts(self, items, lengths, times=None):
        """Prompts of right-padded histories ``(b, w)`` and their times, on the CPU.

        A prompt that is longer than the LLM reads loses its oldest items.
        """
        days = torch.zeros_like(items)
        if self.clock is not None and times is not None:
            days = texts.days_of(self.clock.times(times.numpy()))
            days = torch.from_numpy(days)
        most = lengths.clamp(max=self.most)
        while True:
            codes, sizes = self._codes(items, lengths, most, days)
            if self.limit is None or int(sizes.max()) + len(self.shared) <= self.limit:
                return Prompts.from_codes(codes, self.n_slots, self.left)
            over = (sizes + len(self.shared) > self.limit) & (most > 1)
            if not over.any():
                raise UserError(
                    f"The LLM reads {self.limit} tokens, which no user prompt fits into; name "
                    "another one (llm_model), or use item_input: table."
                )
            most = most - over.long()

    def _codes(self, items, lengths, most, days):
        # Each row shows its last `most` items: drop what comes before, then number from 1.
        width = max(1, int(most.max()))
        offsets = torch.arange(width)
        index = ((lengths - most).unsqueeze(1) + offsets).clamp_(max=items.shape[1] - 1)
        inside = offsets < most.unsqueeze(1)
        rows, columns = inside.nonzero(as_tuple=True)
        places = (columns + 1).numpy()
        shown, when = items.gather(1, index)[inside].numpy(), days.gather(1, index)[inside].numpy()
        found = torch.from_numpy(self._pieces(places, shown, when))
        # A row's segments: for each item its piece and its slot; then the end.
        table = torch.full((len(items), 2 * width + 1), -1)
        table[rows, 2 * columns] = found
        # The vectors are those of `recent`, which may show more items than fit here.
        behind = (lengths.clamp(max=self.most) - most)[rows]
        table[rows, 2 * columns + 1] = columns + behind
        table[torch.arange(len(items)), 2 * most] = self.most
        segments = table[table >= 0]
        counts = (table >= 0).sum(1)
        sizes = self.lengths[segments]
        owners = torch.repeat_interleave(torch.arange(len(items)), counts)
        total = torch.zeros(len(items), dtype=torch.long).index_add_(0, owners, sizes)
        begin = torch.repeat_interleave(self.starts[segments] - sizes.cumsum(0) + sizes, sizes)
        flat = self.flat[begin + torch.arange(len(begin))]
        return pad_rows(total.cumsum(0) - total, total, flat), total
