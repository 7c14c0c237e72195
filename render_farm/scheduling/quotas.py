"""Rule: a run renders on no more workers than it asked for, and a share on no more than its quota."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class QuotaBook:
    """Workers in use by run and by share. Every operation is O(1)."""

    def __init__(self, of_shares: Mapping[str, int]) -> None:
        self._of_shares = of_shares
        self._of_runs: dict[str, int] = {}
        self._in_use: Counter[tuple[str, str]] = Counter()

    def limit_run(self, run_id: str, most: int | None) -> None:
        """The run renders on at most so many workers from now on; None: no limit."""
        if most is None:
            self._of_runs.pop(run_id, None)
        else:
            self._of_runs[run_id] = most

    @property
    def has_limits(self) -> bool:
        """Whether anybody has a limit."""
        return bool(self._of_runs or self._of_shares)

    def room(self, run_id: str, share: str) -> float:
        """How many more workers a film of the run and share may have."""
        room = float("inf")
        if run_id in self._of_runs:
            room = self._of_runs[run_id] - self._in_use["run", run_id]
        if share in self._of_shares:
            room = min(room, self._of_shares[share] - self._in_use["share", share])
        return room

    def took(self, run_id: str, share: str, num_workers: int) -> None:
        """A film took workers (or, negative, gave them back)."""
        self._in_use["run", run_id] += num_workers
        self._in_use["share", share] += num_workers

    def why(self, run_id: str, share: str, num_workers: int) -> str:
        """Why a film that needs `num_workers` may not have them now, in a sentence; "" when it may."""
        if self.room(run_id, share) >= num_workers:
            return ""
        limit = self._of_runs.get(run_id)
        if limit is not None and limit - self._in_use["run", run_id] < num_workers:
            if num_workers > limit:
                return f"it needs {num_workers} workers, and its run may have {limit}"
            return f"its run renders on {self._in_use['run', run_id]} workers and may have {limit}"
        limit = self._of_shares[share]
        if num_workers > limit:
            return f"it needs {num_workers} workers, and the quota of {share!r} is {limit}"
        return f"{share!r} renders on {self._in_use['share', share]} workers, and its quota is {limit}"
