"""`StepGate`: whether a segment continues after a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from render_farm.errors import Cancelled, PreemptedError
from render_farm.farm.worker.preemption import LastStep

if TYPE_CHECKING:
    from render_farm.engine.progress import StepProgress
    from render_farm.parallel import ParallelGroup


class StepGate:
    """For one call. All ranks of a group stop at the same step, so none waits for another."""

    def __init__(
        self,
        work_key: str,
        last_step: LastStep,
        group: ParallelGroup | None,
        *,
        is_stopped: Callable[[], bool],
        is_cancelled: Callable[[], bool],
    ) -> None:
        """`is_stopped` says whether the call ends at once, `is_cancelled` whether it does so at a request, at once or
        at its last step."""
        self._work_key = work_key
        self._is_stopped = is_stopped
        self._is_cancelled = is_cancelled
        self._last_step = last_step
        self._group = group

    def __call__(self, progress: StepProgress) -> None:
        """Raises `Cancelled` when the call was stopped, `PreemptedError` when this worker has to end, and `GroupError`
        when another worker of the group stops."""
        from render_farm.parallel import GroupError

        where = f"film {self._work_key}: stopped at step {progress.step} of {progress.num_steps}"
        must_end = self._last_step(progress.step) or self._is_stopped()
        continues = not must_end
        if self._group is not None:
            continues = self._group.all_agree(continues)
        if must_end and self._is_cancelled():
            raise Cancelled(where)
        if must_end:
            raise PreemptedError(f"{where}, because this worker was asked to end")
        if not continues:
            raise GroupError(f"{where}, because another worker of its group stops")
