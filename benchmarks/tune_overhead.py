"""Eight one-epoch trials through Ray Tune against eight runs one after the other.

    python -m benchmarks.tune_overhead [--repeats=1] [--model=LLMEmbSASRec] [--dataset=ml-100k]

Both sides are commands in processes of their own, from start to end: `recbole-llm tune` with two
trials at a time, and eight times `recbole-llm run`, the same eight learning rates on both, one
thread each. The item table is in the cache before; there is no teacher. A run reads the dataset,
imports everything, and ranks the test set; the search does so once, twice (in two processes), and
once. Scores must be the same on both sides.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import timing

ROOT = Path(__file__).resolve().parents[1]
RATES = [0.0003, 0.0005, 0.0007, 0.001, 0.0014, 0.002, 0.003, 0.005]
LIMIT = 1.5


def command(kind, chosen, *more):
    """The command line of one side."""
    shared = [f"--model={chosen.model}", f"--dataset={chosen.dataset}", "--epochs=1"]
    shared += ["--use_gpu=False", *chosen.settings]
    return [sys.executable, str(ROOT / "run_recbole_llm.py"), kind, *shared, *more]


def call(arguments):
    """Run a command to its end, with one thread, in its own folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr[-2000:]}")


def runs(chosen, turn):
    """Eight runs, one after the other; the validation score of each."""
    scores = {}
    for rate in RATES:
        call(command("run", chosen, f"--learning_rate={rate}", f"--result_json={turn}-{rate}.json"))
        found = json.loads(Path(f"{turn}-{rate}.json").read_text())
        scores[rate] = found["best_valid_result"]["ndcg@10"]
    return scores


def search(chosen, turn):
    """The same through Tune; the validation score of each."""
    space = Path(f"space-{turn}.yaml")
    space.write_text(f"learning_rate: {{choice: {RATES}}}\n")
    more = [f"--space={space}", "--num_samples=8", "--max_concurrent=2", "--scheduler=none"]
    call(command("tune", chosen, *more, "--metric=ndcg@10", "--storage=tune", f"--name={turn}"))
    with open(Path("tune") / str(turn) / "trials.csv") as file:
        return {float(row["learning_rate"]): float(row["ndcg@10"]) for row in csv.DictReader(file)}


def main(argv=None):
    parser = timing.options(__doc__, repeats=1)
    parser.add_argument("--model", default="LLMEmbSASRec")
    parser.add_argument("--dataset", default="ml-100k")
    chosen = timing.start(parser, argv)
    chosen.settings = ["--align_weight=0"] if chosen.model.startswith("LLMEmb") else []
    if chosen.dataset != "ml-100k":
        chosen.settings.append(f"--data_path={chosen.data_path}")
    call(command("run", chosen, "--learning_rate=0.001"))  # table and files into their caches
    sides = {"runs": [], "tune": []}
    for turn in range(chosen.repeats):
        scores = []
        for name, work in (("runs", runs), ("tune", search)):
            began = timing.now()
            scores.append(work(chosen, turn))
            sides[name].append(timing.now() - began)
            print(f"  {name}: {sides[name][-1]:.1f} s; load {os.getloadavg()[0]:.1f}", flush=True)
        same = scores[0] == scores[1]
        print(f"  scores of the eight are {'the same' if same else 'NOT THE SAME'} on both sides")
    ratio = timing.median(sides["runs"]) / timing.median(sides["tune"])
    timing.report("8 one-epoch trials, two at a time", ratio, LIMIT)


if __name__ == "__main__":
    main()
