"""`render-farm report` and `serve`: a run on one page, as a file or from a small server."""

from __future__ import annotations

import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from render_farm.cli.runs import Output, Run, RunPlace, find_run
from render_farm.cli.terminal import Json, hint, print_json, say
from render_farm.errors import RenderFarmError, UsageError

if TYPE_CHECKING:
    from render_farm.farm.run.settings import Settings
    from render_farm.report.page_data import Price
    from render_farm.report.writer import ReportWriter
    from render_farm.storage import Store

_AS_WRITTEN_EVERY_S = 60.0
_MOST_SHARE_OF_TIME = 0.02
_LAST_TRIES_FOR_S = 60.0
"""A store that answers nothing when a run ends may do so a moment later. What waits for the page waits no longer, and
no longer than the run itself waits for its store."""


def report(
    run: Run,
    output: Output = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    presign: Annotated[
        float | None,
        typer.Option(
            "--presign",
            metavar="HOURS",
            help="Signed links to the page and its films, for a private bucket.",
        ),
    ] = None,
    trace: Annotated[
        str | None,
        typer.Option(
            "--trace", metavar="FILE", help="Write its timeline as a Chrome trace, which https://ui.perfetto.dev opens."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's page, OUTPUT/_runs/RUN/report.html, as the run stands now, and print where it is."""
    from render_farm.farm.run.settings import MOST_LINK_HOURS, load_settings
    from render_farm.report.writer import ReportWriter
    from render_farm.storage.layout import RunKeys
    from render_farm.uris import protocol_of

    if presign is not None and not 0 < presign <= MOST_LINK_HOURS:
        raise UsageError(f"--presign must be greater than 0 and at most {MOST_LINK_HOURS} hours, got {presign:g}")
    place, settings = find_run(run, output), load_settings()
    if trace is not None:
        _write_trace(place, trace)
    links_for_s = link_seconds(presign if presign is not None else settings.report_link_hours)
    where = ReportWriter(place.store, place.run_id, price_of(settings), links_for_s=links_for_s).write()
    link = None
    if links_for_s is not None:
        key = RunKeys(run_id=place.run_id).report
        link = place.store.presign([key], links_for_s)[key]
    if as_json:
        print_json(
            {"run_id": place.run_id, "output": place.store.root_uri, "report": where, "link": link, "trace": trace}
        )
    else:
        say(link or where)
    if not open_it:
        return
    if link is None and protocol_of(where) != "file":
        raise UsageError(
            "--open: a browser cannot open an object store",
            advice="add --presign HOURS, or let `render-farm serve --output ...` show it",
        )
    if not webbrowser.open(link or Path(where).as_uri()):
        hint("no browser could be opened here")


def _write_trace(place: RunPlace, file: str) -> None:
    import json

    from render_farm.report.run_folder import RunFolderReader
    from render_farm.report.trace import chrome_trace

    folder = RunFolderReader(place.store, place.run_id).read()
    try:
        Path(file).write_text(json.dumps(chrome_trace(folder, now_s=time.time())))
    except OSError as error:
        raise UsageError(f"--trace {file}: {error.strerror or error}") from error


def link_seconds(hours: float | None) -> int | None:
    """How long signed links are to last; None: none are wanted."""
    return None if hours is None else max(1, round(hours * 3600))


def serve(
    output: Output = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any free port.")] = 8420,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Any but this machine's own needs a token.")
    ] = ("127.0.0.1"),
    token: Annotated[str | None, typer.Option("--token", help="Default: a new one, where one is needed.")] = None,
) -> None:
    """Serve the live pages and films of an output tree, read-only, until Ctrl-C."""
    from render_farm.farm.run.settings import load_settings
    from render_farm.report.serve import ReportServer
    from render_farm.storage import open_store

    settings = load_settings(output=output)
    if not settings.output:
        raise UsageError("--output is missing", advice="give a folder or a URI, or set RENDER_FARM_OUTPUT")
    try:
        server = ReportServer(open_store(settings.output), host=host, port=port, token=token, price=price_of(settings))
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port}: {error.strerror or error}", advice="--port 0 takes a free one"
        ) from error
    say(server.url)
    with server:
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            hint("stopped")


def price_of(settings: Settings) -> Price:
    """What an hour of a worker costs, by the settings."""
    from render_farm.report.page_data import Price

    return Price(per_hour=settings.gpu_price_per_hour, currency=settings.currency)


class RunReporter:
    """Writes a run's page in its own thread while the run continues, and a last time at its end. A failure is reported
    once and does not affect the run."""

    def __init__(
        self,
        store: Store,
        price: Price,
        *,
        links_for_s: int | None = None,
        patience_s: float,
        on_failure: Callable[[str], None],
    ) -> None:
        """`patience_s` is the run's, for its store."""
        self._on_failure = on_failure
        self._store = store
        self._links_for_s = links_for_s
        self._price = price
        self._last_tries_for_s = min(_LAST_TRIES_FOR_S, patience_s)
        self._run_id: str | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="report", daemon=True)
        self._complained = False

    def begin(self, run_id: str) -> None:
        """The run is under way."""
        if self._run_id is None:
            self._run_id = run_id
            self._thread.start()

    def close(self) -> None:
        """The run is over: write the page a last time."""
        if self._run_id is not None:
            self._over.set()
            self._thread.join()

    def _work(self) -> None:
        from render_farm.report.writer import ReportWriter

        assert self._run_id is not None
        writer = ReportWriter(self._store, self._run_id, self._price, links_for_s=self._links_for_s)
        pause_s = _AS_WRITTEN_EVERY_S
        while not self._over.wait(pause_s):
            started = time.monotonic()
            self._write(writer)
            pause_s = max(_AS_WRITTEN_EVERY_S, (time.monotonic() - started) / _MOST_SHARE_OF_TIME)
        self._write(writer, patience_s=self._last_tries_for_s)

    def _write(self, writer: ReportWriter, *, patience_s: float = 0.0) -> None:
        from render_farm.storage.patience import StoreRetry

        try:
            StoreRetry(patience_s)(writer.write)
        except RenderFarmError as error:
            if not self._complained:
                self._on_failure(f"the report could not be written: {error}")
            self._complained = True
