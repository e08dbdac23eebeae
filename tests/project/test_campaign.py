"""A small share of the campaign (``make campaign``): each part, a few seeded cases."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT, child_env


def test_nothing_falls_in_a_few_cases():
    words = [sys.executable, "-m", "tests.campaign", "--only=kills,faults", "--minutes=0.1"]
    done = subprocess.run(words, cwd=ROOT, env=child_env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "kills: " in done.stdout and "faults: " in done.stdout
