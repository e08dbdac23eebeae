"""How well items are ranked that a model has never met: ``holdout_items``.

The items were taken out of the dataset before anything was made of it
(:mod:`recbole_llmemb.data.splits`), so the model has no row for them. Here they join the
catalog the way a new item would, by their text, and each is looked for among the others.
"""

from __future__ import annotations

import math

import torch

from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.terminal import text_table
from recbole_llmemb.data.splits import histories, met_before
from recbole_llmemb.evaluation.metrics import KEEP_TARGET, excluded_of, history_in_words
from recbole_llmemb.models.contract import is_checkpoint
from recbole_llmemb.models.losses import Items

METRICS = ("hit", "ndcg", "mrr")
#: Among which items, and who ranks.
CATALOGS, RANKERS = ("all_items", "cold_items"), ("model", "random", "popularity")
# Scores that differ by less than this share of the largest are equal.
_SLACK = 2**-20


def summary(held) -> str:
    """What was held out, in one line."""
    met = f"{held.interactions:,} interactions, {len(held):,} of which are targets"
    return f"{len(held.tokens):,} items held out with their {met}"


def require_cold_ranking(config, model_class) -> None:
    """Refuse, before any work, models whose scores are not made of an item's embedding."""
    why = model_class.why_not("cold_items", config)
    if why:
        told = f"holdout_items ranks by the items' embeddings alone, but {why}"
        raise UserError(f"{told}; take another model, or leave it empty.", key="holdout_items")
    knowing = {"pre_model_path": config["pre_model_path"]}
    if model_class.needs(config).teacher and is_checkpoint(config["align_teacher"]):
        knowing["align_teacher"] = config["align_teacher"]
    for key, path in knowing.items():
        if path:
            advice = "set align_weight: 0" if key == "align_teacher" else "leave it empty"
            told = f"{key} {path} may know the items that holdout_items takes out"
            raise UserError(f"{told}; name a model, or {advice}.", key=key)


def evaluate_cold(config, data, model) -> dict:
    """Rank the held-out items where they are what a user took next.

    ``config``: of the run; ``topk``, ``metrics`` and ``eval_batch_size`` count.
    ``data``: with what was held out.
    ``model``: trained.
    Returns the ``cold_items`` of a result file: what was held out, and for each of
    :data:`CATALOGS` the number of candidates and the metrics of each of :data:`RANKERS`, see
    :func:`expected_metrics`.
    """
    train = data.train._dataset
    held = train.held_out
    asked = [name.lower() for name in config["metrics"]]
    names = [name for name in METRICS if name in asked] or ["hit", "ndcg"]
    model.eval()
    with torch.no_grad(), preserve_random_state():
        unseen = model.unseen(config, train, held.tokens)
        ranks = _ranks(config, train, model, unseen)
    n_cold = len(held.tokens)
    block = {
        "holdout_items": config["holdout_items"],
        "holdout_seed": config["holdout_seed"],
        "holdout_targets": config["holdout_targets"],
        "items": n_cold,
        "interactions": held.interactions,
        "targets": len(held),
        "target_items": len(set(held.items.tolist())),
        "without_history": held.without_history,
        "exclude_history": excluded_of(config),
    }
    for name, candidates in zip(CATALOGS, (train.item_num - 1 + n_cold, n_cold)):
        allowed, *of_rankers = ranks[name]
        block[name] = {"candidates": candidates}
        for ranker, (greater, equal) in zip(RANKERS, zip(of_rankers[::2], of_rankers[1::2])):
            found = expected_metrics(greater, equal, candidates, names, config["topk"], allowed)
            block[name][ranker] = found
    return block


def expected_metrics(greater, equal, candidates, names, topk, allowed=None) -> dict:
    """Metrics when equal scores are put in random order, averaged over all such orders.

    ``greater``, ``equal`` (n,): of each target, how many candidates score higher, and how many the
    same, itself included.
    ``candidates``: how many there are.
    ``names``: of :data:`METRICS`.
    ``allowed`` (n,): how many candidates each target has, itself included, where they are not the
    same.
    Returns ``{"hit@10": …, …, "auc": …}``. ``auc`` is the chance that the target is ranked above
    another candidate drawn at random: 0.5 for a ranking that knows nothing. None where there is no
    target, or where a list of ``k`` holds every candidate.
    """
    greater, equal = greater.double(), equal.double()
    found: dict = {}
    for name in names:
        for k in topk:
            found[f"{name}@{k}"] = None
            if len(greater) and k < candidates:
                # Total gain of the first r ranks, and so of any run of ranks.
                gain = torch.tensor([0.0] + [_gain(name, r) for r in range(1, k + 1)])
                total = gain.double().cumsum(0)
                first, last = greater.clamp(max=k).long(), (greater + equal).clamp(max=k).long()
                found[f"{name}@{k}"] = ((total[last] - total[first]) / equal).mean().item()
    found["auc"] = None
    if len(greater) and candidates > 1:
        allowed = torch.full_like(greater, candidates) if allowed is None else allowed.double()
        below = (allowed - greater - equal + (equal - 1) / 2).clamp(min=0)
        found["auc"] = (below / (allowed - 1).clamp(min=1)).mean().item()
    return found


def _ranks(config, dataset, model, unseen):
    """How the targets are ranked, for each catalog ``(1 + 2 · rankers, n)``.

    First how many candidates each target has, itself included; then, of each ranker, how many of
    them score higher and how many the same. A target that is no candidate has more above it than
    there are items in a list.
    """
    held, known = dataset.held_out, model.items()
    warm = known.vectors[1:].float()
    bias = None if known.bias is None else torch.cat([known.bias[1:], unseen.bias])
    items = Items(torch.cat([warm, unseen.vectors]), bias)
    popularity = torch.zeros(len(items.vectors))
    popularity[: len(warm)] = dataset.training_counts(dataset)[0][1:]
    popularity = popularity.to(warm.device)
    none = torch.zeros(1 + 2 * len(RANKERS), 0, dtype=torch.long)
    parts: dict = {name: [none] for name in CATALOGS}
    for begin in range(0, len(held), config["eval_batch_size"]):
        chosen = slice(begin, begin + config["eval_batch_size"])
        batch = histories(held, dataset, chosen).to(warm.device)
        scores = model.item_scores.scores(model.states(batch).float(), items)
        scores = scores.nan_to_num(nan=-torch.inf)
        targets = torch.from_numpy(held.items[chosen]).to(warm.device).unsqueeze(1) + len(warm)
        open_to = torch.ones_like(scores, dtype=torch.bool)
        if config["exclude_history"]:
            met = met_before(held, dataset, chosen)
            open_to[tuple(part.to(warm.device) for part in met)] = False
        if config["exclude_history"] == KEEP_TARGET:
            open_to.scatter_(1, targets, True)
        missed = ~open_to.gather(1, targets).squeeze(1)
        for name, first in zip(CATALOGS, (0, len(warm))):
            allowed = open_to[:, first:]
            counts = [allowed.sum(1) + missed]
            nothing = scores.new_zeros(1)
            for by in (scores, nothing, popularity):  # in the order of RANKERS
                by = by.expand_as(scores)
                own, among = by.gather(1, targets), by[:, first:]
                # Equal rows of a batch that is cut otherwise differ in their last digits.
                slack = _SLACK * by.masked_fill(by.isinf(), 0).abs().amax(1, keepdim=True)
                above = among > own + slack
                greater = (above & allowed).sum(1)
                equal = (~above & (among >= own - slack) & allowed).sum(1)
                most = allowed.shape[1]
                counts += [greater.masked_fill(missed, most), equal.masked_fill(missed, 1)]
            parts[name].append(torch.stack(counts).cpu())
    return {name: torch.cat(several, dim=1) for name, several in parts.items()}


def cold_table(block) -> str:
    """Lay out a ``cold_items`` block as one plain-text table."""
    who = {"model": "this model", "random": "random", "popularity": "popularity"}
    columns = list(block["all_items"]["model"])
    where = {"all_items": "all {:,} items", "cold_items": "the {:,} held-out items"}
    excluded = block["exclude_history"]
    history = f", {history_in_words(excluded)}" if excluded else ""
    rows = []
    for name in CATALOGS:
        title = where[name].format(block[name]["candidates"])
        rows.append([f"among {title}{history}", *[""] * len(columns)])
        rows += [
            [f"  {who[ranker]}", *(_cell(block[name][ranker][key]) for key in columns)]
            for ranker in RANKERS
        ]
    head = f"{block['items']:,} held-out items, {block['targets']:,} targets"
    return text_table(rows, [head, *columns])


def _gain(name, rank):
    return {"hit": 1.0, "ndcg": 1 / math.log2(rank + 1), "mrr": 1 / rank}[name]


def _cell(value):
    return "-" if value is None else f"{value:.4f}"
