"""Every error of the farm. A class says whose fault it is and whether trying again can help.

`Fault` decides what the farm does (the table is `scheduling/retry.py`): the job's fault fails the job with advice,
the worker's is retried on another worker, the cluster's waits and is retried without counting an attempt, and the
user's ends the command with exit code 2 before anything is rendered.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """Who has to act so that the error goes away."""

    USER = "user"
    JOB = "job"
    WORKER = "worker"
    CLUSTER = "cluster"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with one field: what was given and what would work, as one line."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class RenderFarmError(Exception):
    """Base of all errors that the farm raises on purpose. The message is written for the person who reads it."""

    fault: Fault = Fault.CLUSTER
    exit_code: int = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} ({self.advice})" if self.advice else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries; keyword-only arguments need this to survive pickling.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[RenderFarmError], args: tuple[Any, ...], state: dict[str, Any]) -> RenderFarmError:
    error = cls.__new__(cls)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


# --- the user's: the command cannot start ---------------------------------------------------------------------------


class UsageError(RenderFarmError):
    """Flags, settings or arguments that cannot work."""

    fault = Fault.USER
    exit_code = 2


class ManifestError(UsageError):
    """A manifest that cannot be used at all: unreadable, a schema error, a duplicate `job_id`, or any bad row
    under `--strict`. `problems` are complete lines, one each."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.problems])


class NotFoundError(UsageError):
    """A named thing (run, job, object) that does not exist."""

    exit_code = 14


class ManifestNotFoundError(ManifestError, NotFoundError):
    """There is no manifest where it was said to be."""

    exit_code = NotFoundError.exit_code


class LeaseHeldError(UsageError):
    """Another coordinator owns the run. The message names the holder."""


# --- the job's: fails this job, with advice, at once -----------------------------------------------------------------


class JobError(RenderFarmError):
    """The job cannot be rendered as it is written; trying again would fail in the same way."""

    fault = Fault.JOB


class InvalidJobError(JobError, ValueError):
    """Fields of a job with impossible values or combinations."""

    def __init__(self, problems: list[Problem] | tuple[Problem, ...], *, job_id: str = "") -> None:
        self.problems = tuple(problems)
        self.job_id = job_id
        lines = "; ".join(str(problem) for problem in self.problems)
        super().__init__(f"job {job_id}: {lines}" if job_id else lines)


class ModelError(JobError):
    """A model that cannot be found, is not a SkyReels-V2 checkpoint, or does not serve the job's task."""

    exit_code = 2
    """Of a command about one model; in a run it is its jobs that fail."""


class HubError(ModelError):
    """The hub cannot be reached or refuses a model; `status` is its HTTP status when it answered."""

    def __init__(self, message: str, *, status: int | None = None, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.status = status
        if status == 404:
            self.exit_code = NotFoundError.exit_code


class InputError(JobError):
    """An input image, video or LoRA that is missing, unreadable or of the wrong kind."""


class FindingsError(JobError):
    """The checks found something in a film's pictures, and its job asks not to publish such a film."""

    def __init__(self, message: str, *, findings: tuple[str, ...], advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.findings = findings


class FilmRejectedError(FindingsError):
    """The same, where the job asks for another seed. It took `seconds` of workers. Of the film that follows,
    `segments_done` are known to be stored (None: all of them)."""

    def __init__(
        self,
        message: str,
        *,
        findings: tuple[str, ...],
        seconds: float,
        segments_done: int | None = 0,
        advice: str = "",
    ) -> None:
        super().__init__(message, findings=findings, advice=advice)
        self.seconds = seconds
        self.segments_done = segments_done


class ProvenanceError(JobError):
    """A film that cannot be signed as the settings ask. It is not published unsigned."""


class FilmRefusedError(FindingsError):
    """The operator's hook says that this film is not to be published."""


class FilmExistsError(JobError):
    """A film of this job id is done already, made by a run of another manifest."""


class MemoryModeError(JobError):
    """A memory mode that cannot be used where the job is rendered, for want of a package."""


class OutOfMemoryError(JobError):
    """The work does not fit the device: in no memory mode when the job leaves the choice to the engine, else in the
    one it names (`memory_mode.next_smaller` is the one to try after it)."""


# --- the worker's: retried elsewhere ---------------------------------------------------------------------------------


class WorkerError(RenderFarmError):
    """The process, its device or its host failed; another worker may succeed."""

    fault = Fault.WORKER


class WorkerDiedError(WorkerError):
    """The worker's process ended while it held work."""


class HostMemoryError(WorkerError):
    """The machine ran out of its own memory, which is not the GPU's: moving weights there would need more of it."""


class HookError(WorkerError):
    """The operator's hook did not answer: it crashed, took too long, or said something else."""


class HostUnfitError(WorkerError):
    """The machine of a worker cannot do its work, whatever the film: its disk is full, or it has no encoder."""


class DeviceError(WorkerError):
    """The accelerator reported an error that poisons the process."""


class NotFiniteError(WorkerError):
    """A segment or a frame holds NaN or infinity. The first time the worker is blamed, the second time the job."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} holds numbers that are not finite (NaN or infinity)",
            advice="if another worker finds them too, check the LoRAs and their weights, the model's files, and "
            "the dtype: float16 overflows where bfloat16 does not",
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return RenderFarmError.__reduce__(self)


# --- the cluster's: waits, then goes on, with no attempt counted ------------------------------------------------------


class ClusterError(RenderFarmError):
    """Something around the workers failed (storage, network, preemption)."""


class PreemptedError(ClusterError):
    """The worker's machine is wanted back; the process stopped at a step, as it was asked to."""


class NodeLostError(ClusterError):
    """The worker's machine left the cluster."""


class StorageError(ClusterError):
    """An object store or file system failed. The message says the operation, the place and what would work."""


class StorageUnavailableError(StorageError):
    """The store cannot be reached or refuses access: a wrong endpoint, a missing bucket, missing credentials."""

    exit_code = 2


class HubUnavailableError(StorageUnavailableError):
    """The hub of models answers that it is too busy or broken (HTTP 429, 5xx)."""


class StorageFullError(StorageError):
    """No space is left where an object was to be written. Nothing was left under its final name."""

    exit_code = 2


class CorruptCheckpointError(StorageError):
    """A stored segment whose checksum does not match; it is set aside and rendered again."""


class MediaError(WorkerError):
    """ffmpeg failed to write or read a video."""


# --- not failures ----------------------------------------------------------------------------------------------------


class Cancelled(RenderFarmError):
    """Work that stopped because it was asked to, at a step boundary."""

    exit_code = 12


class TimeLimitError(RenderFarmError):
    """The time that a command was given is over, and it has nothing to show."""

    exit_code = 13
