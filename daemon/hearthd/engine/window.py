"""What becomes of tokens that do not fit the context window: pure arithmetic."""

from __future__ import annotations

TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the prompt, "
    "adjust the context length in settings, or use a model with a longer context length"
)


class PromptTooLong(ValueError):
    """The prompt fills the window and may not be cut."""

    def __init__(self) -> None:
        super().__init__(TOO_LONG)


def num_kept(num_keep: int, *, prompt_length: int, add_bos: bool, num_ctx: int) -> int:
    """How many tokens stay at the front of a window of `num_ctx`, 0..num_ctx - 1.

    `num_keep` < 0 is the whole prompt; otherwise a BOS that the tokenizer adds is kept beside them.
    """
    wanted = prompt_length if num_keep < 0 else num_keep + add_bos
    return min(wanted, num_ctx - 1)


def num_dropped(kept: int, num_ctx: int) -> int:
    """How many of the tokens after the first `kept` make room in a full window: half of them, one at least."""
    return max((num_ctx - kept) // 2, 1)


def fitted(ids: list[int], *, num_ctx: int, kept: int, truncate: bool) -> list[int]:
    """`ids`, or where they fill the window their first `kept` and last ones, about half of the rest.

    The cut leaves num_ctx - num_dropped ids, one at least. Raises PromptTooLong where a cut is needed and
    `truncate` is False.
    """
    if len(ids) < num_ctx:
        return ids
    if not truncate:
        raise PromptTooLong
    num_last = num_ctx - num_dropped(kept, num_ctx) - kept
    return (ids[:kept] + ids[len(ids) - num_last :]) or ids[-1:]
