"""Result files by hand, old and new, for the tests of comparisons."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np

from recbole_llmemb.run.per_user import write_users


def result(folder, name, hit, *, seed=1, new=False, users=None, **other):
    """Write a result file with ``hit@10``; returns its path.

    ``new`` adds what only newer files hold. ``users``, a mapping of user token to value, adds
    a per-user file.
    """
    content = {
        "model": "LLMEmbSASRec",
        "dataset": "toy",
        "seed": seed,
        "best_valid_result": {"hit@10": hit},
        "test_result": {"hit@10": hit, "ndcg@10": hit / 2},
        "groups": {
            "tail_items": {"users": 3, "hit@10": hit / 4, "ndcg@10": hit / 8},
            "head_items": {"users": 7, "hit@10": hit, "ndcg@10": hit},
            "short_users": {"users": 6, "hit@10": hit, "ndcg@10": hit},
            "long_users": {"users": 4, "hit@10": hit, "ndcg@10": hit},
        },
        "seconds": {"train": 10.0, "train_per_epoch": 2.0},
        "epochs": 5,
        "parameters": {"trainable": 1000, "frozen": 0},
    }
    if new:
        content["config"] = {"valid_metric": "NDCG@10", "adapter": "linear", "seed": seed}
        content["curve"] = [
            {"epoch": e, "train_loss": [3.0 - e, 0.5], "valid_score": hit * e, "seconds": e + 1.0}
            for e in range(3)
        ]
        bins = [
            {"from": first, "to": last, "users": n, "hit@10": hit, "ndcg@10": hit / n}
            for first, last, n in ((0, 0, 20), (1, 1, 30), (2, 3, 50))
        ]
        content["bins"] = {"item_popularity": bins, "history_length": bins}
    if users is not None:
        mean = float(np.mean([*users.values()]))
        content["test_result"] = {"hit@10": mean, "ndcg@10": mean / 2}
        file = folder / f"{name}.users.safetensors"
        user_file(file, users)
        content["users_file"] = file.name
    content |= other
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def user_file(path, users):
    """Write a per-user file of ``{token: hit@10}``; NDCG is half of it."""
    tokens = list(users)
    values = np.array([users[token] for token in tokens], dtype=float)
    ids = np.arange(len(tokens))
    counts = np.argsort(np.argsort(tokens))  # the first in the order of tokens has the fewest
    details = SimpleNamespace(
        user_id=ids,
        item_id=ids,
        popularity=counts,
        history=counts,
        values={"hit@10": values, "ndcg@10": values / 2},
    )
    dataset = SimpleNamespace(uid_field="u", iid_field="i")
    dataset.id2token = lambda field, chosen: np.array(
        tokens if field == "u" else [f"i{i}" for i in chosen]
    )
    write_users(path, details, dataset)
