"""The files that the recorded commands read: a dataset, a table, small random models."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

WORDS = ["red", "blue", "soft", "old", "new", "soap", "gel", "comb", "brush", "lamp", "for", "hair",
         "hands", "home", "travel", "gift"]  # fmt: skip
# What prompts of histories are made of, so that different titles are different tokens.
PROMPT_WORDS = (
    "This user has made a series of purchases in the following order : Item No . , Time - "
    '" Based on this sequence generate representation token The item title and embedding are as '
    "follows then attributes is brand categories price year x"
)
WIDTH = 16


def write_dataset(folder, name="small", users=44, items=50, seed=0):
    """Interactions with real times, items with text and users, in RecBole's files.

    Users have 2 to 9 interactions, one has 30; some share their time with another of the same
    user, some items are met twice. Two items of the ``.item`` file nobody meets.
    """
    draw = random.Random(seed)
    folder = Path(folder) / name
    folder.mkdir(parents=True)
    rows, unmet = [], list(range(items))
    draw.shuffle(unmet)
    for user in range(users):
        time, met = 1_400_000_000 + 86_400 * draw.randrange(300), []
        for _ in range(30 if user == 3 else 2 + user % 8):
            item = unmet.pop() if unmet and draw.random() < 0.5 else int(items * draw.random() ** 2)
            if item in met and draw.random() < 0.8:
                item = draw.randrange(items)
            met.append(item)
            time += draw.choice([0, 3_600, 86_400])
            rows.append((f"u{user}", f"i{item}", time, draw.randint(1, 5)))
    rows += [("u0", f"i{item}", 1_500_000_000, 3) for item in unmet]
    draw.shuffle(rows)
    header = "user_id:token item_id:token timestamp:float rating:float"
    _write_rows(folder / f"{name}.inter", header, rows)
    header = "item_id:token title:token_seq brand:token categories:token_seq price:float"
    _write_rows(folder / f"{name}.item", header, [item_row(i, draw) for i in range(items + 2)])
    _write_rows(folder / f"{name}.user", "user_id:token", [(f"u{i}",) for i in range(users)])
    return rows


def item_row(number, draw):
    """An item: token, title, brand (or none), categories and price (or none)."""
    title = " ".join(draw.sample(WORDS, 3))
    brand = draw.choice(["brand", "old brand", ""])
    price = draw.choice(["", 1.5, 20])
    return f"i{number}", title, brand, draw.choice(WORDS[:4]), price


def _write_rows(path, header, rows):
    lines = [header.split(), *rows]
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in lines))


def split_rows(rows):
    """The last, the one before it and the others of each user: test, validation, training."""
    by_user = {}
    for row in sorted(rows, key=lambda row: row[2]):
        by_user.setdefault(row[0], []).append(row)
    parts = {"train": [], "valid": [], "test": []}
    for met in by_user.values():
        parts["train"] += met[:-2]
        parts["valid"] += met[-2:-1]
        parts["test"] += met[-1:]
    return parts


def write_presplit(folder, rows, name="parts"):
    """The same interactions in three files."""
    folder = Path(folder) / name
    folder.mkdir(parents=True)
    header = "user_id:token item_id:token timestamp:float rating:float"
    for part, members in split_rows(rows).items():
        _write_rows(folder / f"{name}.{part}.inter", header, members)


def write_table(folder, tokens, width=WIDTH, seed=2):
    """A table directory, written by hand: vectors, tokens and a manifest."""
    import torch
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True)
    vectors = torch.randn(len(tokens), width, generator=torch.Generator().manual_seed(seed))
    save_file({"embeddings": vectors}, folder / "embeddings.safetensors")
    (folder / "items.txt").write_text("".join(f"{token}\n" for token in tokens))
    manifest = {"format_version": 1, "count": len(tokens), "width": width, "dtype": "float32"}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_model(folder, kind, seed=0, positions=512):
    """A Hugging Face model of two layers with random weights, and a tokenizer of words."""
    import torch
    import transformers

    folder = Path(folder)
    folder.mkdir(parents=True)
    shape = {
        "vocab_size": _write_tokenizer(folder, positions, brackets=kind == "bert"),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": positions,
    }
    torch.manual_seed(seed)
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**shape))
    else:
        shape |= {"num_key_value_heads": 2, "pad_token_id": 0}
        model = transformers.LlamaModel(transformers.LlamaConfig(**shape))
    # Random weights of the usual size give states that hardly differ; larger ones do.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    model.eval().save_pretrained(folder)


def _write_tokenizer(folder, positions, brackets):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<unk>", "<s>", "</s>", *WORDS, *PROMPT_WORDS.split(), *map(str, range(60))]
    # All years that a prompt may name, and months and days.
    words += [*(str(year) for year in range(1970, 2091)), *(f"{day:02}" for day in range(10))]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if brackets:
        ids = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
        form = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
        backend.post_processor = form
    special = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=positions, padding_side="right", **special
    )
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def text_digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def tensor_digest(tensor):
    """Shape, type and a hash of the numbers."""
    import torch

    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    shape = "x".join(map(str, tensor.shape))
    kind = str(tensor.dtype).removeprefix("torch.")
    return f"{shape} {kind} {hashlib.sha256(data).hexdigest()[:16]}"


def tensors_of(path):
    """``{name: digest}`` of a safetensors file."""
    from safetensors.torch import load_file

    return {name: tensor_digest(tensor) for name, tensor in sorted(load_file(path).items())}
