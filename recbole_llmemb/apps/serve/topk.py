"""The best items of many users without a matrix of all scores.

A million items times a thousand users are four gigabytes of scores, of which ten thousand
numbers are wanted. Scores are computed block by block into one buffer that stays in the
processor's cache, and of each block only groups that can hold one of the best are looked into.
"""

from __future__ import annotations

import torch

from recbole_llmemb.evaluation.loaders import ExcludedPairs

# Items per group: less are more maxima to search, more are more items to score again.
_GROUP = 32
# So few scores are made and searched at once.
_FEW = 1 << 17
_CPU_BLOCK, _CPU_QUERIES = 2048, 256
_DEVICE_BLOCK, _DEVICE_QUERIES = 65_536, 1024


def best_products(queries, items, k: int, forbidden: ExcludedPairs | None = None):
    """The k items with the largest inner products, for each query.

    The k best lie in the k groups of items with the largest maxima, so that one maximum per
    group is all that is kept of a block of scores; the items of those groups are scored again.

    Shapes: ``queries`` (b, d).
    ``items`` (n, d): on the same device.
    ``k``: at most n.
    ``forbidden``: what must not be among them, on the CPU.
    Returns scores ``(b, k)``, best first, and positions ``(b, k)`` among the items; of equal scores
    among these the lower position comes first; which of many equal ones are among them is left
    open. Where less than k are allowed, the scores end in -inf.
    """
    if len(queries) * len(items) <= _FEW:
        return best_scores(queries @ items.t(), k, forbidden)
    on_cpu = queries.device.type == "cpu"
    rows, width = (_CPU_QUERIES, _CPU_BLOCK) if on_cpu else (_DEVICE_QUERIES, _DEVICE_BLOCK)
    height = max(1, min(rows, len(queries)))  # of few queries as many scores
    width = min(width * (rows // height), -(-len(items) // _GROUP) * _GROUP)
    parts = queries.split(rows)
    taboos: list[ExcludedPairs | None] = [None] * len(parts)
    if forbidden is not None:
        taboos = [forbidden.of_rows(i * rows, i * rows + len(p)) for i, p in enumerate(parts)]
    maxima = _maxima(parts, items, taboos, queries.new_empty(height, width))
    found = [
        _best_of_groups(part, items, own, width, k, taboo)
        for part, own, taboo in zip(parts, maxima.split(rows), taboos)
    ]
    scores, places = (torch.cat(several) for several in zip(*found))
    return scores, places


def _maxima(parts, items, taboos, buffer):
    """The largest score of each group, ``(b, g)``: group j of a block has columns j, j + w/32, …

    A block of items stays in the cache until all queries have met it.
    """
    width = buffer.shape[1]
    groups = width // _GROUP
    blocks = range(0, len(items), width)
    maxima = buffer.new_empty(sum(len(part) for part in parts), groups * len(blocks))
    for number, begin in enumerate(blocks):
        end = min(begin + width, len(items))
        block = items[begin:end].t()
        if len(parts) > 1:  # products are faster then, and one query would not make up for it
            block = block.contiguous()
        columns = maxima[:, number * groups : (number + 1) * groups].split(len(parts[0]))
        for part, taboo, own in zip(parts, taboos, columns):
            scores = buffer[: len(part)]
            torch.mm(part, block, out=scores[:, : end - begin])
            scores[:, end - begin :] = -torch.inf
            if taboo is not None:
                where = [one.to(buffer.device) for one in taboo.in_block(begin, end)]
                scores[where[0], where[1]] = -torch.inf
            torch.amax(scores.view(len(part), _GROUP, groups), 1, out=own)
    return maxima


def _best_of_groups(queries, items, maxima, width, k, forbidden):
    groups = width // _GROUP
    chosen = maxima.topk(min(k, maxima.shape[1]), dim=1, sorted=False).indices.unsqueeze(1)
    inside = torch.arange(_GROUP, device=chosen.device).view(1, -1, 1) * groups
    places = (chosen // groups * width + chosen % groups + inside).flatten(1)  # (b, 32·k)
    places = places.sort(dim=1).values
    rows = items.index_select(0, places.clamp(max=len(items) - 1).view(-1))
    scores = torch.bmm(rows.view(*places.shape, -1), queries.unsqueeze(2)).squeeze(2)
    out = places >= len(items)
    if forbidden is not None:
        out |= forbidden.has(places, len(items))
    scores.masked_fill_(out, -torch.inf)
    return in_order(scores, places.clamp_(max=len(items) - 1), k)


def best_scores(scores, k: int, forbidden: ExcludedPairs | None = None):
    """As :func:`best_products`, of a whole matrix of scores ``(b, n)``, which is changed."""
    if forbidden is not None:
        scores[forbidden.rows.to(scores.device), forbidden.columns.to(scores.device)] = -torch.inf
    best = scores.topk(k, dim=1, sorted=False)
    return in_order(best.values, best.indices, k)


def in_order(values, places, k):
    """The k best of candidates ``(b, c)``: largest first, of equal ones the lowest place."""
    if values.shape[1] > k:
        best = values.topk(k, dim=1, sorted=False)
        values, places = best.values, places.gather(1, best.indices)
    places, order = places.sort(dim=1)
    values, by_value = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, by_value)
