"""What a decoder makes of the beginnings of prompts, computed once.

Everything before the first slot of a prompt depends on nothing that is trained, so neither do
its keys and values. Those of the item prompts are kept, as far as a budget allows; what all
of them begin with is kept once.
"""

from __future__ import annotations

from os.path import commonprefix

import torch
from tqdm import tqdm


class Prefixes:
    """Keys and values of the beginnings of many prompts.

    ``llm``: one that ``keeps_prefixes``.
    ``rows``: token ids of each beginning; none is empty.
    ``budget``: gigabytes that may be kept. Beginnings beyond it are computed whenever they are
    needed.
    ``batch_size``: beginnings per forward pass.
    """

    def __init__(self, llm, rows, budget, batch_size=64, show_progress=False):
        self.llm = llm
        self.batch_size = batch_size
        self.show_progress = show_progress
        # One token at least is left to each: a row of nothing would be all padding.
        shared = commonprefix([row[:-1] for row in rows]) if rows else []
        self.shared = self._shared_layers(shared)
        self.n_shared = len(shared)
        self.rows = [torch.tensor(row[len(shared) :]) for row in rows]
        self.lengths = torch.tensor([len(row) for row in self.rows])
        self.longest = int(self.lengths.max()) if rows else 0
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.n_kept = self._fitting(budget)
        self._kept = None
        self._on_device = {}

    def _shared_layers(self, shared):
        if not shared:
            return None
        return self.llm.keys_values(torch.tensor([shared], device=self.llm.device))

    def _fitting(self, budget):
        """How many beginnings, from the first on, fit into the budget."""
        if not self.rows:
            return 0
        probe = self.shared or self.llm.keys_values(self.rows[0][None].to(self.llm.device))
        size = sum(part[0, :, 0].numel() * part.element_size() for pair in probe for part in pair)
        ends = self.starts + self.lengths
        return int((ends * size <= budget * 1e9).sum())

    def layers(self, ids):
        """Keys and values of these beginnings, the shared one included.

        ``ids`` (b,): row numbers, on the LLM's device.
        Returns for each layer keys and values ``(b, heads, P, size)``, padded on the right, and the
        mask ``(b, P)``.
        """
        if self.n_kept == 0:
            return self._compute(ids.cpu())
        if self._kept is None:
            self._keep()
        if self.n_kept == len(self.rows):
            return self._gather(ids)
        known = ids.cpu() < self.n_kept  # the device waits here: the budget is too small
        if not known.any():
            return self._compute(ids.cpu())
        found, mask = self._gather(ids.clamp(max=self.n_kept - 1))
        if known.all():
            return found, mask
        fresh, fresh_mask = self._compute(ids.cpu()[~known])
        width = max(mask.shape[1], fresh_mask.shape[1])
        place = (~known).nonzero().squeeze(1).to(ids.device)
        mask = _widen(mask, width, 1).index_copy(0, place, _widen(fresh_mask, width, 1))
        found = [
            tuple(
                _widen(one, width, 2).index_copy(0, place, _widen(other, width, 2))
                for one, other in zip(pair, pair_of_fresh)
            )
            for pair, pair_of_fresh in zip(found, fresh)
        ]
        return found, mask

    def _keep(self):
        """Compute what is kept: beginnings of similar length together."""
        self._kept = []
        order = torch.argsort(self.lengths[: self.n_kept], descending=True)
        batches = order.split(self.batch_size)
        if self.show_progress:
            batches = tqdm(batches, desc="Item prompts")
        total = int(self.lengths[: self.n_kept].sum())
        for batch in batches:
            layers, mask = self._compute(batch, with_shared=False)
            rows, columns = mask.cpu().nonzero(as_tuple=True)
            where = (self.starts[batch][rows] + columns).to(self.llm.device)
            rows, columns = rows.to(self.llm.device), columns.to(self.llm.device)
            for number, pair in enumerate(layers):
                if number == len(self._kept):
                    self._kept.append([p.new_empty(total, p.shape[1], p.shape[3]) for p in pair])
                for kept, part in zip(self._kept[number], pair):
                    kept[where] = part[rows, :, columns]

    def _compute(self, ids, with_shared=True):
        """By the LLM: layers and mask of the beginnings ``ids``, on the CPU."""
        device = self.llm.device
        rows = [self.rows[i] for i in ids.tolist()]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(tokens.shape[1]) < self.lengths[ids].unsqueeze(1)
        tokens, mask = tokens.to(device), mask.long().to(device)
        shared = self.expanded(len(ids))
        layers = self.llm.keys_values(tokens, mask, shared)
        if not with_shared:
            layers = [(k[:, :, self.n_shared :], v[:, :, self.n_shared :]) for k, v in layers]
            return layers, mask
        return layers, torch.cat([mask.new_ones(len(mask), self.n_shared), mask], dim=1)

    def _gather(self, ids):
        starts, lengths = self._moved("starts"), self._moved("lengths")
        # As wide as the longest of all: finding the longest of these would wait for the device,
        # except where there is nothing to wait for.
        chosen = lengths[ids]
        longest = int(chosen.max()) if ids.device.type == "cpu" else self.longest
        offsets = torch.arange(longest, device=ids.device)
        mask = offsets < chosen.unsqueeze(1)
        index = (starts[ids].unsqueeze(1) + offsets) * mask
        layers = []
        for number, pair in enumerate(self._kept):
            parts = [part[index].transpose(1, 2) for part in pair]
            if self.shared is not None:
                common = [c.expand(len(ids), -1, -1, -1) for c in self.shared[number]]
                parts = [torch.cat(both, dim=2) for both in zip(common, parts)]
            layers.append(tuple(parts))
        mask = mask.long()
        return layers, torch.cat([mask.new_ones(len(mask), self.n_shared), mask], dim=1)

    def expanded(self, count):
        """The shared beginning ``count`` times, or None."""
        if self.shared is None:
            return None
        return [tuple(part.expand(count, -1, -1, -1) for part in pair) for pair in self.shared]

    def _moved(self, name):
        if name not in self._on_device:
            self._on_device[name] = getattr(self, name).to(self.llm.device)
        return self._on_device[name]


def _widen(tensor, width, dim):
    """Zeros after the last along ``dim``."""
    missing = width - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)
