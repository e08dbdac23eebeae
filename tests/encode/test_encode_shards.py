"""Shards: which texts go together, what survives, and the table of them."""

import contextlib
import hashlib

import numpy as np
import pytest
import torch
from safetensors import safe_open

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.shards import (
    Catalog,
    assemble,
    encode_resumably,
    plan_by_length,
    plan_in_file_order,
)


class Pool:
    """Two numbers for each text; a list of what was encoded. ``fails_at``: the text to die at."""

    def __init__(self, fails_at=None):
        self.done, self.asked, self.fails_at = [], 0, fails_at

    def lengths(self, texts):
        self.asked += 1
        return [len(text) for text in texts]

    def running(self, missing, of):
        return contextlib.nullcontext()

    def encode(self, missing, texts_of, tell):
        for number in missing:
            texts = texts_of(number)
            if self.fails_at in texts:
                raise KeyboardInterrupt
            self.done += texts
            tell(len(texts))
            yield number, vectors_of(texts)


def vectors_of(texts):
    return torch.tensor([[float(text.split()[-1]), len(text)] for text in texts])


class TestShards:
    texts = [f"{'x' * (i % 7)} {i}" for i in range(20)]
    items = [*range(20), 3, 0, 19, 3]  # the text of each item

    def catalog(self):
        tokens = [f"i{i}" for i in range(len(self.items))]
        digests = np.stack([np.full(16, i, dtype=np.uint8) for i in range(20)])
        return Catalog(tokens, [], self.texts, np.array(self.items), digests, "", 0)

    def run(self, work, pool=None, key="k", size=6, by_length=True):
        """The vectors, and how many texts were encoded."""
        catalog, pool = self.catalog(), pool or Pool()
        if by_length:
            plan = plan_by_length(self.texts, pool.lengths, work, key, size)
        else:
            plan = plan_in_file_order(catalog, work, key, size)
        encoded = encode_resumably(plan, catalog, pool)
        return assemble(plan, catalog.text_of).clone(), encoded

    @property
    def wanted(self):
        return vectors_of(self.texts)[self.items]

    @pytest.mark.parametrize("by_length", [True, False])
    def test_rows_are_those_of_the_items(self, tmp_path, by_length):
        vectors, encoded = self.run(tmp_path, by_length=by_length)
        assert torch.equal(vectors, self.wanted) and encoded == 20
        assert len(list(tmp_path.glob("shard-*"))) == 4

    def test_longest_first_asked_for_once(self, tmp_path):
        pool = Pool(fails_at="not there")
        self.run(tmp_path, pool)
        assert pool.done == sorted(self.texts, key=lambda text: (-len(text), text))
        assert self.run(tmp_path, pool)[1] == 0 and pool.asked == 1
        (tmp_path / "order.safetensors").write_bytes(b"half")
        pool.lengths = lambda texts: [-len(text) for text in texts]  # shards of another order
        vectors, again = self.run(tmp_path, pool)
        assert again == 20 and torch.equal(vectors, self.wanted)

    @pytest.mark.parametrize("by_length", [True, False])
    def test_failure_loses_the_shard_in_flight_only(self, tmp_path, by_length):
        members = sorted(self.texts, key=lambda text: (-len(text), text))
        second = (members if by_length else self.texts)[8]
        with pytest.raises(KeyboardInterrupt):
            self.run(tmp_path, Pool(fails_at=second), by_length=by_length)
        vectors, encoded = self.run(tmp_path, by_length=by_length)
        assert encoded == 14 and torch.equal(vectors, self.wanted)

    def test_vectors_that_are_no_numbers_are_not_kept(self, tmp_path):
        pool = Pool()
        pool.encode = lambda missing, *_: ((n, torch.full((6, 2), torch.nan)) for n in missing)
        with pytest.raises(UserError) as caught:
            self.run(tmp_path, pool, by_length=False)
        assert caught.value.key == "llm_dtype" and "'i0'" in str(caught.value)
        assert not list(tmp_path.glob("shard-*"))

    @pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other key", "half-written"])
    def test_only_whole_shards_are_used(self, tmp_path, damage):
        self.run(tmp_path)
        path = tmp_path / "shard-00002.safetensors"
        data = bytearray(path.read_bytes())
        if damage == "truncate":
            path.write_bytes(data[:-7])
        elif damage == "flip":
            data[-1] ^= 64
            path.write_bytes(data)
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "half-written":
            path.rename(tmp_path / ".shard-00002.safetensors.1.tmp")
        else:
            self.run(tmp_path / "other", key="another")
            path.write_bytes((tmp_path / "other" / path.name).read_bytes())
        vectors, encoded = self.run(tmp_path)
        assert encoded == 6
        assert torch.equal(vectors, self.wanted)

    def test_other_cut_shares_nothing(self, tmp_path):
        self.run(tmp_path)
        vectors, encoded = self.run(tmp_path, size=5)
        assert encoded == 20
        assert torch.equal(vectors, self.wanted)

    def test_what_a_shard_is_known_by(self, tmp_path):
        """Folders of interrupted runs are found by these, whatever version began them."""

        def key_of(work):
            with safe_open(str(work / "shard-00001.safetensors"), "pt") as file:
                return file.metadata()["key"]

        self.run(tmp_path / "a")
        order = sorted(range(20), key=lambda i: (-len(self.texts[i]), self.texts[i]))
        digest = hashlib.blake2b(np.array(order).tobytes(), digest_size=16).hexdigest()
        assert key_of(tmp_path / "a") == f"k/6/{digest}"
        self.run(tmp_path / "b", by_length=False)
        members = b"".join(bytes([i] * 16) for i in range(6, 12))
        digest = hashlib.blake2b(members, digest_size=16).hexdigest()
        assert key_of(tmp_path / "b") == f"k/6/{digest}"

    def test_a_shard_that_is_gone_again(self, tmp_path):
        catalog, pool = self.catalog(), Pool()
        plan = plan_in_file_order(catalog, tmp_path, "k", 6)
        encode_resumably(plan, catalog, pool)
        (tmp_path / "shard-00003.safetensors").unlink()
        with pytest.raises(UserError) as caught:
            assemble(plan, catalog.text_of)
        assert caught.value.where.endswith("shard-00003.safetensors")

    def test_half_precision(self, tmp_path):
        pool = Pool()
        pool.encode = lambda missing, texts_of, tell: (
            (number, vectors_of(texts_of(number)).bfloat16()) for number in missing
        )
        vectors, _ = self.run(tmp_path, pool)
        assert vectors.dtype == torch.bfloat16 and torch.equal(vectors, self.wanted.bfloat16())
