"""Small random models and item files for the tests of encoding."""

import itertools

import torch

WORDS = "the item movie beauty has following attributes title is brand red blue soap gel one two"

ITEM_FILE = """item_id:token\ttitle:token_seq\tbrand:token\tprice:float
a7\tred soap\tone\t1.5
b2\tblue gel\t\t2.0
c9\tred gel one\ttwo\t
d1\tred soap\tone\t1.5
e5\t\t\t
"""


def write_dataset(folder, name="tiny", text=ITEM_FILE):
    """``folder/name/name.item``, and its path."""
    path = folder / name / f"{name}.item"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def many_items(count):
    """An item file with ``count`` different texts of many lengths."""
    words = WORDS.split()
    lines = ["item_id:token\ttitle:token_seq"]
    for i, pair in zip(
        range(count), itertools.cycle(itertools.permutations(words, 3)), strict=False
    ):
        lines.append(f"i{i}\t{' '.join(pair[: i % 3 + 1])} {words[i % 7]} {words[i // 7 % 11]}")
    return "\n".join(lines) + "\n"


def make_tokenizer(folder, pad=True, padding_side="right"):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<unk>", "</s>", ":", ";", *WORDS.split()]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"unk_token": "<unk>", "eos_token": "</s>"}
    if pad:
        special["pad_token"] = "<pad>"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side=padding_side, model_max_length=64, **special
    )
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def make_byte_tokenizer(folder, padding_side):
    """Of the class that transformers insists on for Qwen models."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2TokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([WORDS] * 3, trainer)
    learned = json.loads(backend.to_str())["model"]
    tokenizer = Qwen2TokenizerFast(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        eos_token="</s>",
        pad_token="<pad>",
        unk_token=None,
        padding_side=padding_side,
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def make_model(folder, kind, pad=True, padding_side="right", seed=0):
    """A plain Hugging Face model directory: random weights, two layers, width 16."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    if kind in ("qwen2", "qwen3"):
        size = make_byte_tokenizer(folder, padding_side)
    else:
        size = make_tokenizer(folder, pad=pad, padding_side=padding_side)
    shape = {
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 128,
    }
    torch.manual_seed(seed)
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**shape))
    elif kind == "llama":
        model = transformers.LlamaModel(
            transformers.LlamaConfig(**shape, num_key_value_heads=2, pad_token_id=None)
        )
    elif kind == "qwen2":
        model = transformers.Qwen2Model(transformers.Qwen2Config(**shape, num_key_value_heads=1))
    elif kind == "qwen3":
        model = transformers.Qwen3Model(
            transformers.Qwen3Config(**shape, num_key_value_heads=1, head_dim=8)
        )
    elif kind == "mistral":
        model = transformers.MistralModel(
            transformers.MistralConfig(**shape, num_key_value_heads=1)
        )
    elif kind == "gpt2":  # learned absolute positions
        model = transformers.GPT2Model(
            transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64)
        )
    else:
        raise ValueError(kind)
    # Random weights of the usual size give states that hardly differ; larger ones do.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    model.eval().save_pretrained(folder)
    return folder


_KEYS = {"fields": "item_text_fields", "prompt": "item_prompt",
         "value_max_chars": "item_value_max_chars"}  # fmt: skip


def encode_job(**options):
    """A job; settings without what their keys begin with."""
    from recbole_llmemb.encode.job import EncodeJob
    from recbole_llmemb.encode.settings import EncodeSettings

    own = {name: options.pop(name) for name in EncodeJob.model_fields if name in options}
    keys = {_KEYS.get(name, f"llm_{name}"): value for name, value in options.items()}
    return EncodeJob(settings=EncodeSettings.of(keys), **own)
