"""`render-farm manifest build|check|show`."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import typer

from render_farm.cli.terminal import Json, hint, one_line, plural, print_json, say
from render_farm.errors import ManifestError

app = typer.Typer(no_args_is_help=True, help="Make, check and show manifests.")

Manifest = Annotated[
    str, typer.Argument(metavar="MANIFEST", help="A Parquet file: a path or a URI like s3://b/a.parquet")
]


@app.command("build")
def build(
    source: Annotated[str, typer.Argument(help="Jobs as .csv, .jsonl, .json, .yaml or .txt (one prompt per line).")],
    output: Annotated[str, typer.Option("-o", "--output", help="The Parquet manifest to write.")],
    seeds: Annotated[int | None, typer.Option("--seeds", help="Rows per job, each with a seed of its own.")] = None,
    as_json: Json = False,
) -> None:
    """Make a Parquet manifest from a text file of jobs. If anything is wrong, nothing is written."""
    from render_farm.farm.run.settings import load_settings
    from render_farm.manifest.build import build_manifest

    report = build_manifest(source, output, num_seeds=seeds, limits=load_settings().manifest)
    if as_json:
        print_json(asdict(report))
        return
    jobs = plural(report.num_jobs, "job")
    rows = f", {plural(report.num_rows, 'row')}" if report.num_rows != report.num_jobs else ""
    say(f"{report.manifest}: {jobs}{rows}")
    hint(f"next: render-farm plan {report.manifest}")


@app.command("check")
def check(manifest: Manifest, as_json: Json = False) -> None:
    """Check every row as `plan` and `render` do, and print every problem. Exits with 2 if there is one."""
    from render_farm.cli.plan.plan import RowChecker
    from render_farm.farm.run.settings import load_settings
    from render_farm.manifest.reader import check_manifest

    settings = load_settings()
    checker = RowChecker(settings.model, settings.inputs)
    report = check_manifest(manifest, further=checker.look_at, limits=settings.manifest)
    for note in [*checker.notes, *report.warnings]:
        hint(note)
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
    elif not report.readable:
        raise ManifestError(report.fatal[0])
    elif report.ok:
        say(f"{manifest}: {plural(report.num_rows, 'job')}, nothing wrong")
    else:
        say("\n".join(report.problems))
        say(f"{manifest}: {plural(len(report.problems), 'problem')} in {plural(report.num_rows, 'row')}")
    if not report.ok:
        raise typer.Exit(2)


@app.command("show")
def show(
    manifest: Manifest,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="How many rows to show.")] = 20,
    as_json: Json = False,
) -> None:
    """Print the first rows, each with its values and its problems."""
    from render_farm.farm.run.settings import load_settings
    from render_farm.manifest.reader import read_manifest

    stream = read_manifest(manifest, limits=load_settings().manifest)
    shown = list(islice(stream, rows))
    num_rows = len(shown) + sum(1 for _ in stream)
    if as_json:
        jobs = [_values(row.job) if row.job else {"problems": list(row.lines)} for row in shown]
        print_json({"manifest": manifest, "num_rows": num_rows, "rows": jobs})
        return
    for row in shown:
        if row.job is None:
            say("\n".join(row.lines))
            continue
        say(row.job.job_id)
        for name, value in _values(row.job).items():
            if name != "job_id":
                say(f"  {name:<20} {_text(value)}")
    more = f", {num_rows - len(shown):,} not shown (--rows)" if num_rows > len(shown) else ""
    hint(f"{manifest}: {plural(num_rows, 'row')}{more}")


_MOST_SHOWN = 1_000
"""Characters, and entries, of one value."""


def _values(job: Any) -> dict[str, Any]:
    """The columns that are given, as JSON has them."""
    return {name: value for name, value in asdict(job).items() if value is not None}


def _text(value: Any) -> str:
    items = value if isinstance(value, tuple) else (value,)
    text = " | ".join(one_line(str(item)) for item in islice(items, _MOST_SHOWN))
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}... (--json has all)"
