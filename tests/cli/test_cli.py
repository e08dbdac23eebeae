"""The command from end to end, and what it says about input it cannot use."""

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import FunctionType

import pytest
import torch
import yaml
from conftest import ROOT, child_env
from encode_models import make_model

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.core.terminal import progress_bar  # isort: skip
from recbole_llmemb.run.result import SECONDS  # isort: skip
from recbole_llmemb.table import EmbeddingTable  # isort: skip

METRICS = {"hit@5", "hit@10", "ndcg@5", "ndcg@10"}
GROUPS = {"tail_items", "head_items", "short_users", "long_users"}


@pytest.fixture
def arguments(tiny_settings, tmp_path):
    """The arguments of a run on ``tiny``, its settings in a file."""

    def make(*more, model="LLMEmbSASRec", **overrides):
        settings = tiny_settings(model, **overrides)
        settings.pop("gpu_id")
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        return [f"--model={model}", "--dataset=tiny", "--config_files=settings.yaml", *more]

    return make


@pytest.fixture
def typed(capsys):
    """Run the command in this process: its exit status, output and errors."""

    def run(argv):
        status = main(argv)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def command(argv, folder):
    """The same in a process of its own."""
    script = str(ROOT / "run_recbole_llm.py")
    return subprocess.run(
        [sys.executable, script, *argv], cwd=folder, env=child_env(), capture_output=True, text=True
    )


def test_short_names_and_seeds(arguments, typed, tmp_path):
    argv = arguments(align_weight=0.0, epochs=1)[2:]
    status, out, _ = typed(["-m", "LLMEmbSASRec", "-d=tiny", *argv, "--seeds=1,2"])
    assert status == 0 and out.rstrip().split("\n")[-9].startswith("mean ± standard deviation")
    names = {path.name for path in (tmp_path / "runs").glob("*.json")}
    assert names == {"LLMEmbSASRec-tiny-1.json", "LLMEmbSASRec-tiny-2.json"}


@pytest.mark.parametrize("name", ["model", "dataset", "preset", "protocol"])
def test_names_that_are_empty(typed, name):
    status, _, err = typed([*(["--model=LLMEmbSASRec"] if name != "model" else []), f"--{name}="])
    assert status == 2 and f"--{name} is empty" in err


@pytest.mark.parametrize(
    "more",
    [
        ["--seeds=1,x"],
        ["--seeds=1-3"],
        ["--seeds="],
        ["--seeds=1,1"],
        ["--seeds=1,2", "--seed=3"],
    ],
)
def test_seeds_that_are_none(arguments, typed, more):
    status, _, err = typed(arguments(*more))
    assert status == 2 and "--seeds" in err


def test_an_empty_variable_names_no_file_of_settings(arguments, typed):
    status, _, err = typed(arguments("--config_files="))
    assert status == 2 and "--config_files" in err


def test_end_to_end(arguments, typed, tmp_path):
    """Items encoded, teacher trained, model trained and ranked; again from the cache."""
    encoder = make_model(tmp_path / "encoder", "bert")
    argv = arguments(
        f"--llm_encoder={encoder}", "--result_json=out/result.json", "--seed=7",
        llm_table=None, align_weight=0.01,
    )  # fmt: skip
    done = command(argv, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    stages = [line.split(":")[0] for line in lines if ":" in line]
    order = [stages.index(name) for name in ("prepare", "encode", "teacher", "train", "total")]
    assert order == sorted(order)
    assert "prepare: 40 users, 60 items, 117 training targets" in lines
    assert any(line.startswith("table: building") and "62 items" in line for line in lines)
    result = json.loads((tmp_path / "out/result.json").read_text())

    keys = ["model", "dataset", "seed", "best_valid_result", "test_result", "groups", "seconds"]
    more = {"config", "curve", "bins", "checkpoint", "sha256", "data", "run_key", "table", "tested"}
    assert set(result) == {*keys, "epochs", "parameters", "valid_groups", *more}
    assert (result["model"], result["dataset"], result["seed"]) == ("LLMEmbSASRec", "tiny", 7)
    assert set(result["best_valid_result"]) == set(result["test_result"]) == METRICS
    for groups in (result["groups"], result["valid_groups"]):
        assert set(groups) == GROUPS
        assert all(set(group) == {"users", *METRICS} for group in groups.values())
    assert result["epochs"] == 2 and set(result["seconds"]) == set(SECONDS)
    assert all(value > 0 for value in result["seconds"].values())
    # Adapter 16 → 8 → 8, positions, and a block; the table's 61 rows are frozen.
    assert result["parameters"]["frozen"] == 61 * 16
    adapter = 16 * 8 + 8 + 8 * 8 + 8
    block = 4 * (8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8) + 2 * 16
    assert result["parameters"]["trainable"] == adapter + 10 * 8 + 16 + block

    table = {line.split("  ")[0].strip(): line.split() for line in lines if "  " in line}
    for title, values in (("validation, all", "best_valid_result"), ("test, all", "test_result")):
        shown = [float(value) for value in table[title][-4:]]
        assert shown == pytest.approx(list(result[values].values()), abs=5e-5)
    for name in ("tail items", "head items", "short users", "long users"):
        (row,) = [line.split() for line in lines if line.strip().startswith(name)]
        group = result["groups"][name.replace(" ", "_")]
        assert int(row[-5]) == group["users"]

    status, out, _ = typed(argv)
    assert status == 0
    assert "cache hit" in out and "already trained" in out and "continuing" not in out
    again = json.loads((tmp_path / "out/result.json").read_text())
    for key in ("best_valid_result", "test_result", "groups", "valid_groups", "parameters"):
        assert again[key] == result[key], key


@pytest.mark.parametrize("model", ["LLMEmbGRU4Rec", "LLMEmbBERT4Rec", "SASRec"])
def test_other_models(arguments, typed, tmp_path, model):
    status, out, err = typed(arguments("--result_json=r.json", model=model))
    assert (status, err) == (0, "")
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["model"] == model and 0 < result["test_result"]["hit@10"] <= 1
    ours = model != "SASRec"
    assert bool(result["groups"]) == ours and ("test, all" in out)
    assert (result["seconds"]["encode"] is not None) == ours
    assert result["seconds"]["teacher"] is None


def test_protocol_files(arguments, typed):
    protocols = ROOT / "properties" / "protocol"
    for name in ("paper", "full_ce"):
        argv = arguments(f"--config_files=settings.yaml {protocols / name}.yaml")
        argv.remove("--config_files=settings.yaml")
        status, out, _ = typed([*argv, "--valid_metric=NDCG@10"])
        assert status == 0 and "ndcg@10" in out and "ndcg@5" not in out


def refused(outcome, *expected):
    """Status 2, one line on stderr that has all this in it, and nothing was trained."""
    status, out, err = outcome
    assert status == 2
    assert err.startswith("error: ") and err[-2:] in (".\n", "?\n") and err.count("\n") == 1, err
    for text in expected:
        assert text in err, err
    assert "train:" not in out


BAD = [
    (["--loss_type=MSE"], ["loss_type is 'MSE'", "'CE', 'BPR', 'BCE'"]),
    (["--learning_rat=0.1"], ["--learning_rat is not a configuration key", "--learning_rate?"]),
    (["--llm_table=nowhere"], ["no embedding table at nowhere", "llm_table"]),
    (
        ["--adapter_hidden_size=0", "--llm_pca_dim=12"],
        ["adapter", "12 wide", "llm_pca_dim: 8"],
    ),
    (
        ["--adapter=none", "--llm_pca_dim=4"],
        ["adapter is 'none'", "4 wide", "hidden_size", "a wider table"],
    ),
    (["--data_path=/nowhere"], ["Dataset tiny is not in /nowhere/tiny", "--data_path"]),
    (["--valid_metric=NDCG@7"], ["valid_metric is 'NDCG@7'", "NDCG@10"]),
    (["--topk=61", "--valid_metric=NDCG@61"], ["only 60 items"]),
    (["--TIME_FIELD=when"], ["TIME_FIELD", "when"]),
    (["--ITEM_ID_FIELD=sku"], ["ITEM_ID_FIELD", "sku"]),
    (["--user_inter_num_interval=[999,inf)"], ["Dataset tiny", "user_inter_num_interval"]),
    (["--checkpoint_dir=settings.yaml/x"], ["Checkpoints cannot be kept in settings.yaml/x"]),
    (["--result_json=settings.yaml/x.json"], ["settings.yaml/x.json", "cannot be written"]),
    (["--result_json=settings.yaml/r.json"], ["cannot be written"]),
    (["--align_weight=0.1", "--align_teacher=BPR"], ["'BPR' is no sequential model"]),
    (["--align_weight=0.1", "--align_teacher=x.pth"], ["align_teacher x.pth does not exist"]),
    (["--tail_item_threshold=-1"], ["tail_item_threshold is -1"]),
    (["epochs=3"], ["'epochs=3' is not of the form --key=value"]),
    (["--epochs"], ["--epochs has no value"]),
    (["--seed=1", "--seed=2"], ["--seed is given twice, as 1 and as 2"]),
    (
        ["--eval_args={'split': {'LS': 'x'}, 'order': 'TO', 'group_by': 'user'}"],
        ["eval_args.split is {'LS': 'x'}", "valid_only"],
    ),
    (["--eval_args={{'mode': 'full'}}"], ["eval_args is", "it must be a dictionary"]),
    (["--encoding=utf-32"], ["tiny.inter cannot be read as utf-32"]),
    (["--encoding=foo"], ["encoding is 'foo'", "latin-1"]),
    (["--field_separator=,"], ["tiny.inter", "name:type", "is not; check the file"]),
    (["--TIME_FIELD=item_id"], ["TIME_FIELD is 'item_id'", "ITEM_ID_FIELD"]),
    (["--llm_adapter=nowhere"], ["llm_adapter is 'nowhere'"]),
    (["--llm_encoder=./nowhere"], ["llm_encoder is './nowhere'"]),
    (
        ["--eval_args={'mode': 'uni9999', 'order': 'TO', 'split': {'LS': 'valid_and_test'}}"],
        ["uni9999", "60 items"],
    ),
    (["--llm_table=None", "--llm_device=,"], ["llm_device ',' names no device"]),
]


@pytest.mark.parametrize(("more", "expected"), BAD, ids=lambda value: value[0][:30])
def test_refused(arguments, typed, more, expected):
    refused(typed(arguments(*more)), *expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the first line must name the fields"),
        ("user_id\titem_id\ttimestamp\nu\ti\t1\n", "'user_id' is not; check the file"),
        ("user_id:token,item_id:token\nu,i\n", "'user_id:token,item_id:token' is not"),
        ("user_id:token\titem_id:token\ttimestamp:float\nu\ti\tsoon\n", "line 2: 'soon'"),
        ("user_id:token\titem_id:token\ttimestamp:token\nu\ti\t1\n", "is of type token"),
    ],
    ids=["empty", "no types", "commas", "word", "time as token"],
)
def test_refused_interactions(arguments, typed, tmp_path, text, expected):
    folder = tmp_path / "other" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.inter").write_text(text, encoding="utf-8")
    refused(typed(arguments(f"--data_path={folder.parent}")), "tiny.inter", expected)


@pytest.mark.parametrize("name", ["log", "log_tensorboard"])
def test_folders_that_cannot_be_made(arguments, typed, tmp_path, name):
    (tmp_path / name).write_text("a file\n")
    refused(typed(arguments()), f"kept in {tmp_path / name}", "folder that can be written to")


def test_refused_names(arguments, typed, tmp_path):
    argv = arguments()
    refused(typed(["--model=LLMEmbNone", *argv[1:]]), "LLMEmbNone")
    refused(typed(["--model=sasrec", *argv[1:]]), "'sasrec'; take SASRec")
    refused(typed(["--model=GRU4Recs", *argv[1:]]), "'GRU4Recs'", "GRU4Rec")
    refused(typed([argv[0], "--dataset=tinny", argv[2]]), "Dataset tinny is not in", "--data_path")
    refused(typed([*argv[:2], "--config_files=none.yaml"]), "config file none.yaml does not exist")
    refused(typed(argv[1:]), "No model is named")
    refused(typed(["runn", *argv]), "no subcommand 'runn'", "run, encode")
    (tmp_path / "bad.yaml").write_text("a: [1,\nb: {")
    refused(typed([*argv[:2], "--config_files=bad.yaml"]), "not valid yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    refused(typed([*argv[:2], "--config_files=list.yaml"]), "list.yaml")


def test_refused_tables(arguments, typed, tmp_path, tiny, tiny_table):
    """Before anything is trained: items missing, and numbers that are none."""
    table = EmbeddingTable.load(tiny_table)
    kept = [i for i, token in enumerate(table.tokens) if token not in tiny.items[:3]]
    few = EmbeddingTable([table.tokens[i] for i in kept], table.vectors[kept], {})
    few.save(tmp_path / "few")
    outcome = typed(arguments("--llm_table=few"))
    refused(outcome, "3 of the dataset's 60 items", *map(repr, tiny.items[:3]), "llm_missing")
    assert typed(arguments("--llm_table=few", "--llm_missing=mean"))[0] == 0

    from safetensors.torch import load_file, save_file

    table.save(tmp_path / "nan")
    file = tmp_path / "nan/embeddings.safetensors"
    tensors = load_file(file)
    name, vectors = next(iter(tensors.items()))
    vectors = vectors.clone()
    vectors[4, 2] = torch.nan
    save_file({name: vectors}, file)
    refused(typed(arguments("--llm_table=nan")), "nan", table.tokens[4])


def test_no_item_text(arguments, typed, tmp_path, tiny):
    """A dataset without an item file, and no table given."""
    folder = tmp_path / "data/bare"
    folder.mkdir(parents=True)
    (folder / "bare.inter").write_text((tiny.folder / "tiny.inter").read_text())
    argv = arguments("--data_path=data", llm_table=None)
    argv[1] = "--dataset=bare"
    refused(typed(argv), "'bare' has no item file", "llm_table", "item_embedding to id")
    assert typed([*argv, "--item_embedding=id"])[0] == 0


def test_in_a_process_of_its_own(arguments, tmp_path):
    """No traceback after RecBole's log, and the status of a usage error."""
    done = command(arguments("--llm_table=nowhere", "--state=error"), tmp_path)
    refused((done.returncode, done.stdout, done.stderr), "no embedding table at nowhere")


def test_a_reader_that_has_enough(arguments, tmp_path):
    """Such as ``recbole-llm … | head -1``."""
    script = f"{sys.executable} {ROOT / 'run_recbole_llm.py'} --help"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({script}; echo status $? >&2) | true"],
        cwd=tmp_path, env=child_env() | {"PYTHONUNBUFFERED": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert "status 141" in done.stderr and "Traceback" not in done.stderr


def test_help(typed):
    status, out, err = typed(["--help"])
    assert (status, err) == (0, "") and "run" in out and "encode" in out
    status, out, err = typed(["run", "--help"])
    assert (status, err) == (0, "") and "LLMEmbSASRec" in out and "--result_json" in out


FAILURES = [
    (OSError(28, "No space left on device", "saved/x.pth"), "'saved/x.pth' cannot be"),
    (OSError(28, "No space left on device"), "what is printed"),
    (MemoryError(), "not enough memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
    (RecursionError("maximum recursion depth"), "nested too deeply"),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), "UTF-8"),
    (UserError("a\nb\x1b[2Jc."), r"a\nb\x1b[2Jc"),
]


@pytest.mark.parametrize(("error", "told"), FAILURES, ids=lambda one: str(one)[:20])
def test_what_the_machine_refuses_is_a_sentence(typed, monkeypatch, error, told):
    def fail(argv):
        raise error

    monkeypatch.setattr("recbole_llmemb.cli.compare.main", fail)
    refused(typed(["compare"]), told)


def test_a_sentence_stands_below_the_bar_of_the_work_that_failed(typed, monkeypatch):
    kept = []

    def fail(argv):
        kept.append(progress_bar(total=2))
        raise UserError("so.")

    monkeypatch.setattr("recbole_llmemb.cli.compare.main", fail)
    _, _, err = typed(["compare"])
    assert err.splitlines()[-1] == "error: so." and kept[0].disable


def test_what_is_a_fault_of_ours_is_none(typed, monkeypatch):
    def fail(argv):
        raise RuntimeError("of a program")

    ours = FunctionType(fail.__code__, {"__name__": "recbole_llmemb.cli.compare"})
    monkeypatch.setattr("recbole_llmemb.cli.compare.main", ours)
    with pytest.raises(RuntimeError):
        typed(["compare"])
    monkeypatch.setattr("recbole_llmemb.cli.compare.main", fail)  # somebody's, of this module
    status, _, err = typed(["compare"])
    assert status == 2 and f"{__name__}:{fail.__code__.co_firstlineno + 1} " in err


def test_interrupted_inside_an_import(typed, monkeypatch):
    """Libraries make an error of their own of it."""

    def fail(argv):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("numpy.core failed to import") from None

    monkeypatch.setattr("recbole_llmemb.cli.compare.main", fail)
    assert typed(["compare"])[0] == 130


@pytest.mark.parametrize("argv", [["--dataset=\udcff"], ["compare", "a\0b"]])
def test_arguments_that_are_no_text(typed, argv):
    refused(typed(argv), "is no text")


@pytest.mark.parametrize(
    "way", ["help >&-", "help 2>&-", "help >/dev/full", "convert --help >/dev/full"]
)
def test_a_closed_or_full_output(tmp_path, way):
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} {ROOT / 'run_recbole_llm.py'} {way}"],
        cwd=tmp_path, env=child_env(), capture_output=True, text=True,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.returncode == (2 if "full" in way else 0)


def test_a_working_folder_that_is_gone(typed, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    refused(typed(["compare", "a.json"]), "working folder is gone")


def test_interrupted(arguments, typed, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_llmemb.run.stages.prepare_data", interrupt)
    status, _, err = typed(arguments())
    assert status == 130 and err.startswith("interrupted; the same command takes up")
    # Of others nothing is kept.
    monkeypatch.setattr("recbole_llmemb.cli.compare.main", interrupt)
    status, _, err = typed(["compare", "a.json"])
    assert (status, err) == (130, "interrupted\n")


@pytest.mark.parametrize("place", ["saved", "runs"])
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(arguments, typed, place):
    """Full from the third file on that is opened there to be written."""
    argv = arguments("--result_json=runs/r.json")
    below, opened = str(Path.cwd() / place), []

    def full(event, given):
        if event != "open" or not opened_to_write(given) or not armed:
            return
        if os.path.abspath(given[0]).startswith(below):
            opened.append(given[0])
            if len(opened) >= 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    armed = [1]
    sys.addaudithook(full)
    status, _, told = typed(argv)
    armed.clear()
    assert len(opened) >= 3 and status == 2
    assert sum(line.startswith("error: ") for line in told.splitlines()) == 1
    assert "Traceback" not in told and "No space left" in told
    status, _, told = typed(argv)
    assert status == 0 and json.loads(Path("runs/r.json").read_text())["epochs"] == 2


def opened_to_write(given):
    return isinstance(given[0], (str, os.PathLike)) and given[2] & (os.O_WRONLY | os.O_RDWR)


@pytest.mark.parametrize("name", ["recbole-llm", "other.py"])
def test_an_interrupted_start_says_nothing(tmp_path, name):
    """Until ``main`` can say a word; what merely uses the package is left alone."""
    script = tmp_path / name
    script.write_text(
        "import signal\nsignal.signal(2, signal.default_int_handler)\nimport recbole_llmemb\n"
        "print(signal.getsignal(2) == signal.SIG_DFL)\n"
        "from recbole_llmemb.cli.main import main\nmain(['--version'])\n"
        "assert signal.getsignal(2) is signal.default_int_handler\n"
    )
    found = subprocess.run(
        [sys.executable, script], env=child_env(), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[0] == str(name == "recbole-llm")


def test_warnings_of_libraries_are_no_errors(arguments, typed, monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    warnings.simplefilter("error")
    assert typed(["run", *arguments(model="SASRec"), "--epochs=1"])[0] == 0
