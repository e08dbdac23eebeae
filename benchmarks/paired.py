"""Whether checkpoints differ by more than chance: paired over the users of the test set.

    python -m benchmarks.paired --data_path=DIR NAME=RUN[,RUN …] NAME=RUN[,RUN …] …

Each RUN is a checkpoint or the result file of its run, the runs of a NAME its seeds. Their test
users are ranked as each run ranked them with the history kept, and with it removed. Each NAME is
then compared with the first: the values of a user are averaged over seeds, and a paired t-test is
made over the users. ``recbole-llm compare`` does the same for runs with ``--save_users=True``;
this needs their checkpoints alone.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks import study
from benchmarks.measures_study import MEASURES
from recbole_llmemb.apps.compare.significance import paired_p
from recbole_llmemb.evaluation.groups import GroupEvaluator
from recbole_llmemb.evaluation.ranking import GroupCollector, evaluate
from recbole_llmemb.run.restore import restore
from recbole_llmemb.run.saved import read

METRIC = "ndcg@10"


def per_user(run, measure, data_path=None):
    """Test users ``(n_users,)`` of a run, as internal ids in rising order, and what each scores."""
    state = read(run)
    changes = {"exclude_history": measure, "metrics": ["NDCG"], "topk": [10]}
    changes |= {"valid_metric": METRIC, "user_sample": None}
    where = None if state["config"]["dataset"] == "ml-100k" else data_path
    restored = restore(run, state=state, data_path=where, changes=changes, loaders=True)
    evaluator = GroupEvaluator(restored.config, GroupCollector(restored.config))
    evaluator.keep_details = True
    evaluator.collector.data_collect(restored.data.train)
    evaluator.know_groups(restored.data.train._dataset)
    evaluate(restored.config, restored.model, restored.data.test, evaluator, False)
    order = np.argsort(evaluator.details.user_id, kind="stable")
    return evaluator.details.user_id[order], evaluator.details.values[METRIC][order]


def compare(groups, data_path=None):
    """Markdown, a row for each measure and name.

    ``groups``: ``{name: [run]}``, of which the first is what the others are compared with.
    """
    yield f"| history | run | seeds | {METRIC} | to the first | p |"
    yield "|---|---|---|---|---|---|"
    for how, measure in MEASURES.items():
        users, first = None, None
        for name, runs in groups.items():
            found = [per_user(run, measure, data_path) for run in runs]
            users = found[0][0] if users is None else users
            if not all(np.array_equal(users, each) for each, _ in found):
                raise SystemExit(f"{name}: its runs, or they and the first's, test other users")
            values = np.mean([each for _, each in found], axis=0)
            first = values if first is None else first
            mean = study.mean_std([each.mean() for _, each in found])
            told = ["", ""]
            if first is not values:
                p = paired_p(values, first)
                told = [f"{values.mean() / first.mean():.3f}", f"{p:.1g}"]
            yield f"| {how} | {name} | {len(runs)} | {mean} | {told[0]} | {told[1]} |"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_path", default="dataset/", help="holds Amazon_Beauty/")
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN[,RUN …]")
    options = parser.parse_args(argv)
    groups = {}
    for each in options.runs:
        name, _, runs = each.partition("=")
        groups[name] = runs.split(",")
    for line in compare(groups, options.data_path):
        print(line, flush=True)


if __name__ == "__main__":
    main()
