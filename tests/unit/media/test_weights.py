"""Files of weights: what is read of them without loading any, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from render_farm.errors import InputError
from render_farm.media.limits import InputLimits
from render_farm.media.weights import fetched_weights, read_weights_header

TENSORS = {"a": np.zeros((2, 3), np.float32), "b": np.ones((4,), np.float16)}


def test_the_header_and_the_hash(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    header = read_weights_header(str(path))
    assert header.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {name: (info.dtype, info.shape) for name, info in header.tensors.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }
    assert header.metadata == {"format": "pt"}
    with fetched_weights(str(path)) as (copy, same):
        assert same == header
        assert copy.read_bytes() == path.read_bytes()
    assert not copy.exists()


def test_any_block_size_gives_the_same(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path)
    whole = read_weights_header(str(path))
    for size in (1, 7, 64):
        monkeypatch.setattr("render_farm.media.fetching.fetch._BLOCK_BYTES", size)
        assert read_weights_header(str(path)) == whole


GOOD = save(TENSORS)
HUGE_HEADER = (200_000_000).to_bytes(8, "little") + b"{" + b" " * 100


def damaged(document: object) -> bytes:
    header = json.dumps(document).encode()
    return len(header).to_bytes(8, "little") + header


EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}


def in_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def tensors_at(first, second, *, shape=(2, 3), dtype="F32", **others) -> bytes:
    """A file of `a` (2 3) and `b` (4) at these places."""
    header = {
        "a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(first)},
        "b": {"dtype": "F16", "shape": [4], "data_offsets": list(second)},
    }
    return damaged({**header, **others}) + bytes(max(first[1], second[1]))


def test_two_tensors_one_after_the_other_are_read(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(tensors_at((0, 24), (24, 32), __metadata__=None))
    assert list(read_weights_header(str(tmp_path / "x.safetensors")).tensors) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pt", GOOD, r"\.pt files are pickles, which can run code .*save_file"),
        ("x.CKPT", GOOD, r"\.ckpt files are pickles"),
        ("x.safetensors", pickle.dumps({"a": 1}), "it is a pickle, which can run code"),
        ("x.safetensors", b"PK\x03\x04" + b"\0" * 60, "it is a pickle"),
        ("x.safetensors", b"<html>not found</html>", "not a safetensors file"),
        ("x.safetensors", b"{}", "not a safetensors file"),
        ("x.safetensors", HUGE_HEADER, "header has 200,000,000 bytes"),
        ("x.safetensors", GOOD[:40], "header is cut off"),
        ("x.safetensors", GOOD[:-1], "its header says"),
        ("x.safetensors", GOOD + b"x", "its header says"),
        ("x.safetensors", damaged({"a": 1}), "header is damaged"),
        ("x.safetensors", damaged({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 0]}}), "header is damaged"),
        ("x.safetensors", b"", "it is empty"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a pointer of Git LFS"),
        ("x.safetensors", b'{"metadata": {}, "weight_map": {"a": "x-1-of-2"}}', "the index of a file in parts"),
        ("x.safetensors", b"GGUF\3\0\0\0" + bytes(50), "a GGUF model"),
        ("x.safetensors", tensors_at((0, 24), (0, 8)), "its tensors overlap or have gaps"),
        ("x.safetensors", tensors_at((0, 24), (32, 40)), "its tensors overlap or have gaps"),
        ("x.safetensors", tensors_at((0, 20), (20, 28)), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), shape=[2.0, 3.0]), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), shape=[-2, -3]), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), shape=[10**400, 1]), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), shape=[2, 3] + [1] * 7), r"'a' has 9 dimensions.*most are 8"),
        ("x.safetensors", tensors_at((False, 24), (24, 32)), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), dtype="Q7"), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), __metadata__={"a": 1}), "header is damaged"),
        ("x.safetensors", tensors_at((0, 24), (24, 32), __metadata__=[1]), "header is damaged"),
        ("x.safetensors", in_header(b'{"a": 1, "a": 2}'), r"header is damaged \('a' appears twice\)"),
        ("x.safetensors", in_header(b'{"a": ' + b"[" * 9999 + b"]" * 9999 + b"}"), "header is damaged"),
        ("x.safetensors", damaged({".lora_A" * 99: EMPTY}), "the longest of 693 characters"),
        ("x.safetensors", damaged({str(i): EMPTY for i in range(50_001)}), "names 50,001 tensors"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_weights_header(str(tmp_path / name))
    with pytest.raises(InputError, match=message), fetched_weights(str(tmp_path / name)):
        pass


def test_the_rules_of_inputs_hold(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    with pytest.raises(InputError, match="more than the 16 bytes allowed"):
        read_weights_header(str(path), InputLimits(max_lora_bytes=16))
    with pytest.raises(InputError, match="not allowed"):
        read_weights_header(str(path), InputLimits(allowed_roots=(str(tmp_path / "elsewhere"),)))
    with pytest.raises(InputError, match="plain http is not allowed"):
        read_weights_header("http://example.org/x.safetensors")
    with pytest.raises(InputError, match="a loopback address"):
        read_weights_header("https://127.0.0.1/x.safetensors")
    with pytest.raises(InputError, match=r"\.bin files are pickles"):
        read_weights_header("https://example.org/pytorch_model.bin?download=true")
    with pytest.raises(InputError, match="no such file"):
        read_weights_header(str(tmp_path / "absent.safetensors"))
