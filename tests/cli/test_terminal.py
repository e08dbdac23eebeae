"""A terminal of 80 columns: bars stay on their line, and no table wraps."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.conftest import child_env

COLUMNS = 80


def typed(command, folder):
    """What a terminal of 80 columns and 24 lines is sent, and the exit status."""
    terminal, own = pty.openpty()
    fcntl.ioctl(own, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    child = subprocess.Popen(command, stdin=own, stdout=own, stderr=own, cwd=folder,
                             env=child_env())  # fmt: skip
    os.close(own)
    found = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # as Linux says that nobody writes any more
            piece = b""
        if not piece:
            break
        found += piece
    os.close(terminal)
    return found.decode(), child.wait()


def test_the_options_of_run_fit(tmp_path):
    text, status = typed(
        [sys.executable, "-m", "recbole_llmemb.cli.main", "run", "--help"], tmp_path
    )
    options = text.split("The run:")[0]
    assert status == 0 and max(len(line.rstrip()) for line in options.split("\n")) < COLUMNS


def bars_of(plain):
    """Each state of each progress bar."""
    drawn = [part for line in plain.split("\n") for part in line.rstrip("\r").split("\r")]
    return [part for part in drawn if "it/s" in part or "s/it" in part or "0%|" in part]


def test_recboles_own_bars_fit(tiny, tmp_path):
    text, status = typed(
        [sys.executable, "-m", "recbole_llmemb.cli.main", "--model=SASRec", "--dataset=tiny",
         f"--data_path={tiny.folder.parent}", "--epochs=1", "--topk=[5]", "--valid_metric=NDCG@5",
         "--MAX_ITEM_LIST_LENGTH=10", "--hidden_size=8",
         "--load_col={'inter': ['user_id', 'item_id', 'timestamp']}"],
        tmp_path,
    )  # fmt: skip
    assert status == 0, text
    bars = bars_of(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text))
    assert any("Train" in bar for bar in bars) and max(map(len, bars)) <= COLUMNS


def test_bars_and_tables_fit(tiny, tmp_path):
    text, status = typed(
        [sys.executable, "-m", "recbole_llmemb.cli.main", "--model=LLMEmbSASRec",
         "--preset=id_only", "--dataset=tiny", f"--data_path={tiny.folder.parent}", "--epochs=2",
         "--topk=[5,10,20]", "--MAX_ITEM_LIST_LENGTH=10", "--tail_item_threshold=0.8"],
        tmp_path,
    )  # fmt: skip
    assert status == 0, text
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    bars = bars_of(plain)
    assert any("Train" in bar for bar in bars)
    assert max(map(len, bars)) <= COLUMNS
    table = plain[plain.index("full ranking") :].split("checkpoint:")[0]
    assert max(len(line.rstrip()) for line in table.split("\n")) <= COLUMNS
    assert "ndcg@20" in table and table.count("tail items") > 1


def test_a_short_row_is_filled_up():
    """The last line of a table may say how many more there are."""
    from recbole_llmemb.core.terminal import text_table

    lines = text_table([["a", 1, 2], ["… (30 in all)"]], ["", "x", "y"]).splitlines()
    assert lines[-1].rstrip() == "… (30 in all)" and lines[-2].split() == ["a", "1", "2"]
