"""Counts the tokens of prompts with a model's own tokenizer, without torch."""

from __future__ import annotations

import html
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from render_farm.models import PRESETS
from render_farm.planning.prompt_length import MAX_TOKENS, LengthOf, TextLength, estimated_length

_MOST_CHARACTERS = 10_000_000
"""Counted in one process, which takes some 5 s. What is beyond them is estimated."""
_SURELY_SHORT = 400
"""Characters that are fewer tokens in every language: a token is a character at least, unless it is of rare script."""


def local_folder(name: str) -> Path | None:
    """The folder of a model where it is on this machine; nothing is downloaded."""
    preset = PRESETS.get(name)
    if preset is None:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    if not preset.hub_id:
        from render_farm.tiny import MODEL_DIR

        return MODEL_DIR
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(preset.hub_id, "tokenizer/tokenizer.json")
    return Path(found).parent.parent if isinstance(found, str) else None


@lru_cache(maxsize=16)
def lengths_by_tokenizer(folder: Path | None) -> LengthOf:
    """Counts by the tokenizer of the model in `folder`; estimates where there is none, or no package to read it."""
    tokenizer = None if folder is None else _tokenizer(folder / "tokenizer" / "tokenizer.json")
    if tokenizer is None:
        return estimated_length

    num_characters = 0

    def length_of(text: str) -> TextLength:
        nonlocal num_characters
        if len(text) < _SURELY_SHORT:
            return TextLength(num_tokens=1)
        num_characters += len(text)
        return estimated_length(text) if num_characters > _MOST_CHARACTERS else _counted(tokenizer, text)

    return lru_cache(maxsize=4096)(length_of)


def _tokenizer(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return None
    try:
        content = path.read_text()
        parts = json.loads(content)
        if not all(map(_is_simple, _patterns([parts.get("normalizer"), parts.get("pre_tokenizer")]))):
            return None
        tokenizer = Tokenizer.from_str(content)
    except Exception:  # noqa: BLE001 - the package raises Exception itself; bad models are refused elsewhere
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _patterns(part: Any) -> set[str]:
    """The regular expressions in a part of a tokenizer."""
    if isinstance(part, dict):
        return _patterns(list(part.values())) | ({str(part["Regex"])} if "Regex" in part else set())
    return set().union(*map(_patterns, part)) if isinstance(part, list) else set()


def _is_simple(pattern: str) -> bool:
    """Whether a regular expression is quick with any text: no groups, and nothing or one thing repeated."""
    return "(" not in pattern and len(re.findall("[*+?{]", pattern)) <= 1


def _counted(tokenizer: Any, text: str) -> TextLength:
    cleaned = _cleaned(text)
    try:
        encoding = tokenizer.encode(cleaned, add_special_tokens=True)
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # of Rust, which is no `Exception`
            return estimated_length(text)
        raise
    num_tokens = len(encoding.ids)
    if num_tokens <= MAX_TOKENS:
        return TextLength(num_tokens=num_tokens)
    # The last token that is kept is the end token.
    return TextLength(num_tokens=num_tokens, unseen=cleaned[encoding.offsets[MAX_TOKENS - 1][0] :])


def _cleaned(text: str) -> str:
    """As `text_encoder.clean_prompt`, which needs diffusers."""
    try:
        import ftfy

        text = ftfy.fix_text(text)
    except ImportError:
        pass  # needed to render; without it the count may be off by a few
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()
