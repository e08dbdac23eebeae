"""Synthetic data of any size: datasets, tables in memory, words, and models of random weights."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from recbole_llmemb.encode.encoder import quiet_loading
from recbole_llmemb.run import artifacts

#: Sizes of models by name, as configurations name them: layers, width, heads, inner width.
SHAPES = {
    "encoder": (12, 768, 12, 3072),
    "decoder": (24, 2048, 16, 5504),
    "toy": (2, 16, 2, 32),
}
#: RecBole's settings for :func:`write_dataset`: nothing in it is to be filtered.
READ = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id"]},
    "filter_inter_by_user_or_item": False,
    "user_inter_num_interval": None,
    "item_inter_num_interval": None,
}
WORDS = [f"w{number}" for number in range(997)]


def write_dataset(folder: Path, name: str, items: int, users: int, length: int) -> None:
    """A dataset of users with equally many interactions, and of items with titles.

    The item file has all of them, so that a catalog of a million needs no million interactions;
    where there are as many, each item is met.
    """
    place = folder / name
    if place.is_dir():
        return
    place.mkdir(parents=True)
    draw = np.random.default_rng(0)
    met = draw.integers(0, items, users * length)
    met[: min(items, len(met))] = draw.permutation(items)[: len(met)]
    with open(place / f"{name}.inter", "w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, row in enumerate(draw.permutation(met).reshape(users, length).tolist()):
            file.writelines(f"u{user}\ti{item}\t{time}\n" for time, item in enumerate(row))
    titles = titles_of(min(items, 4096), 3, 9)
    with open(place / f"{name}.item", "w", encoding="utf-8") as file:
        file.write("item_id:token\ttitle:token_seq\n")
        file.writelines(f"i{i}\t{titles[i % len(titles)]}\n" for i in range(items))


def titles_of(count: int, least: int, most: int) -> list[str]:
    """Texts of random words, of ``least`` to ``most`` words."""
    draw = np.random.default_rng(1)
    sizes = draw.integers(least, most + 1, count)
    return [" ".join(draw.choice(WORDS, size)) for size in sizes]


@contextmanager
def tables_of(width: int, device: torch.device):
    """Models that are built inside have random tables, made where they are to be.

    A table of a million rows, 4,096 wide, would be long on its way through files.
    """

    def made(config, dataset, report=None, size=None):
        return _RandomTable(dataset.item_num, min(width, size or width), device)

    with mock.patch.object(artifacts, "item_table", made):
        yield


class _RandomTable:
    """What a model asks of its table."""

    def __init__(self, items, width, device):
        self.items, self.width, self.device = items, width, device

    def rows(self):
        generator = torch.Generator(self.device).manual_seed(self.width)
        half = self.width > 1024 and self.device.type == "cuda"
        kind = torch.bfloat16 if half else torch.float32
        shape = self.items, self.width
        return torch.randn(shape, generator=generator, device=self.device, dtype=kind)

    def projection(self):
        return None


def make_model(folder: Path, kind: str, shape: str, device: torch.device) -> Path:
    """A directory with an encoder or a decoder of random weights, and a tokenizer of words.

    Parameters
    ----------
    kind : {"encoder", "decoder"}
    shape : str
        Of :data:`SHAPES`.
    """
    if folder.is_dir():
        return folder
    vocabulary = ["<pad>", "<unk>", "</s>", *WORDS]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=512,
    )
    layers, width, heads, inner = SHAPES[shape]
    settings = {
        "vocab_size": len(vocabulary),
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": 2048,
    }
    torch.manual_seed(0)
    with torch.device(device), quiet_loading():
        if kind == "encoder":
            model = BertModel(BertConfig(**settings))
        else:
            model = LlamaModel(LlamaConfig(**settings, num_key_value_heads=heads))
        model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
