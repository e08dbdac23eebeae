"""A worker for the tests of encoding with Ray: no model, slow on request, and it keeps a log.

A module of its own, as Ray's processes import it by name.
"""

from __future__ import annotations

import hashlib
import os
import time

import torch

from recbole_llmemb.encode.pools import EncodeWorker


def vector(text):
    """What the stub makes of a text."""
    return [byte / 256 for byte in hashlib.blake2b(text.encode(), digest_size=8).digest()]


class StubEncoder:
    def __init__(self, log, sleep, broken, deadly):
        self.log, self.sleep, self.broken, self.deadly = log, sleep, broken, deadly

    def lengths(self, texts):
        return [len(text) for text in texts]

    def encode(self, texts):
        time.sleep(self.sleep)
        if self.deadly in texts:
            os._exit(1)
        with open(self.log, "a") as file:
            file.writelines(f"{os.getpid()} {text}\n" for text in texts)
        vectors = torch.tensor([vector(text) for text in texts])
        if self.broken and self.broken in texts[0]:
            vectors[0, 0] = float("nan")
        return vectors


def stub(log, sleep=0.0, broken="", deadly=""):
    """A class of workers that take ``sleep`` seconds per batch, fail on texts with ``broken`` in
    them, and die of the text ``deadly``."""
    options = {"log": str(log), "sleep": sleep, "broken": broken, "deadly": deadly}
    return type("StubWorker", (StubWorker,), {"options": options})


class StubWorker(EncodeWorker):
    options: dict = {}

    @property
    def _encoder(self):
        return StubEncoder(**self.options)
