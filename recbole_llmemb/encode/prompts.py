"""The item prompt of LLMEmb (stage 1): an instruction naming the domain, then the attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DEFAULT_INSTRUCTION = "The item has the following attributes:"
DEFAULT_MAX_CHARS = 100

# All items of which nothing is known share one text and so one vector: any text of their own
# (their token, say) would be noise that looks like knowledge.
NOTHING_KNOWN = "Nothing is known about this item."


def item_prompts(
    attributes: Sequence[Mapping[str, str]],
    instruction: str = DEFAULT_INSTRUCTION,
    value_max_chars: int | None = DEFAULT_MAX_CHARS,
) -> list[str]:
    """One prompt per item: ``<instruction> name is value; name is value; …``.

    Parameters
    ----------
    attributes : sequence of mapping
        Per item, attribute name to text, in the order they shall have.
    instruction : str
        What comes first, naming the domain; may be empty.
    value_max_chars : int, optional
        Longer values are cut to this many characters; None or 0 leaves them whole.

    Returns
    -------
    list of str
        Items without any attribute get :data:`NOTHING_KNOWN`, without the instruction.
    """
    return [item_prompt(item, instruction, value_max_chars) for item in attributes]


def item_prompt(
    attributes: Mapping[str, str],
    instruction: str = DEFAULT_INSTRUCTION,
    value_max_chars: int | None = DEFAULT_MAX_CHARS,
) -> str:
    """The prompt of one item; see :func:`item_prompts`."""
    pairs = [f"{name} is {value[: value_max_chars or None]}" for name, value in attributes.items()]
    if not pairs:
        return NOTHING_KNOWN
    instruction = instruction.strip()
    return (f"{instruction} " if instruction else "") + "; ".join(pairs)
