"""Whole files, their digests, disks that are full, and who waits for whom."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading

import pytest

from recbole_llmemb.core import artifacts
from recbole_llmemb.core.artifacts import atomic_directory, build_lock, files_in
from recbole_llmemb.core.checked import read_yaml
from recbole_llmemb.core.errors import TableError, UserError, in_a_sentence, storage_error
from recbole_llmemb.core.files import (
    asked_hash,
    atomic_file,
    damaged_file,
    file_digests,
    lines_of,
    seal,
    unseal,
)

FACTS = {"name": "äé", "value": 0.1, "nested": {"b": [1, None], 2: "two"}}


def test_sealed_json_tells_any_flipped_byte():
    text = seal(FACTS).encode()
    assert unseal(text) == json.loads(json.dumps(FACTS))
    assert unseal('{"of": "an earlier version"}') == {"of": "an earlier version"}
    with pytest.raises(ValueError, match="'b'"):
        unseal('{"a": {"b": 1, "b": 1}}')
    for place in range(len(text)):
        flipped = bytearray(text)
        flipped[place] ^= 1
        with pytest.raises(ValueError):
            unseal(bytes(flipped))


def test_digests_name_the_file_that_is_damaged(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name * 9)
    digests = file_digests(tmp_path, ["a", "b"])
    assert damaged_file(tmp_path, digests) is None
    (tmp_path / "b").write_text("b" * 8)
    assert damaged_file(tmp_path, digests) == tmp_path / "b"
    (tmp_path / "a").unlink()
    assert damaged_file(tmp_path, digests) == tmp_path / "a"
    assert damaged_file(tmp_path, {"../../dev/null": ""}) and damaged_file(tmp_path, ["a"])


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="nobody reads"), atomic_file(pipe):
        pass
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_file(pipe) as fresh:
        fresh.write_text("all of it")
    assert os.read(reader, 99) == b"all of it" and pipe.is_fifo()
    os.close(reader)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_disk_is_one_sentence(tmp_path, number, monkeypatch):
    def full(*_):
        raise OSError(number, "so the system says")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError) as told, atomic_file(tmp_path / "file"):
        pass
    assert told.value.where == str(tmp_path / "file") and not list(tmp_path.iterdir())


def test_storage_error_is_found_behind_errors_of_libraries():
    try:
        try:
            raise OSError(errno.ENOSPC, "full", "there")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904
    except RuntimeError as error:
        assert storage_error(error).filename == "there" and "there" in in_a_sentence(error)
    assert storage_error(ValueError("I/O error: … (os error 28)")).errno == 28
    assert storage_error(RuntimeError("basic_ios::clear: iostream error")) is not None
    assert storage_error(ValueError("28")) is None
    assert storage_error(FileNotFoundError(errno.ENOENT, "no such file")) is None


def test_who_waits_says_for_whom(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(artifacts, "_SECONDS", 0.05)
    held, free, got = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with build_lock(tmp_path / "out", "table"):
            held.set()
            free.wait()

    def wait():
        with build_lock(tmp_path / "out", "table"):
            got.set()

    with caplog.at_level(logging.WARNING):
        threads = [threading.Thread(target=hold), threading.Thread(target=wait)]
        threads[0].start()
        held.wait()
        threads[1].start()
        while not caplog.records:
            assert not got.wait(0.01)
        free.set()
        for thread in threads:
            thread.join()
    assert got.is_set() and "process" in caplog.text and str(tmp_path / "out") in caplog.text
    with build_lock(tmp_path / "out", "table"), build_lock(tmp_path / "out", "table"):
        pass  # who has it may take it again


def test_storage_without_locks_is_worked_on_without(tmp_path, monkeypatch, caplog):
    def no_lock(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(artifacts.FileLock, "acquire", no_lock)
    with build_lock(tmp_path / "out", "table"):
        pass
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("what", ["folder", "link"])
def test_a_lock_that_is_something_else_is_named(tmp_path, what):
    lock, file = tmp_path / ".out.lock", tmp_path / "theirs"
    file.write_text("theirs")
    lock.mkdir() if what == "folder" else lock.symlink_to(file)
    with pytest.raises(UserError) as refused, build_lock(tmp_path / "out", "table"):
        pass
    assert refused.value.where == str(lock) and file.read_text() == "theirs"


def test_what_is_made_again_stays(tmp_path):
    """A command that was killed after its last rename ends well; any other is refused as before."""
    target = tmp_path / "out"

    def write(text, again=True):
        with atomic_directory(target, False, files_in, "an export", again) as fresh:
            (fresh / "file").write_text(text)

    write("one")
    before = (target / "file").stat().st_ino
    write("one")
    assert (target / "file").stat().st_ino == before
    for text, again in (("two", True), ("one", False)):
        with pytest.raises(TableError):
            write(text, again)
    assert (target / "file").read_text() == "one"
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock"] == ["out"]


def test_a_file_that_cannot_be_read_is_named():
    """A disk that fails while it is read does not say of which file."""
    with pytest.raises(OSError) as caught:
        asked_hash({}, ["/proc/self/mem"])
    assert "/proc/self/mem" in in_a_sentence(caught.value)


def test_what_is_no_file_has_no_lines(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(OSError):
            lines_of(path)


def test_a_key_that_is_there_twice_is_told_by_its_second_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("topk: [7]\nseed: 1\ntopk: [3]\n")
    with pytest.raises(UserError, match='"a.yaml", line 3'):
        read_yaml(file, "config file")


@pytest.mark.parametrize("number", ["010", "-07", "1:30", "1:30.5"])
def test_numbers_that_yaml_takes_for_others_are_told(tmp_path, number):
    file = tmp_path / "a.yaml"
    file.write_text(f"seed: 1\ntopk: [5, {number}]\n")
    with pytest.raises(UserError, match=f'{number}.*"a.yaml", line 2'):
        read_yaml(file, "config file")
    file.write_text(f"seed: 0\nrate: 0.5\nsmall: 1.0e-3\nname: '{number}'\nhex: 0x10\n")
    assert read_yaml(file, "config file")["name"] == number


def test_a_file_that_cannot_be_read_is_not_called_invalid(tmp_path):
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_yaml(tmp_path / "gone.yaml", "config file")
    assert "valid" not in str(caught.value)
