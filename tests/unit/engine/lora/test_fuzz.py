"""Whatever a file says that it is, it is a LoRA of the model or refused; its tensors are not looked at before."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render_farm.engine.lora.layout import lay_out
from render_farm.engine.lora.linear_layers import linear_shapes_of
from render_farm.errors import InputError
from render_farm.farm.run.results import Result, dump_results
from render_farm.media.weights import read_weights_header
from render_farm.tiny import MODEL_DIR
from tests.helpers.fuzzing import damaged, num_examples, values

QUICK = settings(max_examples=num_examples(200), deadline=None, suppress_health_check=list(HealthCheck))
SHAPES = linear_shapes_of(MODEL_DIR)
_PREFIXES = ["", "transformer.", "diffusion_model.", "pipe.dit.", "lora_transformer_", "lora_unet_", "net.", "\ud800."]
_LAYERS = [*list(SHAPES)[:4], "blocks.0.self_attn.q", "blocks_0_self_attn_q", "blocks.9999.attn1.to_q", "head.head", ""]
_SUFFIXES = [".lora_A.weight", ".lora_B.weight", ".lora_down.weight", ".lora_up.weight", ".alpha", ".diff", ".diff_b"]
_SUFFIXES += [
    ".lora_A.default.weight",
    ".dora_scale",
    ".lora_down.scale_weight",
    ".hada_w1_a",
    ".lokr_w1",
    ".diff_m",
    "",
]
_DTYPES = st.sampled_from(["F32", "BF16", "F16", "F8_E4M3", "I64", "U8", "?", "", None, 7])
_SIZES = st.sampled_from([0, 1, 2, 4, 48, 96, 288, -1, 2**40, 2**63, 1.5, float("inf"), "3", None, True])
names = st.tuples(*map(st.sampled_from, (_PREFIXES, _LAYERS, _SUFFIXES))).map("".join) | st.text(max_size=9)
entries = (
    st.fixed_dictionaries(
        {"dtype": _DTYPES, "shape": st.lists(_SIZES, max_size=4), "data_offsets": st.just([0, 0]) | st.lists(_SIZES)}
    )
    | values
)
headers = st.dictionaries(names, entries, max_size=6)
documents = st.tuples(headers, st.none() | values | st.dictionaries(st.text(max_size=9), values, max_size=3))


def content(header: dict, metadata: object) -> bytes:
    if metadata is not None:
        header = {**header, "__metadata__": metadata}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def check(path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        header = read_weights_header(str(path))
        layout = lay_out(str(path), header, SHAPES, model="tiny")
        said = "; ".join(layout.warnings("a LoRA"))
    except InputError as error:
        said = str(error)
    assert len(said) < 20_000
    dump_results([Result(job_id="a", state="failed", message=said)])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("lora") / "a.safetensors"


@pytest.mark.slow
@QUICK
@given(documents)
def test_any_header_is_a_lora_or_refused(path, document):
    check(path, content(*document))


@pytest.mark.slow
@QUICK
@given(st.data())
def test_a_damaged_file_is_refused_or_another_lora(path, data):
    layer, (rows, columns) = next(iter(SHAPES.items()))
    header = {
        f"transformer.{layer}.lora_A.weight": {"dtype": "F32", "shape": [2, columns], "data_offsets": [0, 8 * columns]},
        f"transformer.{layer}.lora_B.weight": {
            "dtype": "F32",
            "shape": [rows, 2],
            "data_offsets": [8 * columns, 8 * (rows + columns)],
        },
    }
    whole = content(header, {"ss_network_alpha": "1"}) + bytes(8 * (rows + columns))
    check(path, data.draw(damaged(whole)))
