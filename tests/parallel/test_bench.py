"""`bench parallel` runs with the engine's packages only, and what it prints holds together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from render_farm.farm.run.settings import load_settings
from render_farm.parallel.bench import document, lines
from render_farm.parallel.measure import GroupBenchRequest, GroupResult
from render_farm.parallel.one_rank import measure_one_rank, one_rank_lines
from render_farm.planning.group_cost import GroupMachine, machine_of
from render_farm.planning.groups import GroupShape

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys

sys.modules.update(dict.fromkeys(("ray", "typer", "rich")))  # as if they were not installed
"""
MACHINE = GroupMachine(
    operations_per_s=5e10, bytes_per_s=9e8, exchange_s=2.4e-3, decoding_operations_per_s=0.0, forming_s=0.3
)


def result(shape: GroupShape, machine: GroupMachine | None = None) -> GroupResult:
    return GroupResult(
        shape=shape,
        step_s=0.5,
        step_cpu_s=0.4,
        speedup=1.5,
        efficiency=0.75,
        largest_difference=1e-6,
        forming_s=0.1,
        sent_bytes={"ulysses": 1000, "predictions": 8} if machine else {},
        expected_bytes={"ulysses": 1000, "predictions": 9} if machine else {},
        predicted_s=0.45,
        machine=machine,
    )


@pytest.mark.long
def test_it_needs_neither_ray_nor_typer_nor_rich(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    arguments = ["--degrees", "1x2x1", "--num-frames", "5", "--steps", "2", "--device", "cpu", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "render_farm.parallel.bench", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    alone, two = printed["results"]
    assert (alone["shape"], two["shape"]) == ([1, 1, 1], [1, 2, 1])
    assert two["largest_difference"] <= 1e-4
    assert two["sent_bytes"] == two["expected_bytes"] and two["sent_bytes"]["ulysses"] > 0
    assert two["predicted_s"] > 0 and two["step_cpu_s"] > 0
    assert min(printed["machine"][name] for name in ("operations_per_s", "bytes_per_s", "exchange_s", "forming_s")) > 0


def test_the_machine_it_prints_is_a_table_of_the_settings(tmp_path: Path) -> None:
    printed = list(lines([result(GroupShape()), result(GroupShape(ulysses=2), MACHINE)]))
    assert "ulysses 1,000 (as computed), predictions 8 (not as computed)" in printed[2]
    settings = tmp_path / "farm.toml"
    settings.write_text("\n".join(printed[printed.index("[group]") :]))
    machine = machine_of(load_settings(file=str(settings), environment={}).group, "cpu")
    assert (machine.operations_per_s, machine.bytes_per_s, machine.exchange_s, machine.forming_s) == (
        5e10,
        9e8,
        2.4e-3,
        0.3,
    )
    assert document([result(GroupShape())])["machine"] is None


def test_a_group_of_one_gives_the_plain_path_s_bits_and_backends_are_checked() -> None:
    request = GroupBenchRequest(num_frames=5, steps=2, device="cpu")
    result = measure_one_rank(request, num_rounds=1)
    assert result.largest_difference == 0.0
    assert result.plain_s > 0 and result.lost == result.group_s / result.plain_s - 1
    exact = {(found.name, found.dtype): found for found in result.backends}
    for name in ("torch_flash", "torch_math"):
        found = exact[name, "float32"]
        assert found.output is not None and found.output < 1e-5
        assert found.log_sum_exp is not None and found.log_sum_exp < 1e-5
    assert not dist.is_initialized()
    printed = "\n".join(one_rank_lines(result))
    assert "(bar: less than +2%, " in printed and "torch_flash float32" in printed
