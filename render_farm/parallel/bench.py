"""The command of `python -m render_farm.parallel.bench`: how fast groups of several ranks are on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from render_farm.engine.bench.cases import SHAPES
from render_farm.errors import RenderFarmError, UsageError
from render_farm.parallel.measure import GROUP_MODES, GroupBenchRequest, GroupResult, measure
from render_farm.parallel.one_rank import measure_one_rank, one_rank_lines
from render_farm.planning.group_cost import GroupMachine
from render_farm.planning.groups import GroupShape


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the arguments say and print it; exits with 2 for arguments that cannot work."""
    parser = argparse.ArgumentParser(prog="python -m render_farm.parallel.bench", description=__doc__)
    parser.add_argument("--ranks", default="1,2", help="numbers of ranks, with commas; default 1,2")
    parser.add_argument("--degrees", help="shapes instead, each cfg x ulysses x ring, as 2x4x1,1x4x2")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--mode", choices=GROUP_MODES, default="sync")
    parser.add_argument("--num-frames", type=int)
    parser.add_argument("--steps", type=int, default=3, help="the first is not counted; default 3")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--dtype", help="default: bfloat16 on CUDA, float32 on the CPU")
    parser.add_argument("--decode", action="store_true", help="the VAE's decoder too, by rows")
    parser.add_argument(
        "--one-rank",
        action="store_true",
        help="instead: what a group's path costs on one rank, and every backend's errors",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parsed = parser.parse_args(arguments)
    try:
        request = GroupBenchRequest(
            num_ranks=read_ranks(parsed.ranks),
            shapes=read_degrees(parsed.degrees),
            shape=parsed.shape,
            mode=parsed.mode,
            num_frames=parsed.num_frames,
            steps=parsed.steps,
            device=parsed.device,
            dtype=parsed.dtype,
            decode=parsed.decode,
        )
        if parsed.one_rank:
            result = measure_one_rank(request)
            if parsed.json:
                print(json.dumps(result.to_dict(), indent=2))  # noqa: T201
            else:
                print("\n".join(one_rank_lines(result)))  # noqa: T201
        elif parsed.json:
            print(json.dumps(document(measure(request)), indent=2))  # noqa: T201
        else:
            for line in lines(measure(request)):
                print(line, flush=True)  # noqa: T201
    except RenderFarmError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)


def read_ranks(text: str) -> tuple[int, ...]:
    """`1,2,4` as numbers. Raises `UsageError`."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--ranks: {text!r} is not a list of numbers like 1,2,4")
    return numbers


def read_degrees(text: str | None) -> tuple[GroupShape, ...]:
    """`2x4x1,1x4x2` as shapes. Raises `UsageError`."""
    shapes = []
    for part in (text or "").split(","):
        if not part:
            continue
        degrees = [int(number) if number.isdigit() else 0 for number in part.split("x")]
        if len(degrees) != 3 or min(degrees) < 1 or degrees[0] > 2:
            raise UsageError(f"--degrees: {part!r} is not cfg x ulysses x ring, like 2x4x1")
        shapes.append(GroupShape(cfg=degrees[0], ulysses=degrees[1], ring=degrees[2]))
    return tuple(shapes)


def document(results: Iterable[GroupResult]) -> dict[str, Any]:
    """The results, and the machine as the cost model takes it, for `--json`."""
    found = list(results)
    machine = machine_measured(found)
    return {"results": [result.to_dict() for result in found], "machine": machine and asdict(machine)}


def machine_measured(results: Sequence[GroupResult]) -> GroupMachine | None:
    """What the largest group measured; None when there was none."""
    groups = [result for result in results if result.machine is not None]
    return max(groups, key=lambda result: result.shape.size).machine if groups else None


def lines(results: Iterable[GroupResult]) -> Iterator[str]:
    """A table, a line as soon as its shape is measured; then what was measured of the machine, as settings."""
    yield (
        " cfg x ulysses x ring     s/step  predicted  speedup  efficiency  difference  bytes sent by rank 0 in a step"
    )
    found = []
    for result in results:
        found.append(result)
        sent = ", ".join(
            f"{name} {count:,} ({'as' if count == result.expected_bytes.get(name) else 'not as'} computed)"
            for name, count in result.sent_bytes.items()
        )
        degrees = " x ".join(map(str, result.shape.degrees))
        yield (
            f"{degrees:>20}  {result.step_s:9.4f}  {result.predicted_s:9.4f}  {result.speedup:6.2f}x  "
            f"{result.efficiency:9.0%}  {result.largest_difference:10.1e}  {sent or '-'}"
        )
        if result.decoding is not None:
            yield f"{'':>20}  {result.decoding}"
    machine = machine_measured(found)
    if machine is not None:
        yield "for the settings file, so that `auto` degrees are chosen by this machine:"
        yield "[group]"
        for name, value in asdict(machine).items():
            if value:
                yield f"{name} = {value:.3g}"


if __name__ == "__main__":
    main()
