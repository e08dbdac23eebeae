"""A share of the campaign's wrong inputs and hostile files; ``make campaign`` has more."""

import itertools
import os
import random
import sys
from pathlib import Path

import pytest

import recbole_llmemb  # noqa: F401  (makes RecBole importable)

from tests.campaign import hostile, inputs, readings, shop  # isort: skip
from tests.campaign.cases import run_case  # isort: skip
from tests.campaign.counts import GOOD  # isort: skip

pytestmark = pytest.mark.run
KINDS = {
    "keys": (inputs.keys, 60),
    "parts": (inputs.parts, 25),
    "texts": (inputs.texts, 20),
    "files": (readings.changed_files, 30),
    "options": (inputs.options, 30),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands read."""
    before, there = os.getcwd(), tmp_path_factory.mktemp("campaign")
    os.chdir(there)
    shop.prepare()
    shop.prepare_more()
    os.chdir(before)
    return there


@pytest.mark.parametrize("kind", KINDS)
def test_each_ends_well_or_in_a_sentence(folder, monkeypatch, kind):
    monkeypatch.chdir(folder)
    cases, count = KINDS[kind]
    chosen = itertools.islice(cases(random.Random(1)), count)
    found = [(run_case(case), case.name) for case in chosen]
    assert len(found) == count
    assert not [one for one in found if one[0][0] not in GOOD]
    assert any(end == "refused" for (end, _), _ in found)


def test_no_payload_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    hostile.prepare()
    for case in itertools.islice(hostile.cases(random.Random(1)), 40):
        end, text = run_case(case)
        assert not hostile.ran(), case.name
        assert end in GOOD, (case.name, text)
    assert not hostile.scripts(Path())


def test_a_payload_that_runs_is_seen(tmp_path, monkeypatch):
    """The marker tells, whatever the payload is in."""
    import pickle

    monkeypatch.chdir(tmp_path)
    assert not hostile.ran()
    for name, content in hostile.pickles().items():
        if name.startswith("pickle"):
            pickle.loads(content)
            assert hostile.ran() and not hostile.ran()
    exec(hostile.texts()["exec"])
    assert hostile.ran()
    hostile.prepare()
    monkeypatch.syspath_prepend(tmp_path)
    import evil  # noqa: F401

    assert hostile.ran() and "evil" not in sys.modules
