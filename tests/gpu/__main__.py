"""Run the parts within a budget: `python -m tests.gpu [--shape 1.3b-540p] [--budget 720] [--device cuda]`."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from render_farm.engine.bench.cases import SHAPES
from tests.gpu.parts import PARTS, Machine

_RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
_LEAST_S = 20.0
"""A part is not begun with less time left."""


def run(here: Machine, budget_s: float, names: list[str]) -> list[dict[str, Any]]:
    """What each part found, printed as it is done. A part that fails says why."""
    begun, results = time.monotonic(), []
    for name in names:
        started = time.monotonic()
        if budget_s - (started - begun) < _LEAST_S:
            found: dict[str, Any] = {"skipped": "no time left"}
        else:
            _free()
            try:
                found = PARTS[name](here)
            except Exception as error:  # noqa: BLE001  (the other parts still have something to say)
                found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
            found = {"s": round(time.monotonic() - started, 1), **_memory(), **found}
        results.append({"part": name, **_rounded(found)})
        print(json.dumps(results[-1]), flush=True)
    return results


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _memory() -> dict[str, float]:
    """What torch has reserved at most, and what others (CUDA's context, libraries) hold."""
    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    outside = total - free - torch.cuda.memory_reserved()
    return {"reserved_gb": torch.cuda.max_memory_reserved() / 1e9, "outside_torch_gb": outside / 1e9}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def report(here: Machine, results: list[dict[str, Any]]) -> str:
    """The results as a page, predictions next to measurements."""
    lines = [f"# GPU, {datetime.now(UTC):%Y-%m-%d}", "", f"`python -m tests.gpu --shape {here.shape}`", ""]
    lines += [
        "| part | s a step | predicted | peak GB | predicted | ratio to diffusers |",
        "|---|---|---|---|---|---|",
    ]
    for found in results:
        if "predicted_s_a_step" in found:
            cells = ("s_a_step", "predicted_s_a_step", "peak_gb", "predicted_peak_gb", "ratio")
            lines.append(f"| {found['part']} | " + " | ".join(str(found.get(cell, "")) for cell in cells) + " |")
    return "\n".join([*lines, "", "```", *map(json.dumps, results), "```", ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1.3b-540p")
    parser.add_argument("--budget", type=float, default=720.0, help="seconds for all parts")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--parts", default=",".join(PARTS), help="with commas")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of the page that is written")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; --device cpu --shape small rehearses without one")
    here = Machine(device=torch.device(given.device), shape=given.shape)
    given.results.mkdir(parents=True, exist_ok=True)
    results = run(here, given.budget, given.parts.split(","))
    page = given.results / f"{datetime.now(UTC):%Y-%m-%d}-gpu.md"
    page.write_text(report(here, results))
    print(page, file=sys.stderr)
    return any("error" in found for found in results)


if __name__ == "__main__":
    sys.exit(main())
