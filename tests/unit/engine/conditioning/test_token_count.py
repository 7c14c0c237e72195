"""Counting tokens is exactly what the text stage does."""

from __future__ import annotations

import json
import shutil

from render_farm.engine.conditioning import token_count
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


def test_a_tokenizer_that_might_take_for_ever_is_not_asked(tmp_path):
    shutil.copytree(local_folder("tiny") / "tokenizer", tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    path.write_text(json.dumps(content))
    assert lengths_by_tokenizer(tmp_path) is prompt_length.estimated_length


def test_a_tokenizer_that_panics_costs_an_estimate(monkeypatch):
    class PanicException(BaseException):
        pass

    class Panics:
        def encode(self, *_, **__):
            raise PanicException

    monkeypatch.setattr(token_count, "_tokenizer", lambda path: Panics())
    length_of = lengths_by_tokenizer.__wrapped__(local_folder("tiny"))
    assert length_of("x" * 500) == prompt_length.estimated_length("x" * 500)


def test_models_that_are_elsewhere_are_estimated():
    assert lengths_by_tokenizer(local_folder("s3://bucket/model")) is prompt_length.estimated_length
