"""What a run remembers of its data."""

import hashlib
import tracemalloc

from recbole_llmemb.data.dataset import files_hash


def test_a_file_is_hashed_without_being_held(tmp_path):
    with open(tmp_path / "d.inter", "wb") as file:
        file.truncate(40_000_000)
    config = {"data_path": str(tmp_path), "dataset": "d", "benchmark_filename": None}
    tracemalloc.start()
    try:
        found = files_hash(config)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == hashlib.sha256(bytes(40_000_000)).hexdigest()
    assert peak < 12_000_000
