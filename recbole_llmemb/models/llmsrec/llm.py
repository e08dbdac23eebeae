"""The frozen LLM: any Hugging Face model that takes input embeddings."""

from __future__ import annotations

import importlib.util
from logging import getLogger

import torch

from recbole_llmemb.core import random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.encode.encoder import DTYPES, not_loaded, quiet_loading
from recbole_llmemb.encode.source import find_encoder, refuse_code
from recbole_llmemb.models.llmsrec.prompt_batch import fill


class FrozenLLM:
    """Prompts to states of their last slot. Not a module: it is neither trained nor saved.

    ``model``: without a head; on its device.

    ``width``: H, the size of its states and input embeddings.
    ``spread``: Standard deviation of its token embeddings.
    ``keeps_prefixes``: Whether keys and values of a prompt's beginning can be reused (decoders):
    tried out here, not told by the model's name.
    head, tail: The special tokens before and after any text.
    """

    def __init__(self, model, tokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.embed = model.get_input_embeddings()
        weight = self.embed.weight
        self.width = weight.shape[1]
        self.spread = float(weight[: min(len(weight), 4096)].float().std())
        self.device = weight.device
        fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
        on_cpu = weight.device.type == "cpu"
        self._slow_slopes = fused and on_cpu and weight.dtype == torch.bfloat16
        self.keeps_prefixes = self._try_prefixes()
        self.head, self.tail = _special_tokens(tokenizer)

    @property
    def parameters(self):
        """Number of parameters, none of them trained."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def longest(self):
        """Most tokens of a prompt, or None where positions have no end."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        # RoBERTa and its kin count places from behind that of padding.
        places = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(places, "padding_idx", None)
        return most if most is None or padding is None else most - padding - 1

    def tokenise(self, texts):
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def states(self, prompts, vectors, prefix=None, prefix_mask=None):
        """The state of slot 0 of each prompt.

        ``prompts``: b of them, without what ``prefix`` stands for.
        ``vectors`` (b, S, H): what goes into the slots; gradients flow to them.
        ``prefix``: for each layer keys and values ``(b, heads, P, size)`` of what precedes the
        prompts.
        ``prefix_mask`` (b, P): 0 where a prefix is padding.
        Returns (b, H).
        """
        self._choose_attention()
        embedded = fill(self.embed(prompts.tokens), prompts, vectors)
        options = {"inputs_embeds": embedded, "attention_mask": prompts.mask}
        if prefix is not None:
            from transformers import DynamicCache

            mask = torch.cat([prefix_mask, prompts.mask], dim=1)
            options |= {"attention_mask": mask, "past_key_values": DynamicCache(prefix)}
        if self.keeps_prefixes:
            # Counted from each prompt's first token, wherever its padding is.
            positions = (options["attention_mask"].cumsum(1) - 1).clamp_(min=0)
            options["position_ids"] = positions[:, -embedded.shape[1] :]
            options["use_cache"] = prefix is not None
        states = self.model(**options).last_hidden_state
        rows = torch.arange(len(states), device=states.device)
        return states[rows, prompts.ends].float()

    def _choose_attention(self):
        # PyTorch's fused attention has a slow way back for bfloat16 on a CPU: half of a step.
        if self._slow_slopes:
            kind = "eager" if torch.is_grad_enabled() else "sdpa"
            if self.model.config._attn_implementation != kind:
                self.model.set_attn_implementation(kind)

    @torch.no_grad()
    def keys_values(self, tokens, mask=None, prefix=None):
        """Keys and values of every layer, ``[(b, heads, P + L, size)] · 2``.

        ``tokens``, ``mask`` (b, L): padding on the right.
        ``prefix``: of what precedes the tokens, without padding.
        """
        from transformers import DynamicCache

        mask = torch.ones_like(tokens) if mask is None else mask
        if prefix is not None:
            mask = torch.cat([mask.new_ones(len(mask), prefix[0][0].shape[2]), mask], dim=1)
        positions = (mask.cumsum(1) - 1).clamp_(min=0)[:, -tokens.shape[1] :]
        cache = self.model(
            inputs_embeds=self.embed(tokens),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=DynamicCache(prefix) if prefix is not None else None,
            use_cache=True,
        ).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    @torch.no_grad()
    def _try_prefixes(self):
        """Whether reading five tokens in two parts gives what reading them at once gives."""
        from transformers import DynamicCache

        tokens = torch.arange(5, device=self.device).unsqueeze(0) + 5
        tokens = tokens % self.embed.weight.shape[0]
        places = torch.arange(5, device=self.device).unsqueeze(0)
        embedded = self.embed(tokens)
        try:
            whole = self.model(inputs_embeds=embedded, position_ids=places).last_hidden_state
            layers = self.keys_values(tokens[:, :3])
            options = {"attention_mask": torch.ones_like(tokens), "position_ids": places[:, 3:]}
            rest = self.model(
                inputs_embeds=embedded[:, 3:], past_key_values=DynamicCache(layers), **options
            ).last_hidden_state
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError):
            return False  # an encoder, or a memory of another kind
        scale = float(whole.float().std()) + 1e-6
        limit = 1e-3 if whole.dtype == torch.float32 else 0.1
        return float((whole[:, 3:].float() - rest.float()).abs().max()) < limit * scale


def _special_tokens(tokenizer):
    """Special tokens that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for begin in range(len(whole) - len(plain) + 1):
        if whole[begin : begin + len(plain)] == plain:
            return whole[:begin], whole[begin + len(plain) :]
    return [], []


def load_llm(config, report=None):
    """The LLM a configuration names, on the run's device.

    ``config``: ``llm_model`` (empty: ``llm_encoder``), ``llm_model_dtype``, ``llm_quantize``,
    ``llm_trust_remote_code``. One that comes from a checkpoint names the LLM the model was trained
    with; a new one is given its name.
    ``report``: told in one line what is loaded; the log by default.
    """
    source = find_encoder(config["llm_model"] or config["llm_encoder"])
    needed = config["llm_model_used"]
    if needed and needed["identity"] != source.identity:
        raise UserError(
            f"{source.name} is not the LLM this model was trained with ({needed['name']}, "
            f"{needed['identity']}); set llm_model to that one."
        )
    config["llm_model_used"] = {"name": source.name, "identity": source.identity}
    device = torch.device(config["device"])
    name = config["llm_model_dtype"] or ("bfloat16" if device.type == "cuda" else "float32")
    (report or getLogger().info)(f"LLM: {source.name} in {config['llm_quantize'] or name}")
    options = {
        "revision": None if source.is_directory else source.revision,
        "local_files_only": source.offline,
        "trust_remote_code": bool(config["llm_trust_remote_code"]),
    }
    kinds = {"dtype": DTYPES[name]}
    if config["llm_quantize"]:
        kinds |= _quantisation(config["llm_quantize"], DTYPES[name], device)
    from transformers import AutoModel, AutoTokenizer

    try:
        if not options["trust_remote_code"]:
            refuse_code(source)
        with random_state.preserve(), quiet_loading():
            model = AutoModel.from_pretrained(source.location, **options, **kinds)
            tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
        if not config["llm_quantize"]:
            model = model.to(device)
    except Exception as error:  # loaders of many libraries, each with its own errors
        raise not_loaded("LLM", source.name, error) from error
    if model.config.is_encoder_decoder or model.get_input_embeddings() is None:
        raise UserError(
            f"The LLM {source.name!r} does not read input embeddings and give states of its last "
            "layer; name an encoder or a decoder (llm_model)."
        )
    return FrozenLLM(model, tokenizer)


def _quantisation(kind, dtype, device):
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"llm_quantize is {kind!r}, which needs the package bitsandbytes; install it, or "
            "leave llm_quantize empty."
        )
    if device.type != "cuda":
        raise UserError(f"llm_quantize is {kind!r}, which needs a GPU; leave it empty.")
    from transformers import BitsAndBytesConfig

    chosen = (
        BitsAndBytesConfig(load_in_8bit=True)
        if kind == "8bit"
        else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)
    )
    return {"quantization_config": chosen, "device_map": {"": device}}
