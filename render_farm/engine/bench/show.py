"""A result as text."""

from __future__ import annotations

from collections.abc import Iterator

from render_farm.engine.bench.run import BenchResult, Side


def lines(result: BenchResult) -> Iterator[str]:
    """For people, one line each."""
    what = result.what
    packages = ", ".join(f"{name} {version}" for name, version in result.software.items())
    yield f"{result.at}; {result.machine}; {packages}"
    yield (
        f"{what['model']}: {what['num_parameters'] / 1e9:.3g} B parameters, {what['num_layers']} layers, "
        f"{what['num_heads']} heads of {what['head_dim']}, {what['dtype']}"
    )
    yield (
        f"{what['mode']} (ar_step {what['ar_step']}, causal_block_size {what['causal_block_size']}), "
        f"{what['num_frames']} frames of {what['width']}x{what['height']} = {what['num_tokens']:,} tokens, "
        f"{what['steps']} steps, guidance {'on' if what['guided'] else 'off'}"
    )
    attention, cache = result.decisions["attention"], result.decisions["kv_cache"]
    timings = ", ".join(f"{name} {value:.3g} ms" for name, value in attention["timings_ms"].items())
    yield f"attention {attention['name']} ({timings or 'as asked'}); " + (
        f"kv cache {'on' if cache['keeps'] else 'off'}: {cache['reason']}; "
        f"compiled: {'yes' if result.decisions['compile']['compiles'] else 'no'}"
    )
    yield f"a matrix product reaches {result.matrix_teraflops:.4g} TFLOP/s here"
    yield ""
    yield "           steps    seconds    s/step      CPU s   TFLOP/s  of matrix  peak GB"
    yield _row("engine", result.ours, result)
    if result.reference is not None:
        yield _row(what["against"], result.reference, result)
        yield ""
        yield f"ratio {result.ratio:.2f} (CPU seconds {result.cpu_ratio:.2f})" + (
            f", medians of {what['pairs']} pairs" if what["pairs"] > 1 else ""
        )
        if result.largest_difference is not None:
            yield f"largest difference of the latents {result.largest_difference:.2g}"
        if result.reference.extrapolated:
            yield "diffusers' seconds are extrapolated from its first steps, which cost the same as the others"


def _row(name: str, side: Side, result: BenchResult) -> str:
    peak = "?" if side.peak_bytes is None else f"{side.peak_bytes / 1e9:.2f}"
    share = f"{side.teraflops / result.matrix_teraflops:.0%}"
    return (
        f"{name:<10} {side.passes:>6} {side.seconds:>10.2f} {side.seconds / side.passes:>9.3f} {side.cpu_s:>10.2f} "
        f"{side.teraflops:>9.4g} {share:>10} {peak:>8}"
    )
