"""Fine-tune an encoder so that a dataset's items tell apart (LoRA).

  recbole-llm scft --dataset=ml-100k --steps=300 --out=adapters/ml-100k
  recbole-llm scft --dataset=mine --data_path=data --encoder=Qwen/Qwen3-0.6B --out=adapters/mine
  torchrun --nproc_per_node=4 run_recbole_llm.py scft --dataset=mine --out=adapters/mine

Encode with it: recbole-llm encode --adapter=DIRECTORY, or --llm_adapter=DIRECTORY of any run.
An interrupted run continues at its last checkpoint when the same command is given again; an
adapter that is there already is found, not trained again.
"""

from __future__ import annotations

from tabulate import tabulate

from recbole_llmemb import scft
from recbole_llmemb.cli.encode import ENCODER, DatasetOptions, item_file_of, settings_for, with_text
from recbole_llmemb.cli.options import Options, taken
from recbole_llmemb.core.checked import option
from recbole_llmemb.core.files import refuse_inputs
from recbole_llmemb.scft.settings import ScftSettings

_TRAINING = {name: name.removeprefix("scft_") for name in ScftSettings.model_fields if "_" in name}


class ScftOptions(DatasetOptions):
    """What the command does beside training."""

    out: str = option(..., "adapter directory to make")
    overwrite: bool = option(False, "replace an adapter that is there")
    resume: bool = option(True, "continue an interrupted run of the same command, or begin again")
    figure: str | None = option(
        None, "draw the items' map before and after (.png, .pdf, .svg)", metavar="FILE"
    )
    dataset: str = option(..., "its items are learned")


def build_parser() -> Options:
    """The options of ``recbole-llm scft``."""
    parser = with_text(Options("scft", __doc__).add(ScftOptions), ENCODER)
    return parser.add(ScftSettings, names=_TRAINING, group="training")


def main(argv: list[str]) -> int:
    """Run ``recbole-llm scft``."""
    typed = build_parser().typed(argv)
    options = taken(ScftOptions, typed)
    folder = item_file_of(options.dataset, options.data_path).parent
    place = {"dataset": options.dataset, "data_path": str(folder)}
    config = settings_for(options, typed) | place
    if options.figure:
        scft.check_figure(options.figure)

    job = scft.job_from_config(config)
    refuse_inputs(options.figure, [job.text.item_file, job.text.settings.llm_encoder])
    result = scft.run_job(job, options.out, overwrite=options.overwrite, resume=options.resume)
    if not job.processes.is_main:
        return 0
    measured = [(when, result.manifest[when]) for when in ("before", "after")]
    rows = [
        [when, f"{row['top1']:.1%}", f"{row['alignment']:.4f}", f"{row['uniformity']:.3f}"]
        for when, row in measured
        if row
    ]
    if rows:
        titles = ["held-out items", "other view found", "alignment", "uniformity"]
        aligned = ["left", *["right"] * 3]
        print("\n" + tabulate(rows, titles, "plain", disable_numparse=True, colalign=aligned))
    if options.figure:
        scft.draw(job, result.path, options.figure)
        print(f"figure:  {options.figure}")
    print(f"adapter: {result.path}")
    return 0
