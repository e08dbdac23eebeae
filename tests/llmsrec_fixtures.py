"""Small LLM-SRec runs: random LLMs of a few kinds over the dataset ``tiny``."""

from __future__ import annotations

import pytest
from encode_models import make_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# The tokens of the prompts, so that different titles are different tokens.
_PROMPTS = (
    "This user has made a series of purchases in the following order : Item No . 1 2 3 4 5 6 7 8 "
    '9 10 , Time " Based on this sequence generate representation token The item title and '
    "embedding are as follows then number brand - red blue gel No soap"
)


def word_tokenizer(folder, numbers=60, brackets=False):
    """Replace a model's tokenizer by one that knows the words of the prompts, and numbers."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *dict.fromkeys(_PROMPTS.split())]
    words += [str(n) for n in range(numbers) if str(n) not in words]
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if brackets:
        from tokenizers.processors import TemplateProcessing

        ids = [(token, vocabulary[token]) for token in ("<s>", "</s>")]
        backend.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.save_pretrained(folder)
    return len(vocabulary)


def make_llm(folder, kind):
    """A random model of two layers, width 16, whose tokens are the words of the prompts."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    size = word_tokenizer(folder, brackets=kind == "bert")
    shape = {
        "vocab_size": size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
    }
    torch.manual_seed(0)
    if kind == "bert":
        model = transformers.BertModel(transformers.BertConfig(**shape))
    elif kind == "llama":
        model = transformers.LlamaModel(
            transformers.LlamaConfig(**shape, num_key_value_heads=2, pad_token_id=None)
        )
    else:
        make_model(folder, kind)  # with its own tokenizer, of bytes: prompts get long
        shape = transformers.AutoConfig.from_pretrained(folder)
        shape.max_position_embeddings = 4096
        model = transformers.AutoModel.from_config(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    model.eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llms(tmp_path_factory):
    """Directories of small LLMs: an encoder, and decoders of two families."""
    root = tmp_path_factory.mktemp("llms")
    return {kind: make_llm(root / kind, kind) for kind in ("bert", "llama", "qwen2")}


_EVALUATION = {
    "split": {"LS": "valid_and_test"},
    "order": "TO",
    "group_by": "user",
    "mode": "full",
}


def settings(tiny):
    """What all runs on ``tiny`` share."""
    return {
        "data_path": str(tiny.folder.parent),
        "load_col": {"inter": ["user_id", "item_id", "timestamp", "rating"]},
        "MAX_ITEM_LIST_LENGTH": 10,
        "hidden_size": 8,
        "metrics": ["Hit", "NDCG"],
        "topk": [5, 10],
        "metric_decimal_place": 8,
        "eval_args": _EVALUATION,
        "show_progress": False,
        "use_gpu": False,
        "gpu_id": "",
    }


@pytest.fixture(scope="session")
def cf_model(tmp_path_factory, tiny):
    """The checkpoint of a small CF model."""
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import train_in_isolation

    folder = tmp_path_factory.mktemp("cf")
    own = {"item_embedding": "id", "align_weight": 0.0, "checkpoint_dir": str(folder), "epochs": 2}
    own |= {"n_layers": 1, "n_heads": 1, "inner_size": 16, "train_batch_size": 16}
    config = make_config("LLMEmbSASRec", "tiny", overrides=settings(tiny) | own)
    return train_in_isolation(config).checkpoint


@pytest.fixture
def llmsrec(tiny, tiny_table, cf_model, llms):
    """``llmsrec(kind, **overrides)``: configuration, data, model and trainer of a run."""
    from recbole_llmemb.config.recbole_config import make_config
    from recbole_llmemb.run.stages import build, prepare_data

    def run(kind="llama", **overrides):
        own = {
            "align_teacher": str(cf_model),
            "llm_model": str(llms[kind]),
            "llm_table": str(tiny_table),
            "item_title_field": "title",
            "head_hidden_size": 24,
            "representation_size": 12,
            "history_items": 4,
            "learning_rate": 0.003,
            "epochs": 2,
            "train_batch_size": 8,
            "eval_batch_size": 16,
            "llm_batch_size": 7,
        }
        config = make_config("LLMSRec", "tiny", overrides=settings(tiny) | own | overrides)
        data = prepare_data(config)
        return config, data, *build(config, data)

    return run
