# ruff: noqa: F811 (fixtures come by name)
"""Prompts name true dates although RecBole's ml-100k.yaml scales all times to 0..1."""

from pathlib import Path

import numpy as np
import pytest
import recbole
import torch
from llmsrec_fixtures import cf_model, llms, llmsrec  # noqa: F401
from serve_runs import save

from recbole_llmemb import Recommender
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.data.dataset import TimeScaling
from recbole_llmemb.models.llmsrec import prompts
from recbole_llmemb.run.stages import prepare_data

DAY = 86_400


def test_ml_100k_has_the_dates_of_its_file():
    dataset = prepare_data(make_config("LLMEmbSASRec", "ml-100k"), artifacts=False).dataset
    fields = dataset.sorted_interactions.fields
    assert float(fields["timestamp"].max()) == 1  # RecBole scaled them
    assert prompts.has_dates({"prompt_dates": None, "dataset": "ml-100k"}, dataset)
    folder = Path(recbole.__file__).parent / "dataset_example/ml-100k/ml-100k.inter"
    lines = [line.split("\t") for line in folder.read_text().splitlines()[1:]]
    true = {(user, item): int(time) // DAY for user, item, _, time in lines}
    names = (dataset.field2id_token[name][fields[name]] for name in ("user_id", "item_id"))
    dates = prompts.dates_of(dataset.time_scaling.times(fields["timestamp"].numpy()))
    assert len(dates) == 100_000
    days = dates.astype("datetime64[D]").astype(int).tolist()
    assert all(true[user, item] == day for user, item, day in zip(*names, days))


def test_a_midnight_stands_for_its_date():
    days = np.arange(10_957, 16_276)  # 2000 to 2014
    time_scaling = TimeScaling.of(days * DAY)
    scaled = (days - days[0]) / (days[-1] - days[0])
    assert (prompts.dates_of(time_scaling.times(scaled)) == prompts.dates_of(days * DAY)).all()
    assert time_scaling.times(time_scaling.scaled(1.5e9)) == pytest.approx(1.5e9, abs=60)
    same = TimeScaling.of(np.full(3, 1.4e9))  # which RecBole turns into ones
    assert prompts.dates_of(same.times([1.0])) == prompts.dates_of([1.4e9])
    assert same.times(same.scaled(1.5e9)) == pytest.approx(1.5e9)
    assert TimeScaling().times([5.0]).tolist() == TimeScaling().scaled([5.0]).tolist() == [5.0]


@pytest.mark.parametrize("scaling", [{"normalize_all": True}, {"normalize_field": ["timestamp"]}])
def test_prompts_are_those_of_unscaled_times(llmsrec, tiny, scaling):
    file = tiny.folder / "tiny.inter"
    as_it_was = file.read_text()
    lines = [line.split("\t") for line in as_it_was.splitlines()]
    for line in lines[1:]:  # days, so that dates differ
        line[2] = str(int(line[2]) * DAY)
    file.write_text("\n".join(map("\t".join, lines)) + "\n")
    try:
        own = {"item_input": "text", "prompt_dates": True}
        _, plain, *_ = llmsrec(**own)
        _, scaled, model, trainer = llmsrec(**own, **scaling)
    finally:
        file.write_text(as_it_was)
    assert scaled.dataset.time_scaling.span > DAY and plain.dataset.time_scaling == TimeScaling()
    tokens = []
    for data in (plain, scaled):
        rows = data.train.dataset.inter_feat[:20].materialize()
        model.form.time_scaling = data.dataset.time_scaling
        columns = ("item_id_list", "item_length", "timestamp_list")
        tokens.append(model.form.user_prompts(*(rows[name] for name in columns)))
    assert torch.equal(*tokens)


def test_given_histories_are_dated_by_the_clock_of_the_dataset(llmsrec, tmp_path):
    own = {"item_input": "text", "prompt_dates": True}
    asked = {"histories": [["i1", "i2"]], "times": [[DAY * 30, DAY * 31]]}
    runs = llmsrec(**own), llmsrec(**own, normalize_all=True)  # with the same random numbers
    plain, scaled = (Recommender(save(run, tmp_path / f"{n}.pth")) for n, run in enumerate(runs))
    assert scaled.dataset.time_scaling.span > 1 and plain.dataset.time_scaling == TimeScaling()
    expected = plain.recommend(**asked).scores
    torch.testing.assert_close(scaled.recommend(**asked).scores, expected)
    later = asked | {"times": [[DAY * 40, DAY * 41]]}
    assert not torch.allclose(scaled.recommend(**later).scores, expected)
