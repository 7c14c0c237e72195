"""`render-farm simulate`: the scheduler on a farm that is made up, in simulated time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.terminal import Json, duration, error_line, hint, plural, print_json, say
from render_farm.errors import InvalidJobError, UsageError

if TYPE_CHECKING:
    from render_farm.farm.run.settings import Settings
    from render_farm.planning import FilmPlan
    from render_farm.scheduling.costs import CostModel
    from render_farm.scheduling.events import QueuedFilm
    from render_farm.scheduling.simulator import Outcome, SimulatedFarm

NOT_IN_TIME = 11
_MOST_GPUS = 1024
_GROUP_SIZES = (2, 4, 8)
_MOST_PER_HOUR = 60.0
"""A node that dies every minute renders nothing; far beyond it there are more failures than can be simulated."""
_MOST_SECONDS = 30 * 24 * 3600.0


def simulate(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="A Parquet file: a path or a URI.")],
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus", metavar="N", min=1, help="GPUs of the farm (8); with --deadline, the most to try (1024)."
        ),
    ] = None,
    gpus_per_node: Annotated[int, typer.Option("--gpus-per-node", min=1, help="GPUs of one host.")] = 8,
    failures: Annotated[str, typer.Option(help="Nodes that die, per node and hour: 0.01 or 1%.")] = "0",
    preemptions: Annotated[str, typer.Option(help="Nodes that are taken away, per node and hour: 0.01 or 1%.")] = "0",
    faults: Annotated[str, typer.Option(help="Segments that fail by their worker's fault: 0.01 or 1%.")] = "0",
    repair: Annotated[float, typer.Option(min=0.0, help="Seconds until a node is back.")] = 600.0,
    load: Annotated[float, typer.Option(min=0.0, help="Seconds that loading a model takes.")] = 60.0,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Find the fewest GPUs that finish by then: 8h, 90m, or a UTC time (06:00, 2026-11-22T06:00)."
        ),
    ] = None,
    elastic: Annotated[
        bool, typer.Option("--elastic/--fixed-groups", help="Give films larger groups while GPUs would be idle.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Output tree from whose runs segment times are learned."),
    ] = None,
    gantt: Annotated[str | None, typer.Option(help="Draw the night to this file: .html or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate a night with the scheduler that decides in production: how long it takes, and how many GPUs it needs.

    Segment times come from the runs of --output, else from arithmetic. Deadlines of the manifest count from now. Exit
    code 11 when a deadline is missed, or when --gpus are too few for --deadline.
    """
    from render_farm.farm.run.cost_store import load_costs
    from render_farm.farm.run.settings import load_settings
    from render_farm.planning.group_cost import machine_of
    from render_farm.scheduling.simulator import SimulatedFarm
    from render_farm.scheduling.simulator import simulate as run_simulation
    from render_farm.scheduling.simulator.search import fewest_gpus
    from render_farm.storage.open import open_store

    gpus = gpus or (8 if deadline is None else _MOST_GPUS)
    if gantt is not None and Path(gantt).suffix not in (".html", ".svg"):
        raise UsageError(f"--gantt: {gantt!r} ends neither in .html nor in .svg")
    _check_seconds("--repair", repair)
    _check_seconds("--load", load)
    settings = load_settings()
    now = datetime.now(UTC)
    within_s = None if deadline is None else _seconds_until(deadline, now)
    films = _films(manifest, settings, now.timestamp(), gpus_per_node, elastic)
    _check_groups(films, min(gpus, gpus_per_node))
    farm = SimulatedFarm(
        num_gpus=gpus,
        gpus_per_node=min(gpus_per_node, gpus),
        failures_per_hour=_rate("--failures", failures, _MOST_PER_HOUR),
        preemptions_per_hour=_rate("--preemptions", preemptions, _MOST_PER_HOUR),
        faults_per_segment=_rate("--faults", faults, 1.0),
        repair_s=repair,
        load_s=load,
        seed=seed,
    )
    costs = load_costs(open_store(output), "cuda") if output is not None else None
    known = costs.num_observed() if costs is not None else 0
    if not known:  # a learned time contains it
        farm = replace(farm, forming_s=machine_of(settings.group, "cuda").forming_s)
    policy = replace(settings.scheduling.policy, elastic=elastic)

    def simulated(tried: SimulatedFarm) -> Outcome:
        return run_simulation(films, tried, scheduling=policy, costs=_copy(costs))

    def on_tried(outcome: Outcome) -> None:
        hint(f"{plural(outcome.num_gpus, 'GPU')}: {duration(outcome.makespan_s)}")

    if within_s is None:
        outcome = simulated(farm)
    else:
        found = fewest_gpus(simulated, farm, within_s=within_s, most_gpus=gpus, on_tried=on_tried)
        if found is None:
            error_line(f"{plural(gpus, 'GPU')} are too few to finish within {duration(within_s)}; try more with --gpus")
            raise typer.Exit(NOT_IN_TIME)
        outcome = found
    nothing = "nothing was learned (--output)" if output is None else f"no GPU has rendered to {output} yet"
    times = f"learned from {plural(known, 'segment')}" if known else f"by arithmetic, {nothing}"
    lines = _lines(outcome, len(films), farm, settings.gpu_price_per_hour, settings.currency, times)
    if gantt is not None:
        _draw(gantt, outcome, films, farm.gpus_per_node, manifest, lines)
    if as_json:
        print_json(_document(manifest, outcome, films, within_s))
    else:
        say("\n".join(lines))
    raise typer.Exit(NOT_IN_TIME if outcome.num_missed else 0)


# --- what is given ---


def _check_seconds(option: str, value: float) -> None:
    if not 0 <= value <= _MOST_SECONDS:
        raise UsageError(f"{option}: {value:g} s is not between 0 and {_MOST_SECONDS:.0f}, 30 days")


def _rate(option: str, text: str, most: float) -> float:
    try:
        rate = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < float("inf"):
        raise UsageError(f"{option}: {text!r} is neither a number of 0 or more nor a share like 1%")
    if rate > most:
        raise UsageError(f"{option}: {text!r} is more than {most:g}", advice=f"{option} 1% is 0.01")
    return rate


def _seconds_until(text: str, now: datetime) -> float:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    try:
        if text[-1:] in units:
            seconds = float(text[:-1]) * units[text[-1]]
        elif len(text) == 5:
            clock = datetime.strptime(text, "%H:%M").time()
            then = datetime.combine(now.date(), clock, UTC)
            seconds = (then - now).total_seconds() % timedelta(days=1).total_seconds()
        else:
            then = datetime.fromisoformat(text.replace("Z", "+00:00"))
            seconds = ((then if then.tzinfo else then.replace(tzinfo=UTC)) - now).total_seconds()
    except ValueError:
        raise UsageError(f"--deadline: {text!r} is neither a length (8h, 90m) nor a time (06:00)") from None
    if not seconds > 0:
        raise UsageError(f"--deadline: {text!r} is over already")
    return seconds


def _films(manifest: str, settings: Settings, now_s: float, gpus_per_node: int, elastic: bool) -> list[QueuedFilm]:
    """The manifest's films as the farm would hand them to its scheduler. Rows that cannot be rendered are left out, and
    said so."""
    from render_farm.cli.plan.plan import SpecsOfModels, plan_row
    from render_farm.farm.run.film_task import FilmTask
    from render_farm.farm.run.scheduled_film import scheduled, share_of
    from render_farm.farm.run.spec import FilmEntry
    from render_farm.manifest.reader import load_manifest
    from render_farm.planning.cost import TokenPasses
    from render_farm.planning.groups import group_of

    spec, films, refused = SpecsOfModels(settings.model, settings.inputs), [], 0
    costs = TokenPasses()
    for row in load_manifest(manifest, limits=settings.manifest):
        try:
            plan = plan_row(row, spec)
        except InvalidJobError:
            refused += 1
            continue
        assert row.job is not None
        job = row.job
        entry = FilmEntry(
            task=FilmTask(run_id="simulated", output="", model=plan.spec.name, plan=plan),
            costs=costs.of(plan),
            priority=plan.job.priority,
            deadline_s=job.deadline.timestamp() if job.deadline else None,
            share=share_of(settings.scheduling.share_by, job.owner, job.tags),
            group=group_of(plan.job),
        )
        film = scheduled("simulated", entry, "cuda", clock_ahead_s=-now_s)
        pinned = any(degree is not None for degree in (job.ulysses, job.ring, job.cfg_parallel))
        sizes = () if pinned or not elastic else _sizes(plan, gpus_per_node)
        films.append(replace(film, joined_sizes=sizes))
    for note in spec.notes:
        error_line(note)
    if refused:
        error_line(f"{plural(refused, 'row')} cannot be rendered and left out (`render-farm manifest check` says why)")
    if not films:
        raise UsageError(f"{manifest}: has no row that can be rendered")
    return films


def _check_groups(films: list[QueuedFilm], most: int) -> None:
    largest = max(films, key=lambda film: film.group_size)
    if largest.group_size > most:
        raise UsageError(
            f"job {largest.job_id} asks for {largest.group_size} workers on one host for a segment, and one has {most}",
            advice=f"--gpus and --gpus-per-node of {largest.group_size} or more",
        )


def _sizes(plan: FilmPlan, gpus_per_node: int) -> tuple[int, ...]:
    """Groups of more than one worker that a film can have on a host."""
    from render_farm.planning.groups import possible_shapes

    shapes = possible_shapes(
        num_heads=plan.spec.num_heads,
        tokens_per_frame=plan.tokens_per_frame,
        guided=plan.job.splits_branches,
        num_workers=gpus_per_node,
    )
    possible = {shape.size for shape in shapes}
    return tuple(size for size in _GROUP_SIZES if size in possible)


def _copy(costs: CostModel | None) -> CostModel | None:
    """A simulation learns as it goes: each begins with what the runs have shown."""
    from render_farm.scheduling.costs import CostModel

    return None if costs is None else CostModel.from_dict(costs.to_dict())


# --- what is shown ---


def _lines(
    outcome: Outcome, num_films: int, farm: SimulatedFarm, price: float | None, currency: str, times: str
) -> list[str]:
    num_segments = sum(not span.is_lost for span in outcome.spans)
    nodes = -(-outcome.num_gpus // farm.gpus_per_node)
    hours = outcome.num_gpus * outcome.makespan_s / 3600
    until_tail = (
        f"{outcome.utilisation(outcome.tail_s):.1%} until the tail at {duration(outcome.tail_s)}"
        if outcome.tail_s > 0
        else "no film ever waits for a GPU"
    )
    lines = [
        f"{plural(num_films, 'film')}, {plural(num_segments, 'segment')} on {plural(outcome.num_gpus, 'GPU')} "
        f"({plural(nodes, 'node')} of {min(farm.gpus_per_node, outcome.num_gpus)}); times {times}",
        f"makespan     {duration(outcome.makespan_s)}, {outcome.over_bound:.1%} over the lower bound "
        f"{duration(outcome.bound.seconds)} (work {duration(outcome.bound.work_s)}, longest film "
        f"{duration(outcome.bound.chain_s)})",
        f"utilisation  {outcome.utilisation():.1%}; {until_tail}",
        f"GPU-hours    {hours:,.1f}" + (f", {hours * price:,.2f} {currency}" if price is not None else ""),
        f"deadlines    {outcome.num_missed} of {outcome.num_dated} missed"
        + (
            f", the worst by {duration(outcome.worst_lateness_s)}"
            if 0 < outcome.worst_lateness_s < float("inf")
            else ""
        ),
    ]
    if len(outcome.used_s) > 1:
        total = sum(outcome.used_s.values()) or 1.0
        used = sorted(outcome.used_s.items(), key=lambda entry: -entry[1])
        parts = ", ".join(f"{name or 'nobody'} {seconds / total:.1%}" for name, seconds in used[:8])
        lines.append(f"fairness     {outcome.fairness:.3f} (Jain's index): {parts}")
    lines += [
        f"trouble      {plural(outcome.num_failures, 'node failure')}, "
        f"{plural(outcome.num_preemptions, 'preemption')}, "
        f"{plural(outcome.num_faults, 'fault')}; {outcome.lost_gpu_s / 3600:,.1f} GPU-hours rendered again; "
        f"{plural(outcome.num_loads, 'model load')}",
        f"decisions    {outcome.num_decisions:,} in {outcome.deciding_s:.1f} s of one core",
        f"at work      {_curve(outcome)}",
    ]
    if set(outcome.counts) != {"done"}:
        lines.insert(1, "films        " + ", ".join(f"{number:,} {state}" for state, number in outcome.counts.items()))
    return lines


def _curve(outcome: Outcome, width: int = 60) -> str:
    """The share of GPUs that render, over time."""
    step_s = outcome.makespan_s / width
    busy = [0.0] * width
    for span in outcome.spans:
        for index in range(int(span.begin_s // step_s), min(width - 1, int(span.end_s // step_s)) + 1):
            overlap_s = min(span.end_s, (index + 1) * step_s) - max(span.begin_s, index * step_s)
            busy[index] += max(0.0, overlap_s) * len(span.workers)
    full = outcome.num_gpus * step_s
    return "".join(" ▁▂▃▄▅▆▇█"[min(8, round(8 * seconds / full))] for seconds in busy)


def _draw(
    path: str, outcome: Outcome, films: list[QueuedFilm], gpus_per_node: int, manifest: str, lines: list[str]
) -> None:
    from render_farm.scheduling.simulator.gantt import draw_html, draw_svg

    svg = draw_svg(outcome, {film.key: film.model for film in films}, gpus_per_node=gpus_per_node)
    text = svg if path.endswith(".svg") else draw_html(svg, f"{manifest} on {outcome.num_gpus} GPUs, simulated", lines)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--gantt: {path}: {error.strerror}") from error


def _document(manifest: str, outcome: Outcome, films: list[QueuedFilm], within_s: float | None) -> dict[str, Any]:
    models = Counter(film.model for film in films)
    return {
        "manifest": manifest,
        "films": len(films),
        "segments": sum(not span.is_lost for span in outcome.spans),
        "models": dict(models),
        "gpus": outcome.num_gpus,
        "deadline_s": within_s,
        "makespan_s": round(outcome.makespan_s, 3),
        "lower_bound_s": round(outcome.bound.seconds, 3),
        "over_bound": round(outcome.over_bound, 5),
        "tail_s": round(outcome.tail_s, 3),
        "utilisation": round(outcome.utilisation(), 5),
        "utilisation_until_tail": round(outcome.utilisation(outcome.tail_s), 5),
        "gpu_hours": round(outcome.num_gpus * outcome.makespan_s / 3600, 3),
        "jobs": dict(outcome.counts),
        "deadlines": {"jobs": outcome.num_dated, "missed": outcome.num_missed},
        "fairness": round(outcome.fairness, 5),
        "used_s": {name: round(seconds, 1) for name, seconds in outcome.used_s.items()},
        "node_failures": outcome.num_failures,
        "preemptions": outcome.num_preemptions,
        "faults": outcome.num_faults,
        "model_loads": outcome.num_loads,
        "gpu_hours_lost": round(outcome.lost_gpu_s / 3600, 3),
        "decisions": outcome.num_decisions,
        "deciding_s": round(outcome.deciding_s, 3),
        "exit_code": NOT_IN_TIME if outcome.num_missed else 0,
    }
