"""What `bench engine --predict` prints: the seconds of a step on a GPU that is not here, by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from render_farm.errors import UsageError
from render_farm.job import RenderJob
from render_farm.memory_mode import MemoryMode
from render_farm.models import FULL, PRESETS, Preset
from render_farm.planning import plan_film, spec_of_preset
from render_farm.planning.decoding import decoding_work
from render_farm.planning.group_cost import NVLINK_NODE
from render_farm.planning.memory import estimate_memory, usable_bytes
from render_farm.planning.memory_modes import device_bytes
from render_farm.planning.model_sizes import sizes_of_preset
from render_farm.planning.roofline import GPUS, Gpu, predicted_step, segment_work, variants

SCHEMA = "render_farm.prediction.v1"
_BLOCKS: dict[str, dict[str, Any]] = {
    "sync": {"ar_step": 0, "causal_block_size": 1},
    "async": {"ar_step": 5, "causal_block_size": 5, "block_attention": "causal"},
    "full": {"ar_step": 5, "causal_block_size": 5, "block_attention": FULL},
}


def predict(gpu_name: str, shape: str, mode: str, steps: int | None) -> dict[str, Any]:
    """One window of a published checkpoint at its own size. `shape` is its name, or without its kind (`14b-540p`)."""
    gpu, preset = _gpu(gpu_name), _preset(shape)
    job = RenderJob(job_id="predict", prompt="any", num_inference_steps=steps, **_columns(preset, mode))
    plan, sizes = plan_film(job, spec_of_preset(preset.name)), sizes_of_preset(preset)
    keeps = estimate_memory(plan, sizes).full_bytes <= usable_bytes(gpu.memory_bytes)
    rows: list[dict[str, Any]] = []
    for name, (that_gpu, group) in variants(plan, sizes, gpu).items():
        work = segment_work(plan, 0, sizes, group, with_cache=keeps)
        step = predicted_step(work, sizes, that_gpu)
        rows.append(
            {
                "setting": name,
                "num_workers": group.size,
                "step_s": step.total_s,
                "matrix_s": step.matrix_s,
                "attention_s": step.attention_s + step.cross_attention_s,
                "elementwise_s": step.elementwise_s,
                "exchange_s": step.exchange_s,
                "teraflops": work.operations / work.num_steps / step.total_s / 1e12,
                "segment_s": step.total_s * work.num_steps + (that_gpu.forming_s if group.size > 1 else 0.0),
            }
        )
    window = plan.windows[0]
    decoding = (
        decoding_work(sizes.vae, height=plan.job.height, width=plan.job.width).operations
        / NVLINK_NODE.decoding_operations_per_s
    )
    return {
        "schema": SCHEMA,
        "gpu": gpu.name,
        "model": preset.name,
        "mode": mode,
        "height": plan.job.height,
        "width": plan.job.width,
        "num_tokens": window.num_seen_frames * plan.tokens_per_frame,
        "num_steps": plan.schedule(0).num_rows,
        "petaflops_a_step": rows[0]["teraflops"] * rows[0]["step_s"] / 1e3,
        "resident_bytes": device_bytes(plan, sizes, MemoryMode()),
        "keeps_finished_blocks": keeps and mode == "async",
        "decoding_s": decoding * window.num_latent_frames,
        "settings": rows,
    }


def _gpu(name: str) -> Gpu:
    if name.lower() not in GPUS:
        raise UsageError(f"--predict: {name!r} is not one of {', '.join(GPUS)}")
    return GPUS[name.lower()]


def _preset(shape: str) -> Preset:
    known = {name: preset for name, preset in PRESETS.items() if preset.hub_id}
    for name in (shape.lower(), f"df-{shape.lower()}"):
        if name in known:
            return known[name]
    raise UsageError(f"--shape: {shape!r} is not one of {', '.join(known)}, or one of the df- without that")


def _columns(preset: Preset, mode: str) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    if mode not in _BLOCKS:
        raise UsageError(f"--mode {mode}: only {', '.join(_BLOCKS)} are predicted")
    if preset.tasks == ("i2v",):
        columns |= {"image": "any"}
    if preset.tasks == ("flf2v",):
        columns |= {"image": "any", "last_image": "any"}
    if "v2v" in preset.tasks:  # diffusion forcing
        columns |= _BLOCKS[mode] | ({} if mode == "sync" else {"num_frames": 97, "base_num_frames": 97})
    elif mode != "sync":
        raise UsageError(f"--mode {mode}: {preset.name} denoises all frames together; --mode sync would work")
    return columns


def lines(found: dict[str, Any]) -> Iterator[str]:
    """For people."""
    yield (
        f"{found['model']} on {found['gpu'].upper()}, {found['mode']}, {found['width']}x{found['height']}: "
        f"{found['num_tokens']:,} tokens, {found['petaflops_a_step']:.3g} PFLOP a step, "
        f"{found['resident_bytes'] / 1e9:.1f} GB resident"
    )
    if found["mode"] == "async":
        yield f"finished blocks are {'kept' if found['keeps_finished_blocks'] else 'computed again in every step'}"
    yield f"predicted, not measured; decoding a segment takes {found['decoding_s']:.1f} s alongside"
    yield f"{'':<32} {'s/step':>8}   matrix attention   other exchange  TFLOP/s   segment"
    for row in found["settings"]:
        shares = (row[f"{part}_s"] / row["step_s"] for part in ("matrix", "attention", "elementwise", "exchange"))
        yield "{:<32} {:>8.3f} {:>8.0%} {:>9.0%} {:>7.0%} {:>8.0%} {:>8.0f} {:>7.0f} s".format(
            row["setting"], row["step_s"], *shares, row["teraflops"], row["segment_s"]
        )
