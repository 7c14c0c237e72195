"""`RunProgress`: the present work and the end of each film of a run, as the coordinator keeps them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from render_farm.check_mode import kinds_of
from render_farm.farm.run.film_task import FilmReport, PreviewNews
from render_farm.farm.run.log import RunLog
from render_farm.farm.run.pace import Pace
from render_farm.farm.run.results import Result
from render_farm.farm.run.rows import row_of
from render_farm.farm.run.spec import FilmEntry, RunSpec
from render_farm.observability.events import EventKind
from render_farm.observability.snapshot import RunSnapshot, WorkSnapshot
from render_farm.scheduling.states import State
from render_farm.storage.run_state import JobRow
from render_farm.storage.store import Store

_WORK_SHOWN = 1000
_LAST_WRITER_WINS = (
    "this store does not honour create-only writes, so of two attempts at one film the last to be written wins; render "
    "into it with one farm at a time"
)


@dataclass(slots=True)
class FilmProgress:
    """One film of the run."""

    entry: FilmEntry
    result: Result
    segments_done: int
    step: int = 0
    num_steps: int = 0
    phase: str = ""
    worker: str = ""
    helpers: tuple[str, ...] = ()
    """The other workers of its render group."""
    started_s: float | None = None
    work_began_s: float = 0.0
    """Time at which its worker got what it does now."""
    attempt: int = 1
    """One more every time its work is handed out again after a failure."""

    @property
    def work_left(self) -> int:
        """Token passes of the segments that are not stored."""
        return sum(self.entry.costs[self.segments_done :])

    def snapshot(self) -> WorkSnapshot:
        """What its worker does now."""
        return WorkSnapshot(
            worker=self.worker,
            helpers=self.helpers,
            job_id=self.result.job_id,
            phase=self.phase,
            segment=self.segments_done,
            num_segments=self.entry.task.plan.num_segments,
            step=self.step,
            num_steps=self.num_steps,
            attempt=self.attempt,
            seconds=round(time.monotonic() - self.work_began_s, 1),
        )


class RunProgress:
    """See the module. Times are `time.monotonic`'s, those in results are UTC."""

    def __init__(self, spec: RunSpec, store: Store) -> None:
        self.spec = spec
        self.store = store
        self._order = {job_id: number for number, job_id in enumerate(spec.order)}
        self.log = RunLog(spec.run_id)
        self._state = State.WAITING
        self.stop_reason = ""
        self.note = ""
        self.films: dict[str, FilmProgress] = {}
        self.ended_before = {result.job_id: result for result in spec.ended}
        """Rows that needed no work."""
        self._ended_states = Counter(str(result.state) for result in spec.ended)
        self._states: Counter[str] = Counter()
        """Films by state. With the sums below, nothing that is asked often looks at every film."""
        self.segments_left = 0
        """Of films that have not ended."""
        self.deadlines: Counter[float] = Counter()
        """Films that have not ended by their deadline (Unix time), where they have one."""
        self._findings = Counter(kind for result in spec.ended for kind in kinds_of(result.findings or ()))
        """Films by what was found in them."""
        self._running: set[str] = set()
        self._dirty: set[str] = set()
        """Since the last rows that were taken to be made durable."""
        self.pace = Pace()
        self._engine_s: dict[str, float] = {}
        self.segments_done = 0
        self.num_segments = 0

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        if state is State.RUNNING and self._state is State.WAITING:
            number = len(self.films) + self.num_untold
            noun = "film" if number == 1 else "films"
            self.log.add(f"{number} {noun} to render", kind=EventKind.RUN_STARTED, num_films=number)
        self._state = state

    def add_ended(self, results: Sequence[Result]) -> list[Result]:
        """Enter rows that need no work. Returns those that were not known."""
        new = [result for result in results if result.job_id not in self.ended_before]
        self.ended_before.update({result.job_id: result for result in new})
        self._ended_states.update(str(result.state) for result in new)
        self._findings.update(kind for result in new for kind in kinds_of(result.findings or ()))
        return new

    @property
    def num_untold(self) -> int:
        """Rows of the manifest that are still being prepared, or were when the run was stopped."""
        return max(0, len(self._order) - len(self.ended_before) - len(self.films))

    def is_untold(self, job_id: str) -> bool:
        """Whether a job is one of those rows."""
        return job_id in self._order and job_id not in self.ended_before and job_id not in self.films

    @property
    def _untold_state(self) -> State:
        return State.CANCELLED if self._state.ended else State.WAITING

    def add(self, entry: FilmEntry) -> FilmProgress:
        """Enter a film that waits."""
        plan = entry.task.plan
        result = Result(job_id=entry.task.job_id, state=State.WAITING, segments=plan.num_segments)
        film = FilmProgress(entry=entry, result=result, segments_done=entry.segments_done)
        if not entry.task.create_only and not self.films:
            self.log.add(f"{self.spec.output}: {_LAST_WRITER_WINS}", level="warning")
        self.films[entry.task.job_id] = film
        self.num_segments += plan.num_segments
        self.segments_done += entry.segments_done
        self.pace.work_left += film.work_left
        self._states[State.WAITING] += 1
        self._count_open(film, 1)
        return film

    def _count_open(self, film: FilmProgress, change: int) -> None:
        self.segments_left += change * (film.entry.task.plan.num_segments - film.segments_done)
        deadline_s = film.entry.deadline_s
        if deadline_s is not None:
            self.deadlines[deadline_s] += change
            if not self.deadlines[deadline_s]:
                del self.deadlines[deadline_s]

    def _set_state(self, film: FilmProgress, state: State) -> None:
        before = State(film.result.state)
        self._states[before] -= 1
        self._states[state] += 1
        film.result.state = state
        if before.ended != state.ended:
            self._count_open(film, -1 if state.ended else 1)

    # --- what happens to a film ---

    def _touch(self, film: FilmProgress) -> None:
        job_id = film.result.job_id
        self._dirty.add(job_id)
        if film.result.state == State.RUNNING:
            self._running.add(job_id)
        else:
            self._running.discard(job_id)

    def started(self, job_id: str, worker: str, phase: str, helpers: tuple[str, ...] = ()) -> None:
        """A worker began a segment (`denoise`), with the others of its group, or the finishing (`publish`)."""
        film = self.films[job_id]
        if film.started_s is None:
            film.started_s = time.monotonic()
            film.result.started_at = datetime.now(UTC)
        self._set_state(film, State.RUNNING)
        film.worker, film.phase = worker, phase
        film.step = film.num_steps = 0
        film.work_began_s, film.helpers = time.monotonic(), helpers
        if phase == "publish":
            self._note(film, EventKind.FINISH_STARTED, "finishing")
        else:
            others = {"helpers": list(helpers)} if helpers else {}
            self._note(film, EventKind.SEGMENT_STARTED, f"began on {worker}", segment=film.segments_done, **others)
        self._touch(film)

    def _note(self, film: FilmProgress, kind: EventKind, message: str, **details: Any) -> None:
        """Log what happens to a film, for those who look closely."""
        self.log.add(
            message,
            kind=kind,
            level="debug",
            job_id=film.result.job_id,
            worker=film.worker,
            attempt=film.attempt,
            **details,
        )

    def stepped(self, job_id: str, segment: int, step: int, num_steps: int) -> None:
        """A film's segment made a step. Steps are shown, and not made durable."""
        film = self.films[job_id]
        made, film.step, film.num_steps = step - film.step, step, num_steps
        self.pace.stepped(made, film.entry.costs[segment] * made / num_steps)

    def engine_time(self, worker: str, seconds: float) -> None:
        """A worker process said how long it has been in its engine."""
        self._engine_s[worker] = max(seconds, self._engine_s.get(worker, 0.0))

    def segment_done(self, job_id: str, seconds: float, *, num_workers: int = 1, is_found: bool = False) -> None:
        """A film's segment is stored, that so many workers rendered together, or that was there already."""
        film = self.films[job_id]
        segment = film.segments_done
        if is_found:
            self.pace.work_left -= film.entry.costs[segment]
        self._note(
            film, EventKind.SEGMENT_DONE, f"segment {segment + 1} is stored", segment=segment, seconds=round(seconds, 3)
        )
        film.segments_done += 1
        self.segments_left -= 1
        self._set_state(film, State.WAITING)  # until `started`, at once or when the run is no longer paused
        film.worker = film.phase = ""
        film.helpers = ()
        film.step = film.num_steps = 0
        film.result.gpu_s = round((film.result.gpu_s or 0.0) + seconds * num_workers, 3)
        self.segments_done += 1
        self._touch(film)

    def previewed(self, news: PreviewNews) -> None:
        """A film's finished segments can be watched, or why there will be no more of them."""
        film = self.films[news.job_id]
        if news.problem:
            self.log.add(f"its preview ends: {news.problem}", level="warning", job_id=news.job_id, worker=film.worker)
            return
        job = film.entry.task.plan.job
        self._note(
            film,
            EventKind.PREVIEW_READY,
            f"{news.num_segments} of {film.entry.task.plan.num_segments} segments can be watched",
            segment=news.num_segments - 1,
            folder=news.work_key,
            num_frames=news.num_frames,
            fps=job.fps,
        )

    def roll_back(self, job_id: str, message: str, segments_done: int | None = None) -> None:
        """A film's work failed and will be tried again. Nothing happens to one that has already ended."""
        film = self.films[job_id]
        if State(film.result.state).ended:
            return
        if film.worker:
            behind = {} if segments_done is None else {"segments_done": segments_done}
            self._note(film, EventKind.WORK_FAILED, message, segment=film.segments_done, **behind)
            film.attempt += 1
        if segments_done is not None and segments_done < film.segments_done:
            self.segments_done -= film.segments_done - segments_done
            self.segments_left += film.segments_done - segments_done
            self.pace.work_left += sum(film.entry.costs[segments_done : film.segments_done])
            film.segments_done = segments_done
        if film.num_steps:
            self.pace.work_left += int(film.entry.costs[film.segments_done] * film.step / film.num_steps)
        self._set_state(film, State.WAITING)
        film.worker = film.phase = ""
        film.step = film.num_steps = 0
        film.result.message = message
        self._touch(film)

    def requeue(self, job_id: str) -> None:
        """A film that had ended is retried."""
        film = self.films[job_id]
        self._set_state(film, State.WAITING)
        self._findings.subtract(kinds_of(film.result.findings or ()))
        film.result = Result(job_id=job_id, state=State.WAITING, segments=film.result.segments)
        film.started_s = None
        self.pace.work_left += film.work_left
        self._touch(film)

    def published(self, job_id: str, report: FilmReport) -> None:
        """A film's files have their final names (the state follows with `ended`)."""
        film = self.films[job_id]
        result, job = film.result, film.entry.task.plan.job
        self._note(
            film,
            EventKind.FILM_PUBLISHED,
            "published",
            seconds=round(report.seconds, 3),
            num_frames=report.num_frames,
            fps=job.fps,
            width=job.width,
            height=job.height,
            seam_score=report.seam_score,
        )
        result.uri, result.sha256, result.frames = report.uri, report.sha256, report.num_frames
        result.video_bytes = report.video_bytes
        result.gpu_s = round(report.render_s, 3)
        result.seam_score = report.seam_score
        result.reused_segments = report.reused_segments
        result.drift = report.drift
        result.seeds_tried = report.seeds_tried or None
        self.found(job_id, report.findings)
        result.message = None

    def found(self, job_id: str, findings: tuple[str, ...]) -> None:
        """The checks have looked at a film's pictures."""
        result = self.films[job_id].result
        self._findings.subtract(kinds_of(result.findings or ()))
        self._findings.update(kinds_of(findings))
        result.findings = findings
        if findings:
            self.log.add(f"found in its pictures: {', '.join(findings)}", level="warning", job_id=job_id)

    def rejected(self, job_id: str, findings: tuple[str, ...], seconds: float | None = None) -> None:
        """A film is not published because of `findings`. When it took `seconds`, the film of another seed follows."""
        film = self.films[job_id]
        task = film.entry.task
        self.found(job_id, findings)
        self._note(
            film,
            EventKind.FILM_REJECTED,
            f"the film of seed {task.plan.job.seed} is not published",
            seed=task.plan.job.seed,
            findings=list(findings),
        )
        if seconds is not None:
            film.entry = replace(film.entry, task=task.after(findings, seconds))
            self.log.add(f"continues with seed {film.entry.task.plan.job.seed}", job_id=job_id)
            self._touch(film)

    def ended(self, job_id: str, state: State, *, error_class: str, message: str, attempts: int) -> None:
        """A film reached its last state."""
        film = self.films[job_id]
        result = film.result
        self._set_state(film, state)
        result.attempts = attempts
        if state is State.DONE and not message:
            plan = film.entry.task.plan
            notes = [plan.draft_note, f"approximate: {', '.join(plan.approximations)}" if plan.approximations else ""]
            message = "; ".join(filter(None, notes))
        result.error_class, result.message = error_class or None, message or None
        result.finished_at = datetime.now(UTC)
        if film.started_s is not None:
            result.wall_s = round(time.monotonic() - film.started_s, 3)
        self._note(film, EventKind.FILM_ENDED, str(state), state=str(state), error_class=error_class)
        film.worker = film.phase = ""
        if state is not State.DONE:
            self.pace.work_left -= film.work_left
        self._touch(film)

    # --- what others read ---

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by state, the ones that needed no work included."""
        untold = Counter({str(self._untold_state): self.num_untold})
        return {str(state): number for state, number in (self._states + self._ended_states + untold).items()}

    @property
    def num_open(self) -> int:
        """Films that have not ended."""
        return self._states[State.WAITING] + self._states[State.RUNNING]

    @property
    def num_rendering(self) -> int:
        """Films of which a segment is being rendered."""
        return sum(self.films[job_id].phase == "denoise" for job_id in self._running)

    def results(self) -> list[Result]:
        """Every row of `results.parquet` as it stands, in the manifest's order."""
        rows = [*self.ended_before.values(), *(film.result for film in self.films.values())]
        if self.num_untold:
            known = {result.job_id for result in rows}
            rows += [Result(job_id=name, state=self._untold_state) for name in self._order if name not in known]
        return sorted(rows, key=lambda result: self._order.get(result.job_id, len(self._order)))

    def pop_dirty(self, known: Mapping[str, JobRow]) -> dict[str, JobRow]:
        """The durable rows of the jobs that changed since the last call; what people asked for of `known` stays."""
        taken, self._dirty = self._dirty, set()
        rows = {}
        for job_id in taken:
            film = self.films[job_id]
            task = film.entry.task
            row = row_of(
                film.result, render_key=task.render_key, segments_done=film.segments_done, before=known.get(job_id)
            )
            rows[job_id] = replace(row, rejected=task.rejected_films())
        return rows

    def mark_dirty(self, job_ids: Iterable[str]) -> None:
        """Rows that were taken could not be written: they are given out again."""
        self._dirty.update(job_ids)

    def snapshot(
        self,
        *,
        num_workers: int = 0,
        workers_busy: int = 0,
        paused: bool = False,
        quarantined: Mapping[str, str] | None = None,
        after_line: int | None = None,
        now_s: float | None = None,
    ) -> RunSnapshot:
        """The run now, with the log lines after `after_line` where that is given. `now_s` is Unix time."""
        now_s = time.time() if now_s is None else now_s
        is_coming = self._state is State.RUNNING and self.num_untold > 0
        eta_s, deadlines, rendering = self.pace.eta_s, self.deadlines, self.num_rendering
        return RunSnapshot(
            run_id=self.spec.run_id,
            output=self.spec.output,
            time_s=round(now_s, 1),
            state=str(self.state),
            jobs=self.counts,
            num_segments=self.num_segments,
            segments_done=self.segments_done,
            segments_running=rendering,
            segments_waiting=self.segments_left - rendering,
            steps_per_s=self.pace.steps_per_s,
            eta_s=eta_s,
            num_late=sum(number for deadline_s, number in deadlines.items() if deadline_s < now_s),
            slack_s=max(deadlines) - now_s - eta_s if deadlines and eta_s is not None else None,
            num_workers=num_workers,
            workers_busy=workers_busy,
            engine_s=round(sum(self._engine_s.values()), 3),
            paused=paused,
            quarantined=dict(quarantined or {}),
            findings=dict(sorted((+self._findings).items())),
            note=self.note or (_still_prepared(self.num_untold) if is_coming else ""),
            work=tuple(self.films[job_id].snapshot() for job_id in sorted(self._running)[:_WORK_SHOWN]),
            log=() if after_line is None else self.log.after(after_line),
        )


def _still_prepared(num_rows: int) -> str:
    return "1 row is still being prepared" if num_rows == 1 else f"{num_rows:,} rows are still being prepared"
