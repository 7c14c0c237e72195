"""Counting tokens is exactly what the text stage does."""

from __future__ import annotations

from render_farm.engine.conditioning.text_encoder import MAX_TOKENS, clean_prompt
from render_farm.engine.conditioning.token_count import lengths_by_tokenizer, local_folder
from render_farm.planning import prompt_length


def test_the_limit_is_that_of_the_text_encoder():
    assert prompt_length.MAX_TOKENS == MAX_TOKENS


def test_tokens_are_counted_as_the_text_stage_cuts_them():
    from transformers import AutoTokenizer

    folder = local_folder("tiny")
    assert folder is not None
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    length_of = lengths_by_tokenizer(folder)
    for text in ("a red circle " * 300, "häuser &amp; katzen\n\n " * 200, "x" * 3000, "short"):
        cleaned = clean_prompt(text)
        whole = tokenizer(cleaned, add_special_tokens=True).input_ids
        length = length_of(text)
        assert length.is_exact
        if len(whole) > MAX_TOKENS:
            assert length.num_tokens == len(whole)
            seen = cleaned[: len(cleaned) - len(length.unseen)]
            kept = tokenizer(cleaned, max_length=MAX_TOKENS, truncation=True, return_offsets_mapping=True)
            assert len(seen.rstrip()) <= kept.offset_mapping[MAX_TOKENS - 2][1] <= len(seen)
        else:
            assert length.unseen == ""


def test_models_that_are_elsewhere_are_estimated():
    assert lengths_by_tokenizer(local_folder("s3://bucket/model")) is prompt_length.estimated_length
