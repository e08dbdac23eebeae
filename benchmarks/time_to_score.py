"""Wall clock to RecBole SASRec's best validation NDCG@10 on ml-100k, full ranking.

    python -m benchmarks.time_to_score [--recbole_epochs=30] [--recbole_minutes=25]
        [--kinds id best …]

RecBole's side is its own SASRec at its defaults: cross-entropy, hidden 64, length 50, batch
2,048, augmented prefixes. Ours is LLMEmbSASRec in sequence mode: with the same loss, length
and sizes, except for what OURS below says, and with each preset as it is. Both clocks count
training and validation.

RecBole's curve takes long, so it is kept in results/ with the machine, the number of threads
and the clock it was measured with, and taken from there while they are the same; --fresh
measures it anew. A curve cut by --recbole_minutes gives RecBole's best within that budget only.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from benchmarks import subjects, timing
from recbole_llmemb.config.recbole_config import preset_file
from recbole_llmemb.config.values import read_settings

LIMIT = 10.0
DATASET = "ml-100k"
CURVE = Path(__file__).resolve().parent / "results" / "recbole_sasrec_ml100k_curve.json"
#: Settings of ours under which the score is reached soon, and the item embeddings tried.
OURS = {"loss_type": "CE", "learning_rate": 0.002, "train_batch_size": 16, "align_weight": 0}
KINDS = {
    "id": {"item_embedding": "id"},
    "table": {"item_embedding": "table"},
    "trainable": {
        "item_embedding": "table",
        "llm_freeze": False,
        "adapter_hidden_size": 0,
        "llm_pca_dim": 64,
    },
}
PRESETS = ("id_only", "id_best", "longtail", "best_longtail", "best")
#: Validations without a better one after which ours is given up.
PATIENCE = 20
SEEDS = (2020, 2021, 2022)


class _Enough(Exception):
    """Ends a training from inside its callback."""


def curve(subject, enough) -> list[dict]:
    """Train until ``enough(points)``; one point per validation.

    Returns
    -------
    list of dict
        ``epoch``, ``seconds`` since the start of training, and ``score``.
    """
    points: list[dict] = []
    began = timing.now()

    def after_validation(epoch, score):
        seconds = timing.now() - began
        points.append({"epoch": epoch + 1, "seconds": round(seconds, 2), "score": float(score)})
        line = f"    epoch {epoch + 1:>3}: {seconds:>7.1f} s  NDCG@10 {score:.4f}"
        print(line, file=sys.stderr, flush=True)
        if enough(points):
            raise _Enough

    with contextlib.suppress(_Enough):
        subject.trainer.fit(
            subject.data.train,
            subject.data.valid,
            verbose=False,
            saved=False,
            callback_fn=after_validation,
        )
    return points


def recbole_curve(chosen) -> dict:
    """RecBole's curve, measured or as kept."""
    here = {"machine": timing.machine(), "clock": timing.clock(), "load": timing.load()}
    if CURVE.is_file() and not chosen.fresh:
        kept = json.loads(CURVE.read_text())
        if all(kept[key] == here[key] for key in ("machine", "clock")):
            epochs = len(kept["points"])
            print(f"\nRecBole SASRec: the kept curve of {epochs} epochs ({kept['load']})")
            return kept
        of = f"{kept['machine']}; {kept['clock']}"
        print(f"\nThe kept curve is of another machine or clock ({of}): measuring anew.")
    budget = f"{chosen.recbole_epochs} epochs and {chosen.recbole_minutes:g} minutes"
    print(f"\nRecBole SASRec, at most {budget}")
    subject = subjects.stock(
        DATASET, loss_type="CE", epochs=chosen.recbole_epochs, stopping_step=10, **subjects.SIZES
    )
    found = {**here, "complete": False, "points": []}

    def enough(points):
        CURVE.parent.mkdir(exist_ok=True)
        # Kept at every epoch, so that an interrupted curve is not lost.
        CURVE.write_text(json.dumps({**found, "points": points}, indent=1) + "\n")
        return points[-1]["seconds"] > 60 * chosen.recbole_minutes

    found["points"] = curve(subject, enough)
    best = max(found["points"], key=lambda point: point["score"])
    found["complete"] = len(found["points"]) - found["points"].index(best) > 10
    CURVE.write_text(json.dumps(found, indent=1) + "\n")
    return found


def reached(points, score):
    """The first point at which a curve has this score, or None."""
    return next((point for point in points if point["score"] >= score), None)


def settings_of(kind, changes) -> dict:
    """What is set on our side: a preset as it is, or RecBole's sizes and the kind's items."""
    if kind in PRESETS:
        return {"loss_type": "CE", **read_settings(preset_file(kind)), **changes}
    return {**subjects.SIZES, **KINDS[kind], **OURS, **changes}


def main(argv=None):
    parser = timing.options(__doc__, repeats=3)
    parser.add_argument("--recbole_epochs", type=int, default=30)
    parser.add_argument("--recbole_minutes", type=float, default=25.0)
    parser.add_argument("--fresh", action="store_true", help="measure RecBole's curve anew")
    parser.add_argument("--max_epochs", type=int, default=300, help="of ours")
    parser.add_argument("--target", type=float, help="look at ours alone, against this score")
    kinds = [*KINDS, *PRESETS]  # those that are no default take hours
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=kinds)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="ours, changed")
    chosen = timing.start(parser, argv)
    if chosen.target is None:
        stock = recbole_curve(chosen)
        best = max(stock["points"], key=lambda point: point["score"])
        how = "best" if stock["complete"] else "best within the budget"
        print(
            f"  {how}: NDCG@10 {best['score']:.4f} after {best['seconds']:.0f} s"
            f" (epoch {best['epoch']} of {len(stock['points'])})"
        )
    else:
        best = {"score": chosen.target}
    target = best["score"]

    changes = {}
    for pair in chosen.set:
        key, _, value = pair.partition("=")
        changes[key] = json.loads(value) if value[:1] in "0123456789-{[tfn" else value
    for kind in chosen.kinds:
        settings = settings_of(kind, changes)
        print(f"\nLLMEmbSASRec, {kind}: {settings}")
        times = []
        for seed in SEEDS[: chosen.repeats]:
            given = {"epochs": chosen.max_epochs, "stopping_step": PATIENCE, **settings}
            subject = subjects.ours(DATASET, seed=seed, **given)
            points = curve(subject, lambda points: reached(points, target) is not None)
            there = reached(points, target)
            if there is None:
                top = max(points, key=lambda point: point["score"])
                print(
                    f"  seed {seed}: not reached in {len(points)} epochs, best {top['score']:.4f}"
                    f" after {top['seconds']:.1f} s, epoch {top['epoch']}"
                )
            else:
                print(
                    f"  seed {seed}: {there['score']:.4f} after {there['seconds']:.1f} s,"
                    f" epoch {there['epoch']}"
                )
            times.append(float("inf") if there is None else there["seconds"])
        middle = timing.median(times)
        print(f"  time to {target:.4f}: median {middle:.1f} s")
        if chosen.target is None:
            timing.report(f"LLMEmbSASRec, {kind}", best["seconds"] / middle, LIMIT)


if __name__ == "__main__":
    main()
