"""Where the values of keys come from, typed text included, and what is refused of them."""

from __future__ import annotations

import ast
import importlib.util
import operator
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from recbole_llmemb.config.keys import Use, keys, sections_of, text_keys
from recbole_llmemb.config.shared import TrainingSettings
from recbole_llmemb.core.checked import read_yaml
from recbole_llmemb.core.errors import UserError, nearest
from recbole_llmemb.core.files import at_home

# Options of commands that are names or paths, and no keys.
_OPTIONS = ("result_json", "name", "storage", "space", "seeds")
#: The preset with the best score over all users where items have telling texts (README).
RECOMMENDED = "best"
_FOLDERS = {"preset": "preset", "protocol": "protocol", "space": "tune"}  # of bundled files

# Text that would make more than this stays text: 9**9**9 takes a computer with it.
_MOST_BITS = 4096
_MOST_LETTERS = 50_000
_LONGEST_NAME = 200  # bytes; what is called after it still is a file's name
_OPERATIONS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_ERRORS = (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError)

# -- files --------------------------------------------------------------------------------


def properties_folder() -> Path:
    """The folder of yaml defaults: inside an installed package, else beside it in a checkout."""
    try:
        folder = Path(str(resources.files("recbole_llmemb.properties")))
    except (ImportError, TypeError):
        folder = Path(__file__).parents[1] / "properties"
    if not (folder / "overall.yaml").is_file():
        folder = Path(__file__).parents[2] / "properties"
    return folder


def recbole_folder() -> Path | None:
    """Where RecBole is installed: found, not imported, which takes seconds."""
    package = importlib.util.find_spec("recbole")
    return Path(package.origin).parent if package and package.origin else None


def defaults(model: str, dataset: str) -> dict[str, Any]:
    """Our defaults for a model on a dataset: ``overall`` < ``model/`` < ``dataset/``."""
    merged: dict[str, Any] = {}
    check_dataset(dataset)
    for part in ("overall", f"model/{model}", f"dataset/{dataset}"):
        file = properties_folder() / f"{part}.yaml"
        if file.is_file():
            merged.update(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    return merged


def read_settings(file: str | Path) -> dict[str, Any]:
    """What a file of settings holds."""
    if not Path(file).is_file():
        told = f"config file {file} does not exist or is no file; check --config_files."
        raise UserError(told, key="config_files")
    content = read_yaml(file, f"config file {file}")
    if not isinstance(content, dict):
        raise UserError(f"config file {file} has no settings of the form `key: value` in it.")
    for key in content:
        if not isinstance(key, str):  # yaml takes on and yes for switches, too
            raise UserError(f"config file {file} has a key {key!r}, which is no name.")
    return content


def settings_of(files: Iterable[str]) -> dict[str, Any]:
    """Settings of property files; later ones win."""
    merged = {key: value for file in files for key, value in read_settings(file).items()}
    return {k: typed_value(k, v) if isinstance(v, str) else v for k, v in merged.items()}


def bundled_file(option: str, name: str, model: str = "") -> Path:
    """The file of ours that an option names: ``--preset=longtail``, ``--protocol=paper``.

    The beginning of a name is enough where no other begins so: ``--protocol=full``. A model may
    have a file of its own in place of that, in a folder of that name: ``authors/LLMSRec.yaml``.
    """
    names = bundled_names(option, model)
    meant = [name] if name in names else [each for each in names if each.startswith(str(name))]
    if not name or len(meant) != 1:
        near = nearest(str(name), names, 1)
        hint = f"; did you mean {near[0]}?" if near else "."
        told = f"--{option} is {name!r}; it must be one of {', '.join(names)}{hint}"
        raise UserError(told, key=option)
    folder = properties_folder() / _FOLDERS[option]
    own = folder / meant[0] / f"{model}.yaml"
    return own if own.is_file() else folder / f"{meant[0]}.yaml"


def preset_file(name: str, model: str = "") -> Path:
    """The settings that ``--preset=NAME`` stands for, with some model or any.

    Raises
    ------
    UserError
        There is no such preset; the message lists those there are.
    """
    return bundled_file("preset", name, model)


def property_files(typed: dict[str, Any]) -> list[str]:
    """Takes the files of settings out of what was typed: preset < protocol < ``config_files``."""
    named = [(option, typed.pop(option, None)) for option in ("preset", "protocol")]
    model = str(typed.get("model", ""))
    files = [str(bundled_file(option, name, model)) for option, name in named if name is not None]
    given = typed.pop("config_files", None) or ""
    return files + [str(f) for f in (given if isinstance(given, list) else str(given).split())]


def bundled_names(option: str, model: str = "") -> list[str]:
    """What ``--preset``, ``--protocol`` or ``--space`` may be, those of one model alone with it."""
    folder = properties_folder() / _FOLDERS[option]
    own = {file.parent.name for file in folder.glob(f"*/{model}.yaml")}
    return sorted(own | {file.stem for file in folder.glob("*.yaml")})


def recboles_models() -> list[str]:
    """Names of RecBole's own models."""
    folder = recbole_folder()
    return sorted(f.stem for f in folder.glob("properties/model/*.yaml")) if folder else []


def check_dataset(dataset: Any) -> None:
    """Datasets go by names: files of settings are read that are called so."""
    name = str(dataset)
    too_long = len(name.encode(errors="replace")) > _LONGEST_NAME
    if dataset is not None and (name in (".", "..") or set(name) & set("/\\\0") or too_long):
        wanted = f"at most {_LONGEST_NAME} bytes long" if too_long else "not a path"
        told = f"dataset is {name!r:.200}; it must be the name of a folder, {wanted}"
        raise UserError(f"{told}: data_path says in which one that folder is.", key="dataset")


# -- text ---------------------------------------------------------------------------------


def typed_value(key: str, text: str) -> Any:
    """What the text of a setting means: a number, list, dictionary, switch, or itself.

    Numbers and lists may be written as arithmetic, as RecBole has it: 1/1000, [64]*3. Names and
    paths stay text: 2026-11-21 is a folder, ~/x one of one's own.
    """
    value = value_of(text)
    if isinstance(value, str) and value == text:
        value = {"true": True, "false": False}.get(text.lower(), text)
    stays = key in _OPTIONS or key.endswith(("_path", "_dir")) or key in text_keys()
    value = text if stays and not isinstance(value, (str, type(None))) else value
    return at_home(value) if isinstance(value, str) else value


def value_of(text: str) -> Any:
    """The value that a text writes down: a number, text in quotes, list, tuple, dictionary, …

    ``text``: numbers may be combined by ``+ - * / // % **``, lists and tuples by ``+`` and ``*``.
    Returns ``text`` itself, if it is anything else, or more than a setting can mean.
    """
    try:
        return _evaluate(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except _ERRORS:
        return text


def _evaluate(node: Any) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, type(None))):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return (list if isinstance(node, ast.List) else tuple)(map(_evaluate, node.elts))
    if isinstance(node, ast.Dict) and None not in node.keys:
        return dict(zip(map(_evaluate, node.keys), map(_evaluate, node.values)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left), _evaluate(node.right)
        _check_size(node.op, left, right)
        value = _OPERATIONS[type(node.op)](left, right)
        if isinstance(value, (int, float, list, tuple)):
            return value
    raise ValueError


def _check_size(kind: ast.operator, left: Any, right: Any) -> None:
    """Refuse, before it is computed, what would be too large, and text among the operands."""
    if isinstance(left, str) or isinstance(right, str):
        raise TypeError
    if isinstance(left, int) and isinstance(right, int):
        sizes = left.bit_length(), right.bit_length()
        bits = sizes[0] * abs(right) if isinstance(kind, ast.Pow) else sum(sizes)
        too_large = bits > _MOST_BITS
    else:  # a list is as large as what it is written as
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        repeated = isinstance(kind, ast.Mult) and isinstance(times, int)
        too_large = repeated and len(repr(sequence)) * times > _MOST_LETTERS
    if too_large:
        raise OverflowError


def check(values: Mapping[str, Any], model_class: type | None = None) -> None:
    """Refuse impossible values, each in one sentence.

    ``values``: the configuration as given, before RecBole fills in the rest.
    ``model_class``: of ours; without, the keys count that RecBole's own models read.
    """
    only = None if model_class else Use.ANY
    for section in sections_of(model_class):
        section.of(values, only)
    TrainingSettings.of(values, only).check_negatives(values.get("loss_type", ""))


def blamed(config: Any) -> str:
    """The end of a sentence on a model that fails: which keys are set otherwise than usual."""
    usual, machine = config.internal_config_dict, keys(Use.MACHINE | Use.PLACE) | {"epochs"}
    given = config.external_config_dict.items()
    named = sorted(k for k, v in given if k in usual and k not in machine and v != usual[k])
    return f"; look at {', '.join(named[:12])}." if named else "."
