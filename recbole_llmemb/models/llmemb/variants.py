"""Which item embeddings, adapters and scores go together."""

from __future__ import annotations

from recbole_llmemb.core.errors import UserError


def check_variant(config) -> None:
    """Refuse settings that contradict each other or would have no effect.

    ``config``: anything with ``config[key]``, None where a key is not set; each value is one of
    those that it may be.
    """
    adapter = config["adapter"] or "linear"
    if config["offset_decay"] and config["item_embedding"] != "residual":
        raise UserError(
            f"offset_decay is {config['offset_decay']}, but item_embedding is "
            f"{config['item_embedding']!r}, which has no offsets; set item_embedding: residual "
            "or leave offset_decay empty."
        )
    if config["item_embedding"] != "id":
        _check_adapter(config, adapter)
    learnt = adapter in ("linear", "mlp") and config["adapter_hidden_size"] != 0
    own = config["item_embedding"] in ("both", "residual")
    if own and not learnt and config["llm_freeze"] is False:
        which = "adapter_hidden_size: 0" if adapter == "linear" else f"adapter: {adapter}"
        raise UserError(
            f"item_embedding is {config['item_embedding']!r}, but with {which} and "
            "llm_freeze: False each item's vector is learnt already; set llm_freeze: True or "
            "item_embedding: table."
        )
    _check_temperature(config)
    if config["popularity_adjustment"] and config["loss_type"] not in (None, "CE"):
        raise UserError(
            f"popularity_adjustment is {config['popularity_adjustment']}, but loss_type is "
            f"{config['loss_type']}, which compares no more than sampled items; set loss_type: CE, "
            "or popularity_adjustment: 0."
        )


def _check_adapter(config, adapter):
    hidden = config["adapter_hidden_size"]
    if adapter == "mlp" and hidden == 0:
        raise UserError(
            "adapter is 'mlp', but adapter_hidden_size is 0, which leaves no hidden layer; "
            "give it a width, or set adapter: none."
        )
    if adapter in ("none", "whitening") and hidden:
        raise UserError(
            f"adapter_hidden_size is {hidden}, but adapter is {adapter!r}, which has no layers; "
            "leave it empty, or set adapter: linear or mlp."
        )
    if config["adapter_dropout"] and adapter != "mlp":
        raise UserError(
            f"adapter_dropout is {config['adapter_dropout']}, but adapter is {adapter!r}, which "
            "has no hidden layer; set it to 0, or adapter: mlp."
        )
    if adapter == "whitening" and config["llm_whiten"] == 0:
        raise UserError(
            "adapter is 'whitening', but llm_whiten is 0; give it the standard deviation that "
            "the item embeddings shall have."
        )
    if config["llm_init_std"] and not (adapter == "none" or adapter == "linear" and hidden == 0):
        raise UserError(
            f"llm_init_std is {config['llm_init_std']}, but adapter is {adapter!r}; it is for "
            "adapter: none, and llm_whiten sets the spread for the others."
        )


def _check_temperature(config):
    from recbole_llmemb.models.scoring import BOUNDS

    low, high = BOUNDS
    tau = config["similarity_temperature"]
    if config["learn_temperature"] and tau is not None and not low <= tau <= high:
        raise UserError(
            f"similarity_temperature is {tau}, but a learnt one stays between {low} and {high}; "
            "start it there, or set learn_temperature: False."
        )
