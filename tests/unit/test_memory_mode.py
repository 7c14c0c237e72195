"""The column `memory`: how it is written, what it refuses, which modes follow which."""

from __future__ import annotations

import pytest

from render_farm import RenderJob
from render_farm.errors import InvalidJobError, UsageError
from render_farm.farm.run.settings import load_settings
from render_farm.memory_mode import canonical_memory, modes_of, next_smaller, parse_memory
from render_farm.models import PRESETS
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.memory import estimate_memory
from render_farm.planning.memory_modes import device_bytes, transformer_bytes
from render_farm.planning.model_sizes import sizes_of_preset


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("auto", "auto"),
        ("resident", "resident"),
        ("fp8_cast", "auto+fp8_cast"),
        ("vae_tiling", "auto+vae_tiling"),
        ("vae_tiling + int8+offload_leaf", "offload_leaf+int8+vae_tiling"),
        ("offload_disk+fp8_cast", "offload_disk+fp8_cast"),
    ],
)
def test_a_memory_mode_has_one_canonical_spelling(text: str, canonical: str) -> None:
    assert canonical_memory(text) == canonical
    assert canonical_memory(canonical) == canonical
    assert RenderJob(job_id="a", prompt="x", memory=text).memory == canonical


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("offload_blocks", "'offload_blocks' is not a memory option; did you mean offload_block?"),
        ("zzz", "'zzz' is not a memory option; it is made of auto, resident, "),
        ("", "'' is not a memory option; it is made of"),
        ("resident+auto", "says twice where the weights lie"),
        ("fp8+int8", "says twice how the weights are stored"),
        ("vae_tiling+vae_tiling", "says twice vae_tiling"),
        ("offload_disk+int8", "weights of torchao are not written to disk; offload_leaf would work"),
    ],
)
def test_refusals_name_what_would_work(text: str, message: str) -> None:
    with pytest.raises(InvalidJobError) as refused:
        RenderJob(job_id="a", prompt="x", memory=text)
    assert str(refused.value).startswith("job a: memory: ")
    assert message in str(refused.value)
    with pytest.raises(UsageError, match="memory: "):
        load_settings(environment={"RENDER_FARM_MEMORY": text or "+"})


def test_the_settings_give_the_mode_of_rows_without_one() -> None:
    assert load_settings(environment={}).memory == "auto"
    assert load_settings(environment={"RENDER_FARM_MEMORY": "fp8_cast"}).memory == "auto+fp8_cast"


def test_auto_is_every_placement_from_the_fastest_on() -> None:
    auto = parse_memory("auto")
    assert [str(mode) for mode in modes_of(auto, "cuda")] == ["resident", "offload_block", "offload_leaf"]
    assert [str(mode) for mode in modes_of(auto, "cpu")] == ["resident", "offload_disk"]
    assert [str(mode) for mode in modes_of(parse_memory("int8"), "cpu")] == ["resident+int8"]
    assert modes_of(parse_memory("offload_block"), "cuda") == (parse_memory("offload_block"),)


def test_the_next_smaller_mode_renders_the_same_film() -> None:
    def ladder(mode: str, device: str) -> list[str]:
        found, smaller = [], next_smaller(parse_memory(mode), device)
        while smaller is not None:
            found.append(str(smaller))
            smaller = next_smaller(smaller, device)
        return found

    assert ladder("resident", "cuda") == ["offload_block", "offload_leaf"]
    assert ladder("resident+fp8_cast+vae_tiling", "cuda") == [
        "offload_block+fp8_cast+vae_tiling", "offload_leaf+fp8_cast+vae_tiling"
    ]  # fmt: skip
    assert ladder("offload_disk", "cuda") == ["offload_leaf"]
    assert ladder("resident", "cpu") == ["offload_disk"]
    assert ladder("resident+int8", "cpu") == []
    assert ladder("auto", "cuda") == []


def test_only_what_changes_pixels_belongs_to_the_render_key() -> None:
    def key(memory: str | None) -> str:
        return plan_film(RenderJob(job_id="a", prompt="x", memory=memory), spec_of_preset("tiny")).render_key

    exact = {key(memory) for memory in (None, "auto", "resident", "offload_block", "offload_leaf", "offload_disk")}
    assert len(exact) == 1
    others = [key(memory) for memory in ("fp8_cast", "int8", "fp8", "vae_tiling", "fp8_cast+vae_tiling")]
    assert len(exact.union(others)) == 6
    assert key("offload_block+fp8_cast") == key("fp8_cast")


def test_the_estimate_orders_the_modes_as_auto_tries_them() -> None:
    spec = spec_of_preset("df-14b-540p")
    plan = plan_film(RenderJob(job_id="a", prompt="x"), spec)
    sizes = sizes_of_preset(PRESETS["df-14b-540p"])
    needed = [device_bytes(plan, sizes, mode) for mode in modes_of(parse_memory("auto"), "cuda")]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] == estimate_memory(plan, sizes).render_stage_bytes
    full, cast = (
        transformer_bytes(sizes.transformer, parse_memory(text), 2) for text in ("resident", "resident+fp8_cast")
    )
    assert full / 2 < cast < 0.55 * full


def test_tiles_leave_one_tile_of_the_decoder_on_the_device() -> None:
    sizes, spec = sizes_of_preset(PRESETS["df-14b-540p"]), spec_of_preset("df-14b-540p")

    def saved(height: int, width: int) -> float:
        plan = plan_film(RenderJob(job_id="a", prompt="x", height=height, width=width), spec)
        whole, tiles = (device_bytes(plan, sizes, parse_memory(text)) for text in ("resident", "resident+vae_tiling"))
        return (whole - tiles) / estimate_memory(plan, sizes).decoding_bytes

    assert saved(544, 960) > 0.8
    assert saved(256, 256) == 0
