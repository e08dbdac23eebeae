"""Many ``recbole-llm`` runs as one study: done once each, continued where it stopped, tabled.

A study is a list of runs with names ``GROUP-SEED``. Each writes ``NAME.json`` (the command's
``--result_json``) into the study's folder; runs whose result is there are skipped, and two
processes may work through one study side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = (2020, 2021, 2022)


def options(doc, out):
    """The command line that every study has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--data_path", default="dataset/", help="holds Amazon_Beauty/")
    parser.add_argument("--out", default=ROOT / "benchmarks/results" / out, type=Path)
    parser.add_argument("--only", default="", help="runs whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    return parser


def run(name, arguments, out, program=(str(ROOT / "run_recbole_llm.py"),)):
    """Do one run unless its result is there or another process is at it.

    ``program``: what Python is told to run.
    """
    out = Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    result = out / f"{name}.json"
    if result.is_file():
        return
    lock = out / f"{name}.running"
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    try:
        with open(out / f"{name}.log", "a") as log:
            command = [sys.executable, *program, *arguments]
            command.append(f"--result_json={result}")
            status = subprocess.run(command, cwd=out, stdout=log, stderr=log).returncode
        print(f"{name}: {'done' if status == 0 else f'failed, see {log.name}'}", flush=True)
    finally:
        lock.unlink()


def results(out, names):
    """The results that are there, by group, in the order of ``names``."""
    found: dict = {}
    for name in names:
        file = Path(out) / f"{name}.json"
        if file.is_file():
            found.setdefault(name.rpartition("-")[0], []).append(json.loads(file.read_text()))
    return found


def mean_std(values):
    """``0.1234 ± 0.0012``; one value has no spread to speak of."""
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"


def table(found, columns):
    """Print mean ± std over seeds as a Markdown table.

    Parameters
    ----------
    found : dict of list of dict
        From :func:`results`.
    columns : list of (str, str)
        Group of users or items (as :func:`value` takes it) and metric.
    """
    titles = [f"{group.replace('_', ' ')} {metric}" for group, metric in columns]
    print("| run | seeds | epochs | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 3) + "|")
    for name, runs in found.items():
        cells = [mean_std([value(r, *column) for r in runs]) for column in columns]
        epochs = "/".join(str(r["epochs"]) for r in runs)
        print(f"| {name} | {len(runs)} | {epochs} | {' | '.join(cells)} |")


def value(result, group, metric):
    """One number of a result file; ``valid`` before a group takes it from the validation set."""
    if group == "valid":
        return result["best_valid_result"][metric]
    if group.startswith("valid "):
        return result["valid_groups"][group.removeprefix("valid ")][metric]
    return (result["test_result"] if group == "all" else result["groups"][group])[metric]


def main(parser, jobs, columns):
    """Do what the options ask for with ``jobs(data_path)``, pairs of name and arguments."""
    chosen = parser.parse_args()
    wanted = [job for job in jobs(chosen.data_path) if chosen.only in job[0]]
    if chosen.list:
        for _, arguments in wanted:
            print("recbole-llm", *arguments)
    elif chosen.table:
        table(results(chosen.out, [name for name, _ in wanted]), columns)
    else:
        for name, arguments in wanted:
            run(name, arguments, chosen.out)
