"""The frozen LLM: any Hugging Face model that takes input embeddings."""

from __future__ import annotations

from logging import getLogger
from os.path import commonprefix

import torch
from torch.nn.functional import pad

from recbole_llmemb.core.devices import preserve_random_state
from recbole_llmemb.core.errors import UserError
from recbole_llmemb.core.terminal import progress_bar
from recbole_llmemb.encode.encoder import DTYPES, not_loaded, quantization, quiet_loading
from recbole_llmemb.encode.source import CODE, find_encoder, refuse_code
from recbole_llmemb.models.llmsrec.prompts import PAD, fill, slot


class FrozenLLM:
    """Prompts to states of their slot 0. Not a module: it is neither trained nor saved.

    ``width``: H, the size of its states and input embeddings.
    ``supports_kv_prefix``: whether it can go on from keys and values of a prompt's beginning, as
    decoders can: tried out here, not told by the model's name.
    head, tail: The special tokens before and after any text.
    """

    def __init__(self, model, tokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.embed = model.get_input_embeddings()
        weight = self.embed.weight
        self.width = weight.shape[1]
        self.embedding_std = float(weight[: min(len(weight), 4096)].float().std())
        self.device = weight.device
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        fused = getattr(model.config, "_attn_implementation", None) == "sdpa"
        on_cpu = weight.device.type == "cpu"
        self._slow_bf16_backward = fused and on_cpu and weight.dtype == torch.bfloat16
        self.supports_kv_prefix = True
        self.supports_kv_prefix = self._reads_in_parts()
        self.head, self.tail = _special_tokens(tokenizer)

    @property
    def max_prompt_tokens(self):
        """Most tokens of a prompt; infinite where positions have no end."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        # RoBERTa and its kin count places from behind that of padding.
        places = getattr(getattr(self.model, "embeddings", None), "position_embeddings", None)
        padding = getattr(places, "padding_idx", None)
        if most is None:
            return float("inf")
        return most if padding is None else most - padding - 1

    def tokenize(self, texts):
        """Token ids of each text, without special tokens."""
        if not texts:
            return []
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def states(self, codes, vectors, prefix=None, prefix_mask=None):
        """The state of slot 0 of each prompt, ``(b, H)``.

        ``codes`` (b, L): without what ``prefix`` stands for.
        ``vectors`` (b, S, H): what goes into the slots; gradients flow to them.
        ``prefix``: for each layer keys and values ``(b, heads, P, size)`` of what precedes the
        prompts, or of one beginning of all of them.
        ``prefix_mask`` (b, P): 0 where a prefix is padding.
        """
        embedded = fill(self.embed(codes.clamp(min=0)), codes, vectors)
        answer = self._read(embedded, (codes != PAD).long(), prefix, prefix_mask)
        rows = torch.arange(len(codes), device=codes.device)
        return answer.last_hidden_state[rows, (codes == slot(0)).long().argmax(1)].float()

    def position_states(self, vectors, mask, prefix=None):
        """The state at every place of sequences of vectors ``(b, L, H)``, in one causal pass.

        ``mask`` (b, L): 0 where a sequence is padding, on its right.
        ``prefix``: of :meth:`keys_values`, what all of them begin with.
        """
        return self._read(
            vectors.to(self.embed.weight.dtype), mask, prefix
        ).last_hidden_state.float()

    @torch.no_grad()
    def keys_values(self, tokens, mask=None, prefix=None):
        """Keys and values of every layer, those of a prefix before them: ``(b, heads, L, size)``.

        ``tokens``, ``mask`` (b, L): padding on the right.
        ``prefix``: what all rows begin with.
        """
        mask = torch.ones_like(tokens) if mask is None else mask
        cache = self._read(self.embed(tokens), mask, prefix, keep=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    def _read(self, embedded, mask, prefix=None, prefix_mask=None, keep=False):
        if self._slow_bf16_backward:
            # PyTorch's fused attention has a slow way back for bfloat16 on a CPU: half of a step.
            kind = "eager" if torch.is_grad_enabled() else "sdpa"
            if self.model.config._attn_implementation != kind:
                self.model.set_attn_implementation(kind)
        options = {}
        if prefix is not None:
            from transformers import DynamicCache

            count, begun = len(embedded), prefix[0][0].shape[2]
            layers = [[part.expand(count, -1, -1, -1) for part in pair] for pair in prefix]
            options["past_key_values"] = DynamicCache(layers)
            before = mask.new_ones(count, begun) if prefix_mask is None else prefix_mask
            mask = torch.cat([before, mask], dim=1)
        if self.supports_kv_prefix:
            # Counted from each prompt's first token, wherever its padding is.
            positions = (mask.cumsum(1) - 1).clamp_(min=0)
            options["position_ids"] = positions[:, -embedded.shape[1] :]
            options["use_cache"] = keep or prefix is not None
        return self.model(inputs_embeds=embedded, attention_mask=mask, **options)

    @torch.no_grad()
    def _reads_in_parts(self):
        """Whether reading five tokens in two parts gives what reading them at once gives."""
        tokens = torch.arange(5, 10, device=self.device).unsqueeze(0) % len(self.embed.weight)
        embedded, mask = self.embed(tokens), torch.ones_like(tokens)
        try:
            whole = self._read(embedded, mask).last_hidden_state[:, 3:]
            begun = self.keys_values(tokens[:, :3])
            rest = self._read(embedded[:, 3:], mask[:, 3:], begun).last_hidden_state
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError):
            return False  # an encoder, or a memory of another kind
        limit = 1e-3 if whole.dtype == torch.float32 else 0.1
        scale = float(whole.float().std()) + 1e-6
        return float((whole.float() - rest.float()).abs().max()) < limit * scale


class PrefixKVCache:
    """What a decoder makes of the beginnings of many prompts.

    Everything before the first slot of a prompt depends on nothing that is trained, so neither do
    its keys and values. What all beginnings share is read once. The rest of them is kept, unless
    it takes more than the budget: then it is read whenever it is needed.

    ``llm``: one that ``supports_kv_prefix``.
    ``rows``: token ids of each beginning; all begin with the same token at least, and have more.
    ``budget``: gigabytes.
    """

    def __init__(self, llm, rows, budget, batch_size=64, show_progress=False):
        self.llm, self.batch_size, self.show_progress = llm, batch_size, show_progress
        # One token at least is left to each: a row of nothing would be all padding.
        shared = commonprefix([row[:-1] for row in rows])
        self.n_shared = len(shared)
        self.shared = llm.keys_values(torch.tensor([shared], device=llm.device))
        self.rows = [torch.tensor(row[len(shared) :]) for row in rows]
        self.lengths = torch.tensor([len(row) for row in self.rows])
        parts = [part[0, :, 0] for pair in self.shared for part in pair]
        size = int(self.lengths.sum()) * sum(part.numel() * part.element_size() for part in parts)
        self.keeps = size <= budget * 1e9
        if budget and not self.keeps:
            getLogger().warning(
                f"The beginnings of {len(rows):,} item prompts take {size / 1e9:.1f} GB, and "
                f"prefix_cache is {budget}, so that none are kept and each step reads its own."
            )
        self._kept = []

    def layers(self, ids):
        """Keys and values of these beginnings, the shared one included.

        ``ids`` (b,): row numbers, on the LLM's device.
        Returns for each layer keys and values ``(b, heads, P, size)``, padded on the right, and the
        mask ``(b, P)``.
        """
        layers, mask = self._gather(ids) if self.keeps else self._read(ids.cpu())
        count = len(ids)
        whole = [
            [torch.cat([one.expand(count, -1, -1, -1), part], dim=2) for one, part in zip(*pairs)]
            for pairs in zip(self.shared, layers)
        ]
        return whole, pad(mask, (self.n_shared, 0), value=1)

    def _read(self, ids):
        """By the LLM: layers and mask of the beginnings ``ids``, without what is shared."""
        rows = [self.rows[i] for i in ids.tolist()]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = (torch.arange(tokens.shape[1]) < self.lengths[ids].unsqueeze(1)).long()
        tokens, mask = tokens.to(self.llm.device), mask.to(self.llm.device)
        layers = self.llm.keys_values(tokens, mask, self.shared)
        return [[part[:, :, self.n_shared :] for part in pair] for pair in layers], mask

    def _keep(self):
        """Read all beginnings, those of similar length together, one row of numbers per token."""
        order = torch.argsort(self.lengths, descending=True)
        ends = self.lengths[order].cumsum(0)
        starts = torch.empty_like(ends).index_copy_(0, order, ends - self.lengths[order])
        batches, end = order.split(self.batch_size), 0
        for batch in progress_bar(batches, "Item prompts", disable=not self.show_progress):
            layers, mask = self._read(batch)
            begin, end = end, end + int(self.lengths[batch].sum())
            for number, pair in enumerate(layers):
                rows = [part.transpose(1, 2)[mask.bool()] for part in pair]
                if begin == 0:
                    self._kept.append([r.new_empty(int(ends[-1]), *r.shape[1:]) for r in rows])
                for kept, read in zip(self._kept[number], rows):
                    kept[begin:end] = read
        self._starts, self._lengths = starts.to(self.llm.device), self.lengths.to(self.llm.device)
        self._longest = int(self.lengths.max())

    def _gather(self, ids):
        if not self._kept:
            self._keep()
        lengths = self._lengths[ids]
        # As wide as the longest of all: finding the longest of these would wait for the device,
        # except where there is nothing to wait for.
        longest = int(lengths.max()) if ids.device.type == "cpu" else self._longest
        offsets = torch.arange(longest, device=ids.device)
        mask = offsets < lengths.unsqueeze(1)
        index = (self._starts[ids].unsqueeze(1) + offsets) * mask
        layers = [[part[index].transpose(1, 2) for part in pair] for pair in self._kept]
        return layers, mask.long()


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
    named, trusted = config["llm_model"] or config["llm_encoder"], config["llm_trust_remote_code"]
    needed = config["llm_model_used"]
    # As it was trained, if the command says so, too; it may trust other things alone.
    made = not needed or needed["identity"].endswith(CODE)
    source = find_encoder(named, trusted=bool(trusted) and made)
    if needed and needed["identity"] != source.identity:
        told = f"{source.name} is not the LLM this model was trained with"
        was = f"{needed['name']}, {needed['identity']}"
        advice = source.advice(needed["identity"], "llm_model")
        raise UserError(f"{told} ({was}); {advice}.", key="llm_model")
    config["llm_model_used"] = {"name": source.name, "identity": source.identity}
    device = torch.device(config["device"])
    name = config["llm_model_dtype"] or ("bfloat16" if device.type == "cuda" else "float32")
    (report or getLogger().info)(f"LLM: {source.name} in {config['llm_quantize'] or name}")
    options = {
        "revision": None if source.is_directory else source.revision,
        "local_files_only": source.offline,
        "trust_remote_code": source.trusted,
    }
    kinds = {"dtype": DTYPES[name]}
    if config["llm_quantize"]:
        bits = int(config["llm_quantize"].removesuffix("bit"))
        kinds |= quantization(bits, "llm_quantize", DTYPES[name], device)
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        if not source.trusted:
            refuse_code(source)
        with preserve_random_state(), quiet_loading():
            if config["causal_pass"]:
                settings = AutoConfig.from_pretrained(source.location, **options)
                if hasattr(settings, "is_decoder"):  # an encoder that can be read as a decoder
                    kinds["is_decoder"] = True
            model = AutoModel.from_pretrained(source.location, **options, **kinds)
            tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
        if not config["llm_quantize"]:
            model = model.to(device)
    except Exception as error:  # loaders of many libraries, each with its own errors
        raise not_loaded("LLM", source.name, error) from error
    if model.config.is_encoder_decoder or model.get_input_embeddings() is None:
        told = f"The LLM {source.name!r} does not turn input embeddings into states"
        raise UserError(f"{told}; name an encoder or a decoder (llm_model).", key="llm_model")
    return FrozenLLM(model, tokenizer)
