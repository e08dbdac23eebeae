"""A dataset that is not UTF-8, by every way in: as its UTF-8 twin."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from encode_models import make_model, write_dataset

from recbole_llmemb.cli import encode, scft
from recbole_llmemb.config.recbole_config import make_config
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.build_or_load import job_from_config
from recbole_llmemb.models.llmsrec.prompts import item_titles
from recbole_llmemb.records.items import item_titles as shown_titles
from recbole_llmemb.run.stages import prepare_data
from recbole_llmemb.run.teacher import teacher_config
from recbole_llmemb.table import EmbeddingTable


@pytest.fixture
def twins(tiny, tmp_path):
    """Folders of one dataset in UTF-8 and in Latin-1, whose users and texts have accents."""
    for encoding in ("utf-8", "latin-1"):
        folder = tmp_path / encoding / "tiny"
        folder.mkdir(parents=True)
        for file in ("tiny.inter", "tiny.item"):
            text = (tiny.folder / file).read_text().replace("\tthe", "\tthé").replace("\nu", "\nü")
            (folder / file).write_bytes(text.encode(encoding))
    return tmp_path


@pytest.fixture
def latin(twins, tiny_settings):
    """``latin(model, **settings)``: a configuration of the Latin-1 one."""

    def config(model, **settings):
        # Backbones with features have all items of the file, of which the table lacks some.
        settings = {"encoding": "latin-1", "epochs": 1, "llm_missing": "mean", **settings}
        values = tiny_settings(model, **settings) | {"data_path": str(twins / "latin-1")}
        return make_config(model, "tiny", overrides=values)

    return config


@pytest.mark.parametrize(
    ("model", "own"),
    [
        ("LLMEmbSASRec", {}),
        ("LLMEmbSASRecF", {"selected_features": ["title"]}),
        ("LLMEmbS3Rec", {"item_attribute": "categories"}),
        ("SASRec", {"load_col": None}),
    ],
)
def test_models_read_it(latin, model, own):
    dataset = prepare_data(latin(model, **own)).dataset
    assert all(user.startswith("ü") for user in dataset.field2id_token["user_id"][1:])
    if model != "LLMEmbSASRec" and "item_attribute" not in own:
        assert "thé" in dataset.field2id_token["title"]


def test_what_a_run_reads_beside_it(latin):
    own = {"loss_type": "CE", "item_title_field": "title"}  # as LLM-SRec has them
    config = latin("LLMEmbSASRec", align_weight=0.1, **own)
    data = prepare_data(config)
    prepare_data(teacher_config(config, 8))
    prompts = list(job_from_config(config).items.texts)
    assert prompts and all("thé" in prompt for prompt in prompts)
    assert all(title.startswith("thé") for title in item_titles(config, data.dataset)[1:])
    assert all(title.startswith("thé") for title in shown_titles(config).values())


def test_stock_teachers_read_it(latin):
    prepare_data(teacher_config(latin("LLMEmbSASRec", align_teacher="NARM"), 8))


@pytest.mark.parametrize("how", ["option", "file"])
def test_encode_makes_the_same_table(twins, capsys, how):
    encoder = f"--encoder={make_model(twins / 'encoder', 'llama')}"
    Path("latin.yaml").write_text("encoding: latin-1\n")
    told = "--encoding=latin-1" if how == "option" else "--config_files=latin.yaml"
    for name, more in (("utf-8", []), ("latin-1", [told])):
        place = [f"--data_path={twins / name}", f"--out={twins / f'table-{name}'}"]
        assert encode.main(["--dataset=tiny", "--device=cpu", encoder, *place, *more]) == 0
    one, two = (EmbeddingTable.load(twins / f"table-{name}") for name in ("utf-8", "latin-1"))
    assert one.tokens == two.tokens and torch.equal(one.vectors, two.vectors)
    with pytest.raises(UserError, match=r"tiny\.item .* utf-8 .* encoding"):
        encode.main(["--dataset=tiny", encoder, f"--data_path={twins / 'latin-1'}", "--out=t"])


@pytest.mark.parametrize("told", ["--encoding=latin-1", "--config_files=latin.yaml"])
def test_scft_reads_the_same_texts(twins, monkeypatch, told):
    jobs = []

    def run_job(job, *_, **__):
        jobs.append(job)
        return SimpleNamespace(manifest={"before": None, "after": None}, path="")

    monkeypatch.setattr("recbole_llmemb.scft.job.run_job", run_job)
    encoder = f"--encoder={make_model(twins / 'encoder', 'llama')}"
    Path("latin.yaml").write_text("encoding: latin-1\nscft_learning_rate: 1e-4\n")
    for name, more in (("utf-8", []), ("latin-1", [told])):
        scft.main(["--dataset=tiny", "--out=a", encoder, f"--data_path={twins / name}", *more])
    one, two = (list(job.text.items.texts) for job in jobs)
    assert one == two
    if "yaml" in told:
        assert jobs[1].settings.scft_learning_rate == 1e-4


def test_a_settings_file_that_is_not_there_is_refused(tmp_path):
    write_dataset(tmp_path / "data")
    with pytest.raises(UserError, match="latin.yaml"):
        encode.main(["--dataset=tiny", f"--data_path={tmp_path / 'data'}", "--out=t",
                     "--config_files=latin.yaml"])  # fmt: skip
