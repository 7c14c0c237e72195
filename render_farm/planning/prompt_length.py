"""Prompts that the text encoder sees only the start of: diffusers cuts them at 512 tokens without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

MAX_TOKENS = 512
"""diffusers' `max_sequence_length`, the end token included."""
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class TextLength:
    """How many tokens a text is."""

    num_tokens: int
    """The end token included."""
    unseen: str = ""
    """The text from where it is cut; empty when all of it is seen."""
    is_exact: bool = True
    """False where no tokenizer was at hand."""


LengthOf = Callable[[str], TextLength]


def estimated_length(text: str) -> TextLength:
    """Without a tokenizer: 4 characters per token, as in English, and one per token where spaces do not separate words
    (Chinese, Japanese, Thai). Texts that are short for certain cost nothing."""
    if len(text) < MAX_TOKENS:
        return TextLength(num_tokens=len(text.split()) + 1, is_exact=False)
    spent = 1.0
    cut_at = None
    for at, character in enumerate(text):
        spent += 0.75 if "\u0e00" <= character <= "\u0eff" or character >= "\u2e80" else 0.24
        if cut_at is None and spent > MAX_TOKENS:
            cut_at = at
    return TextLength(num_tokens=round(spent), unseen="" if cut_at is None else text[cut_at:], is_exact=False)


def too_long(texts: Iterable[str], negative_prompt: str, length_of: LengthOf) -> list[str]:
    """A warning for each text that is cut, with the place."""
    warnings = []
    for text in texts:
        length = length_of(text)
        if length.num_tokens <= MAX_TOKENS:
            continue
        name = "negative_prompt" if text == negative_prompt else "prompt"
        about = "" if length.is_exact else "about "
        note = "" if length.is_exact else " (an estimate, without the model's tokenizer)"
        start = " ".join(length.unseen.split())[:_SHOWN_CHARACTERS]
        warnings.append(
            f"{name} has {about}{length.num_tokens:,} tokens, and the model sees the first {MAX_TOKENS}: it is cut "
            f'{"near" if about else "before"} "{start}"{note}'
        )
    return warnings
