"""Any sentence-transformers or Hugging Face model as a function from texts to vectors."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch

from recbole_llmemb.core.devices import usable_device
from recbole_llmemb.core.errors import UserError, name_some, reason_of
from recbole_llmemb.encode.adapters import LoraAdapter, load_adapter
from recbole_llmemb.encode.settings import EncodeSettings
from recbole_llmemb.encode.source import EncoderSource, refuse_code

__all__ = ["Encoder"]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_TOKENIZED = 4096
_POOLING_MODES = {"mean": "mean", "last": "lasttoken"}


def choose_devices(device: Any = None) -> list[str]:
    """Device names from ``auto``, ``cpu``, ``cuda:1``, ``cuda:0,cuda:1`` or a torch.device."""
    if device in (None, "", "auto"):
        return ["cuda" if torch.cuda.is_available() else "cpu"]
    names = [name.strip() for name in str(device).split(",") if name.strip()]
    if not names:
        raise UserError(f"llm_device {str(device)!r} names no device; choose auto or cpu.")
    for name in names:
        usable_device(name, "llm_device")
    return names


class Encoder:
    """Texts to vectors, loaded through sentence-transformers' modules.

    A sentence-transformers model keeps its pipeline; a plain Hugging Face model, encoder or
    decoder, becomes Transformer + Pooling.

    Parameters
    ----------
    source : EncoderSource
        From :func:`~recbole_llmemb.encode.source.find_encoder`.
    pooling : {None, "mean", "last"}
        How token states become one vector: the model's own (a plain model: mean), the mean over
        the tokens that are not padding, or the last of them.
    dtype : {"float32", "float16", "bfloat16"}
        The model's number type, and the vectors'.
    device : str or torch.device
        See :func:`choose_devices`. Several devices are served by sentence-transformers' process
        pool.
    max_length : int, optional
        Longer texts are cut to this many tokens; by default the model's own limit.
    normalize : bool
        Scale vectors to length one. A model that does so by itself does so in any case.
    batch_size : int
        Texts per forward pass.
    adapter : LoraAdapter, optional
        Low-rank changes to the model's weights; the rest of its pipeline stays.
    end_token : bool
        Read texts with the end token after them and none before.

    Raises
    ------
    UserError
        When the model or the adapter cannot be loaded, it has no pooling to change, or has no
        token to pad with.
    """

    def __init__(
        self,
        source: EncoderSource,
        pooling: str | None = None,
        dtype: str = "float32",
        device: Any = None,
        max_length: int | None = None,
        normalize: bool = False,
        batch_size: int = EncodeSettings.model_fields["llm_batch_size"].default,
        adapter: LoraAdapter | None = None,
        end_token: bool = False,
    ):
        EncodeSettings.refuse_value("llm_pooling", pooling)
        EncodeSettings.refuse_value("llm_dtype", dtype)
        self.devices = choose_devices(device)
        self.batch_size = batch_size
        self.dtype = DTYPES[dtype]
        self._pool = None
        self._normalize, self._name = normalize, source.name
        model = load_pipeline(source, pooling, self.dtype, self.devices[0], max_length, end_token)
        if adapter is not None:
            with quiet_loading():
                load_adapter(model, adapter.path, source.name)
        self.model = model.eval()

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """(len(texts), D) on the CPU, in the encoder's number type."""
        texts = list(texts)
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "show_progress_bar": False,
            "convert_to_tensor": True,
            "normalize_embeddings": self._normalize,
        }
        if len(self.devices) > 1:
            if self._pool is None:
                self._pool = self.model.start_multi_process_pool(self.devices)
            # As many chunks as processes: texts of a call are of similar length.
            options["chunk_size"] = max(1, -(-len(texts) // len(self.devices)))
            options["pool"] = self._pool
        try:
            with torch.inference_mode(), working(self._name):
                vectors = self.model.encode(texts, **options)
        except torch.OutOfMemoryError as error:
            told = f"{self.batch_size} texts at once do not fit into the memory of"
            advice = "set a smaller llm_batch_size or llm_max_length"
            raise UserError(f"{told} {', '.join(self.devices)}; {advice}.") from error
        # A copy: what inference mode made could not be written to.
        return torch.as_tensor(vectors).cpu().to(self.dtype).clone()

    def lengths(self, texts: Iterable[str]) -> list[int]:
        """Tokens of each text, cut where the model cuts it; characters without a tokenizer."""
        tokenizer: Any = getattr(self.model, "tokenizer", None)
        if not hasattr(tokenizer, "padding_side"):
            return [len(text) for text in texts]
        longest = self.model.max_seq_length
        found, texts = [], iter(texts)
        while part := list(islice(texts, _TOKENIZED)):  # as lists they take memory
            with working(self._name):
                ids = tokenizer(part, verbose=False)["input_ids"]
            found += [min(len(one), longest or len(one)) for one in ids]
        return found

    def close(self) -> None:
        """Let go of the model: its processes, and the memory of its device, for training."""
        if self._pool is not None:
            self.model.stop_multi_process_pool(self._pool)
            self._pool = None
        self.model = None
        if any(device.startswith("cuda") for device in self.devices):
            torch.cuda.empty_cache()


@contextlib.contextmanager
def quiet_loading():
    """No bar of transformers about loading or saving in the middle of our own report.

    Raises ValueError where files lack weights, which transformers would draw at random. Those of a
    pooler do not count: nobody asks it.
    """
    from transformers import PreTrainedModel
    from transformers.utils import logging

    was_on, lacking = logging.is_progress_bar_enabled(), list[str]()
    load = PreTrainedModel.__dict__["from_pretrained"]

    def noticed(cls, *given, output_loading_info=False, **options):
        model, told = load.__func__(cls, *given, output_loading_info=True, **options)
        lacking.extend(sorted(name for name in told["missing_keys"] if "pooler" not in name))
        return (model, told) if output_loading_info else model

    logging.disable_progress_bar()
    PreTrainedModel.from_pretrained = classmethod(noticed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # transformers' to its developers
            yield
    finally:
        PreTrainedModel.from_pretrained = load
        if was_on:
            logging.enable_progress_bar()
    if lacking:
        raise ValueError(f"its files lack {len(lacking)} of its weights: {name_some(lacking)}")


@contextlib.contextmanager
def working(name: str):
    """Say of an encoder that can be loaded, and then fails, that it is the encoder."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # of many libraries, each with its own errors
        why = f"{type(error).__name__}: {reason_of(error)}"
        told = f"The encoder {name!r} fails over the texts ({why})"
        advice = "repair it, take another one (llm_encoder) or shorter texts (llm_max_length)"
        raise UserError(f"{told}; {advice}.", key="llm_encoder") from error


def load_pipeline(
    source: EncoderSource,
    pooling: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    max_length: int | None = None,
    end_token: bool = False,
    **options: Any,
):
    """An encoder as a SentenceTransformer with the pooling asked for, ready to be padded.

    ``**options``: more for transformers' ``from_pretrained``; the others are as of
    :class:`Encoder`.
    """
    from sentence_transformers import SentenceTransformer

    try:
        if not source.trusted:
            refuse_code(source)
        with quiet_loading():
            model = SentenceTransformer(
                source.location,
                revision=None if source.is_directory else source.revision,
                local_files_only=source.offline,
                device=device,
                trust_remote_code=source.trusted,
                model_kwargs={"dtype": dtype, **options},
            )
    except Exception as error:  # loaders of many libraries, each with its own errors
        raise not_loaded("encoder", source.name, error) from error
    if pooling is not None or not _has_modules_file(source):
        _set_pooling(model, pooling or "mean", source.name)
    if max_length is not None:
        model.max_seq_length = max_length
    _prepare_tokenizer(model, source.name)
    _refuse_short(getattr(model, "tokenizer", None), max_length)
    if end_token:
        _end_texts(getattr(model, "tokenizer", None), source.name)
    return model


def quantization(bits: int, key: str, dtype: torch.dtype, device: Any, **more: Any) -> dict:
    """How ``from_pretrained`` is to load weights of 4 or 8 bits, which a setting asks for.

    ``more``: of 4 bits.
    """
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available() or device.type == "cpu":
        raise UserError(
            f"{key} is set, which needs a GPU and bitsandbytes; pip install bitsandbytes there, or "
            "leave it empty.",
            key=key,
        )
    kind = {"load_in_4bit": True, "bnb_4bit_compute_dtype": dtype, **more}
    config = BitsAndBytesConfig(**kind if bits == 4 else {"load_in_8bit": True})
    return {"quantization_config": config, "device_map": {"": device}}


def not_loaded(what: str, name: str, error: Exception) -> UserError:
    """Why an encoder or an LLM cannot be loaded, in a sentence."""
    if "trust_remote_code" in str(error):
        told = f"The {what} {name!r} cannot be loaded: it comes with code of its own"
        trust = "--trust_remote_code; in a run, --llm_trust_remote_code=True"
        return UserError(f"{told}, which is run only if this command says to trust it ({trust}).")
    why = f"{type(error).__name__}: {reason_of(error)}"
    if "UnpicklingError" in why:
        why = "its weights are a pickle, which may run code; save them as safetensors"
    key = "llm_encoder" if what == "encoder" else "llm_model"
    return UserError(f"The {what} {name!r} cannot be loaded ({why}).", key=key)


def _has_modules_file(source: EncoderSource) -> bool:
    if source.is_directory:
        return os.path.isfile(os.path.join(source.location, "modules.json"))
    from huggingface_hub import try_to_load_from_cache

    # The model was just loaded, so what the hub has of this file is in the local cache.
    found = try_to_load_from_cache(source.location, "modules.json", revision=source.revision)
    return isinstance(found, str)


def _set_pooling(model: Any, pooling: str, name: str) -> None:
    try:
        from sentence_transformers.sentence_transformer.modules import Pooling
    except ImportError:  # where it was before sentence-transformers 6
        from sentence_transformers.models import Pooling  # type: ignore[no-redef,assignment]

    for key, module in model.named_children():
        if isinstance(module, Pooling):
            width = getattr(module, "embedding_dimension", None) or module.word_embedding_dimension
            fresh = Pooling(width, pooling_mode=_POOLING_MODES[pooling])
            fresh.include_prompt = getattr(module, "include_prompt", True)
            setattr(model, key, fresh)
            return
    told = f"The encoder {name!r} has no pooling of token states that could be changed"
    raise UserError(f"{told} to {pooling!r}; leave llm_pooling empty.")


def _prepare_tokenizer(model: Any, name: str) -> None:
    tokenizer: Any = getattr(model, "tokenizer", None)
    if not hasattr(tokenizer, "padding_side"):
        return
    # On the right, positions count from the text's first token whatever the batch, which
    # absolute positions need; causal models never look at what is to the right.
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        # Masked everywhere, so any token of the vocabulary will do.
        stand_in = tokenizer.eos_token or tokenizer.unk_token or tokenizer.bos_token
        if stand_in is None:
            told = f"The tokenizer of the encoder {name!r} has neither a padding nor an end token"
            raise UserError(f"{told}; set its pad_token and save it again.")
        tokenizer.pad_token = stand_in


def _refuse_short(tokenizer: Any, max_length: int | None) -> None:
    """Refuse a length that the tokens around a text fill: nothing would be cut to it."""
    around = getattr(tokenizer, "num_special_tokens_to_add", int)()
    if max_length is not None and max_length <= around:
        told = f"llm_max_length is {max_length}, but {around} tokens stand around each text"
        raise UserError(f"{told}; set a larger one.", key="llm_max_length")


def _end_texts(tokenizer: Any, name: str) -> None:
    """Let a tokenizer put the end token after texts and nothing before them."""
    from tokenizers.processors import TemplateProcessing

    backend = getattr(tokenizer, "backend_tokenizer", None)
    end = getattr(tokenizer, "eos_token", None) or getattr(tokenizer, "sep_token", None)
    if backend is None or end is None:
        told = f"The tokenizer of the encoder {name!r} has no end token; leave llm_end_token off."
        raise UserError(told, key="llm_end_token")
    number = tokenizer.convert_tokens_to_ids(end)
    special = [("end", number)]
    backend.post_processor = TemplateProcessing(single="$A end", special_tokens=special)
