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
