"""``recbole-llm encode``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from encode_models import make_model, write_dataset

from recbole_llmemb.cli.encode import item_file_of, main
from recbole_llmemb.core.errors import TableError, UserError
from recbole_llmemb.encode.build_or_load import job_from_config
from recbole_llmemb.encode.job import EncodeJob
from recbole_llmemb.table import EmbeddingTable


@pytest.fixture
def command(tmp_path):
    write_dataset(tmp_path / "data")
    encoder = make_model(tmp_path / "encoder", "llama")
    return [
        "--dataset=tiny",
        f"--data_path={tmp_path / 'data'}",
        f"--encoder={encoder}",
        f"--out={tmp_path / 'out'}",
        "--device=cpu",
    ]


def test_encode(command, tmp_path, capsys):
    options = ["--pooling=last", "--fields=title,brand", "--prompt=A thing:", "--batch_size=2"]
    assert main([*command, *options, "--max_length=20", "--normalize", "--shard_size=2"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 5 items × 16, 4 different texts, 4 encoded now, " in out
    table = EmbeddingTable.load(tmp_path / "out")
    assert table.manifest["pooling"] == "last"
    assert table.manifest["fields"] == ["title", "brand"]
    assert table.manifest["prompt"] == "A thing:"
    assert np.allclose(table.vectors.norm(dim=1), 1, atol=1e-5)
    # Again, then otherwise.
    assert main([*command, *options, "--max_length=20", "--normalize"]) == 0
    assert "cache hit" in capsys.readouterr().out
    with pytest.raises(TableError, match="--overwrite"):
        main(command)
    assert main([*command, "--overwrite", "--pca_dim=2"]) == 0
    assert EmbeddingTable.load(tmp_path / "out").width == 2


def test_import(tmp_path, capsys):
    np.save(tmp_path / "v.npy", np.eye(4, 6, dtype=np.float32))
    (tmp_path / "t.txt").write_text("a\nb\nc\nd\n")
    args = [f"--import={tmp_path / 'v.npy'}", f"--out={tmp_path / 'out'}"]
    with pytest.raises(TableError, match="--tokens"):
        main(args)
    assert main([*args, f"--tokens={tmp_path / 't.txt'}"]) == 0
    assert "4 items × 6, imported in" in capsys.readouterr().out
    assert EmbeddingTable.load(tmp_path / "out").tokens == ["a", "b", "c", "d"]
    assert main([*args, f"--tokens={tmp_path / 't.txt'}"]) == 0  # which is there already
    np.save(tmp_path / "v.npy", 2 * np.eye(4, 6, dtype=np.float32))
    with pytest.raises(TableError, match="--overwrite"):
        main([*args, f"--tokens={tmp_path / 't.txt'}"])
    assert main([*args, f"--tokens={tmp_path / 't.txt'}", "--pca_dim=2", "--overwrite"]) == 0
    assert EmbeddingTable.load(tmp_path / "out").width == 2


def test_pickles_are_said_to_be_trusted(tmp_path):
    import pickle

    (tmp_path / "v.pkl").write_bytes(pickle.dumps(np.eye(2, 3)))
    (tmp_path / "t.txt").write_text("a\nb\n")
    args = [
        f"--import={tmp_path / 'v.pkl'}",
        f"--tokens={tmp_path / 't.txt'}",
        f"--out={tmp_path / 'out'}",
    ]
    with pytest.raises(TableError, match="--i-trust-this-pickle"):
        main(args)
    with pytest.warns(UserWarning, match="pickle"):
        assert main([*args, "--i-trust-this-pickle"]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "needs one of --dataset.* --import"),
        (["--dataset=a", "--import=b"], "got --dataset and --import"),
        (["--dataset=a", "--items=b.csv"], "got --dataset and --items"),
        (["--dataset=gone"], "dataset 'gone' has no item file .*--data_path"),
        (["--dataset=ml-100k", "--pca_dim=0"], "--pca_dim is 0"),
        (["--dataset=ml-100k", "--fields=plot"], "no field 'plot'"),
        (["--dataset=ml-100k", "--encoder=./gone"], "no encoder directory ./gone"),
        (["--import=gone.npy"], "no file gone.npy"),
        (["--import=v.npy", "--tokens=t.txt", "--normalize"], "--normalize has no effect with"),
        (["--import=v.npy", "--encoder=gone"], "--encoder has no effect with --import"),
        (["--import=v.npy", "--config_files=gone"], "--config_files has no effect with --import"),
        (["--items=i.csv", "--tokens=t.txt"], "--tokens has no effect with --items"),
        (["--items=i.csv", "--data_path=data"], "--data_path has no effect with --items"),
        (["--dataset=ml-100k", "--i-trust-this-pickle"], "--i-trust-this-pickle has no effect"),
    ],
)
def test_user_errors(args, message, tmp_path):
    with pytest.raises(UserError, match=message):
        main([*args, f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "token"),
    [(["--outt=x"], "--out"), ([], "--out"), (["--out=x", "--batch_size=many"], "--batch_size")],
)
def test_options_that_are_none(args, token):
    with pytest.raises(UserError, match=token):
        main(args)


def test_bundled_dataset():
    path = item_file_of("ml-100k", None)
    assert path.is_file() and "dataset_example" in str(path)


@pytest.fixture
def job_of(tmp_path, monkeypatch):
    """``job_of(options)``: what the command would encode."""
    from recbole_llmemb.encode import job as job_module

    jobs = []

    def stop(job, *args, **kwargs):
        jobs.append(job)
        raise InterruptedError

    monkeypatch.setattr(job_module, "run_job", stop)

    def of(options):
        with pytest.raises(InterruptedError):
            main([*options, f"--out={tmp_path / 'out'}"])
        return jobs[-1]

    return of


def test_defaults_of_the_dataset_are_those_of_run(job_of):
    """A table encoded by hand is the one that ``run`` would build."""
    from recbole_llmemb.config.recbole_config import defaults

    folder = item_file_of("ml-100k", None).parent
    config = {**defaults("LLMEmbSASRec", "ml-100k"), "dataset": "ml-100k", "data_path": folder}
    assert job_of(["--dataset=ml-100k"]).key == job_from_config(config).key


def test_settings_of_files_are_those_of_run(tmp_path, job_of, caplog):
    """All that decides the vectors, not the text alone; what is typed comes before it."""
    path = write_dataset(tmp_path / "data")
    settings = {
        "llm_encoder": str(make_model(tmp_path / "encoder", "llama")),
        "llm_dtype": "bfloat16",
        "llm_pooling": "last",
        "llm_max_length": 9,
        "llm_normalize": True,
        "llm_batch_size": 3,
        "item_value_max_chars": 5,
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    place = [f"--data_path={tmp_path / 'data'}", f"--config_files={tmp_path / 'mine.yaml'}"]
    job = job_of(["--dataset=tiny", *place])
    config = {**settings, "dataset": "tiny", "data_path": path.parent}
    wanted = job_from_config({**config, "item_prompt": job.prompt[0]})
    assert job.key == wanted.key and job.settings.llm_batch_size == 3
    typed = job_of(
        ["--dataset=tiny", *place, "--dtype=float32", "--no-normalize", "--fields=title"]
    )
    keys = typed.settings
    assert (keys.llm_dtype, keys.llm_normalize) == ("float32", False)
    assert keys.item_text_fields == ["title"] and keys.llm_pooling == "last"
    assert typed.key != job.key
    (tmp_path / "mine.yaml").write_text("item_text_feilds: [title]\nllm_pca_dim: 4\nn_layers: 1\n")
    job_of(["--dataset=tiny", *place])
    told = {message.split()[0]: message for message in caplog.messages}
    assert told.keys() == {"item_text_feilds", "llm_pca_dim"} and "--pca_dim" in told["llm_pca_dim"]
    assert "item_text_fields" in told["item_text_feilds"]
    (tmp_path / "mine.yaml").write_text("llm_dtype: int4\n")
    with pytest.raises(UserError, match="llm_dtype"):
        main(["--dataset=tiny", *place, f"--out={tmp_path / 'out'}"])


def test_batches_are_as_large_as_those_of_run(job_of):
    from recbole_llmemb.config.recbole_config import defaults

    default = defaults("", "")["llm_batch_size"]
    ours = EncodeJob(item_file="x").settings.llm_batch_size
    assert job_of(["--dataset=ml-100k"]).settings.llm_batch_size == ours == default


def test_module_imports_nothing_heavy():
    """``--help`` and a mistyped option answer at once. (The package itself is a stand-in here:
    what it imports is its own affair.)"""
    folder = str(Path(__file__).parents[2])
    script = (
        "import sys, types; package = types.ModuleType('recbole_llmemb');"
        f"package.__path__ = [{os.path.join(folder, 'recbole_llmemb')!r}];"
        "sys.modules['recbole_llmemb'] = package;"
        "import recbole_llmemb.cli.encode;"
        "print([m for m in ('torch', 'transformers', 'recbole', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
