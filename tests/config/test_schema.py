"""The keys: what each may be, and that every place that tells of them tells the same."""

import subprocess
import sys
from typing import Any

import pytest
import yaml
from conftest import ROOT

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from recbole_llmemb.apps.tune.plan import make_plan  # isort: skip
from recbole_llmemb.apps.tune.space import read_space  # isort: skip
from recbole_llmemb.cli.main import main  # isort: skip
from recbole_llmemb.config.values import check  # isort: skip
from recbole_llmemb.config.keys import Use, declared, keys, use_of  # isort: skip
from recbole_llmemb.config.recbole_config import config_from_plain, config_to_plain  # isort: skip
from recbole_llmemb.config.recbole_config import make_config, properties_folder  # isort: skip
from recbole_llmemb.core.checked import choices_of, may_be_empty, type_of  # isort: skip
from recbole_llmemb.core.errors import UserError  # isort: skip
from recbole_llmemb.run.schema import SECTIONS, check_changes  # isort: skip

KEYS = [(section, name) for section in SECTIONS for name in section.model_fields]
HUGE, NAN = 10**30, float("nan")
WRONG = {dict: "x", list: {"a": 1}}


def bad_values(section, name) -> list[Any]:
    """What a key cannot be: empty, of another type, a switch, and numbers beyond all bounds."""
    field = section.model_fields[name]
    kind = type_of(field)
    found: list[Any] = [WRONG.get(kind, [1]), HUGE * 1.5]
    if not may_be_empty(field):
        found.append(None)
    if kind is not bool:
        found.append(True)
    if name != "gpu_id":  # where -1 is none at all
        found += [HUGE, -1, NAN]
    return found


def model_of(section):
    return "LLMEmbSASRec" if section.shared else "LLMSRec"


@pytest.fixture(scope="module")
def configs():
    return {name: make_config(name, "ml-100k") for name in ("LLMEmbSASRec", "LLMSRec")}


@pytest.mark.parametrize(("section", "name"), KEYS, ids=lambda one: getattr(one, "__name__", one))
def test_what_a_key_cannot_be_is_refused(section, name, configs):
    config = configs[model_of(section)]
    good = {key: value for key, value in config.final_config_dict.items() if key != name}
    for value in bad_values(section, name):
        with pytest.raises(UserError) as caught:
            check({"loss_type": "CE", **good, name: value}, config.model_class)
        text = str(caught.value)
        assert caught.value.key == name, text
        assert "\n" not in text and text.endswith(".") and len(text) < 500, text


@pytest.mark.parametrize(("section", "name"), KEYS, ids=lambda one: getattr(one, "__name__", one))
def test_what_is_empty_is_refused_before_anything_fails_over_it(section, name):
    settled = ("model", "dataset", "adapter", "loss_type")  # --adapter=none is read as no value
    if name in settled or may_be_empty(section.model_fields[name]):
        return
    with pytest.raises(UserError) as caught:
        make_config(model_of(section), "ml-100k", overrides={name: None})
    assert caught.value.key == name


# -- properties/*.yaml --------------------------------------------------------------------


def shown(name):
    """The sections of a file of settings, as people read it."""
    sys.path.append(str(ROOT / "docs/_ext"))
    import reference

    sys.path.pop()
    return [key for part in reference.sections_of(properties_folder() / name) for key in part.keys]


def words(field):
    kinds = {int: "int", float: "float", str: "str", bool: "bool", list: "list", dict: "dict"}
    return {kinds[type(one)] for one in choices_of(field)} or {kinds[type_of(field)]}


@pytest.mark.parametrize("file", ["overall", "model/LLMSRec"])
def test_yaml_says_what_is_declared(file):
    own = [section for section in SECTIONS if section.shared == (file == "overall")]
    fields = {name: field for section in own for name, field in section.model_fields.items()}
    listed = shown(f"{file}.yaml")
    for key in listed:
        field = fields.pop(key.name)
        assert key.default == field.default, key.name
        assert set(key.type.split(" or ")) >= words(field), key.name
        assert key.text == " ".join(field.description.split()), key.name
    rest = [name for name, field in fields.items() if not use_of(field) & Use.ANY]
    assert sorted(rest) == sorted(
        ["hidden_act", "save_dataloaders", "dataloaders_save_path"] if file == "overall" else []
    )


@pytest.mark.parametrize(
    "file",
    sorted(properties_folder().glob("*/*.yaml")),
    ids=lambda file: f"{file.parent.stem}/{file.stem}",
)
def test_every_file_of_settings_can_be_used(file):
    if file.parent.stem == "tune":
        return
    model = file.stem if file.parent.stem == "model" else "LLMEmbSASRec"
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    config = make_config(model, "none", [str(file)])
    known = {name for name, _ in declared()}
    assert set(values) <= known
    for key in set(values) - {"load_col", "train_neg_sample_args", "eval_args", "transform"}:
        assert config[key] == values[key], key


# -- who else asks ------------------------------------------------------------------------


def test_keys_are_known_without_heavy_libraries():
    """So that a help text can list them at once; the package itself heals RecBole first."""
    folder = ROOT / "recbole_llmemb"
    code = (
        "import sys, types; m = types.ModuleType('recbole_llmemb'); "
        f"m.__path__ = [{str(folder)!r}]; sys.modules['recbole_llmemb'] = m; "
        "from recbole_llmemb.run.schema import declared; assert len(list(declared())) > 100; "
        "print([name for name in ('torch', 'recbole', 'numpy', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_what_a_file_never_decides():
    """A key that can run code, or says where things are kept, is marked so when it is added."""
    assert keys(Use.TRUST) == {
        "llm_trust_remote_code", "dataset_save_path", "dataloaders_save_path", "save_dataset",
        "save_dataloaders", "checkpoint_dir", "llm_cache_dir", "log_wandb",
    }  # fmt: skip


def test_an_empty_value_in_a_checkpoint_means_what_it_meant(tiny_config):
    """``llm_freeze:`` trained the table, ``holdout_targets:`` took all; both are refused now."""
    plain = config_to_plain(tiny_config(adapter="none", llm_freeze=False))
    assert config_from_plain(plain)["holdout_targets"] == "last"
    gone = dict.fromkeys(("llm_freeze", "holdout_targets", "llm_missing", "sequence_stride"))
    config = config_from_plain(plain | gone)
    found = [config[key] for key in gone]
    assert found == [False, "all", "error", None]


@pytest.mark.parametrize(
    ("space", "key"),
    [
        ({"hidden_size": {"choice": [8, 0]}}, "hidden_size"),
        ({"adapter": {"choice": ["linear", "deep"]}}, "adapter"),
        ({"hidden_dropout_prob": {"uniform": [0.1, 1.5]}}, "hidden_dropout_prob"),
        ({"llm_freeze": {"choice": [True, None]}}, "llm_freeze"),
    ],
    ids=str,
)
def test_a_search_over_what_cannot_be_is_refused_at_once(tiny_settings, space, key):
    with pytest.raises(UserError) as caught:
        settings = tiny_settings("LLMEmbSASRec")
        settings.pop(key, None)
        make_plan("LLMEmbSASRec", "tiny", settings=settings, space=read_space(space))
    assert caught.value.key == key and caught.value.where == "the space"


def test_a_search_may_try_what_goes_with_other_values_only(tiny_settings):
    """``offset_decay`` is for ``item_embedding: residual``, which is searched too."""
    space = {"offset_decay": {"choice": [0.1]}, "item_embedding": {"choice": ["residual"]}}
    plan, _ = make_plan(
        "LLMEmbSASRec", "tiny", settings=tiny_settings("LLMEmbSASRec"), space=read_space(space)
    )
    assert plan.searched == list(space)


def test_what_a_checkpoint_was_trained_with_stays():
    check_changes({"topk": [5], "data_path": "x", "eval_batch_size": 3, "user_sample": 9})
    for changes in ({"hidden_size": 8}, {"llm_whiten": 0.1}, {"topk": [0]}, {"use_gpu": "maybe"}):
        with pytest.raises(UserError) as caught:
            check_changes(changes)
        assert caught.value.key == next(iter(changes))


def test_help_has_a_line_for_every_key(capsys):
    assert main(["run", "--help"]) == 0
    told = capsys.readouterr().out
    for name, field in declared():
        assert f"--{name} " in told and field.description.split()[0] in told, name
