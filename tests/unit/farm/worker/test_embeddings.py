"""Prompt embeddings as they lie in a run's storage."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from render_farm.farm.worker.embeddings import EmbeddingStore, MissingEmbeddingError
from render_farm.storage import open_store


@pytest.fixture
def stored(tmp_path):
    return EmbeddingStore(open_store(tmp_path), "night", "f")


def file_of(tmp_path):
    return next((tmp_path / "_runs" / "night" / "embeddings").iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [0, 1, 3])
def test_an_embedding_comes_back_bit_for_bit(stored, tmp_path, dtype, num_rows):
    embedding = torch.zeros(8, 4, dtype=dtype)
    embedding[:num_rows] = torch.randn(num_rows, 4)
    stored.save("a", embedding)
    first = file_of(tmp_path).read_bytes()
    assert torch.equal(stored.load("a", num_tokens=8), embedding)
    stored.save("a", embedding)
    assert file_of(tmp_path).read_bytes() == first


def test_any_flipped_byte_or_missing_end_has_it_encoded_again(stored, tmp_path):
    stored.save("a", torch.randn(3, 4))
    path = file_of(tmp_path)
    whole = path.read_bytes()
    assert stored.missing(["a"]) == []
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(MissingEmbeddingError):
            stored.load("a")
        assert stored.missing(["a"]) == ["a"]
    path.write_bytes(whole[:-1])
    with pytest.raises(MissingEmbeddingError, match="damaged"):
        stored.load("a")


def test_one_without_a_checksum_or_of_another_text_has_it_encoded_again(stored, tmp_path):
    stored.save("a", torch.ones(2, 4))
    path = file_of(tmp_path)
    without = save(load(path.read_bytes()), metadata={"num_tokens": "512"})
    of_a = path.read_bytes()
    path.unlink()
    stored.save("b", torch.ones(2, 4))
    for wrong in (without, save(load(of_a)), of_a):
        path = file_of(tmp_path)
        path.write_bytes(wrong)
        with pytest.raises(MissingEmbeddingError, match="damaged"):
            stored.load("b")
        stored.save("b", torch.ones(2, 4))
    assert stored.load("b").sum() == 8
