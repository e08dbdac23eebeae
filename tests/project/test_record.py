"""The record of numbers (``python -m tests.record``): that it runs, and sees a difference."""

from __future__ import annotations

import json

from record.__main__ import differences, record, written


def test_the_record_names_each_figure_that_differs():
    found = record(["convert_csv", "import"])
    known = json.loads(written(found))
    assert differences(known, record(["convert_csv", "import"])) == []
    assert found["import"]["width"] == 5 and "failed" not in found["convert_csv"]
    known["import"]["width"] = 5.0
    known["convert_csv"]["counts"].pop()
    del known["import"]["items"]
    assert [line.split(": ")[0] for line in differences(known, found)] == [
        f"convert_csv/counts/{len(known['convert_csv']['counts'])}", "import/width", "import/items",
    ]  # fmt: skip


def test_an_entry_that_fails_is_a_difference(monkeypatch):
    from record import entries

    monkeypatch.setattr(entries.Commands, "__call__", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in record(["import"])["import"]["failed"]
