"""What an installed copy holds: every package, and the default settings."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_package_is_listed(setup):
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for file in (ROOT / "recbole_llmemb").rglob("__init__.py")
    }
    assert set(setup["options"]["packages"].split()) == found | {"recbole_llmemb.properties"}


def test_wheel(setup, tmp_path):
    """The wheel has the modules and settings, and an unpacked copy finds the latter."""
    pytest.importorskip("setuptools")
    build = "import setuptools.build_meta as b, sys; print(b.build_wheel(sys.argv[1]))"
    source = tmp_path / "source"  # a copy, because setuptools writes build/ beside the sources
    source.mkdir()
    for name in ("recbole_llmemb", "properties", "setup.cfg", "pyproject.toml", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    (source / "README.md").write_text("")
    result = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "recbole_llmemb").rglob("*.py")}
    assert modules <= names
    templates = {str(file.relative_to(ROOT)) for file in (ROOT / "recbole_llmemb").rglob("*.j2")}
    assert templates and templates <= names
    settings = {
        "recbole_llmemb/" + str(file.relative_to(ROOT))
        for file in (ROOT / "properties").rglob("*.yaml")
    }
    assert settings and settings <= names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]
    find = "from recbole_llmemb.config.recbole_config import properties_folder as f; print(f())"
    where = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path[0] = {str(tmp_path / 'installed')!r}; {find}",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert where.endswith(str(Path("installed", "recbole_llmemb", "properties")))
    assert (Path(where) / "overall.yaml").is_file()
