"""`Magnitudes`: how much the layers of a model add to their input, by noise level; what MagCache goes by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Magnitudes:
    """Measured at the steps of one film (`engine.calibrate`), usable with any schedule: between them it is a line.

    MagCache (https://arxiv.org/abs/2506.09045) keeps the ratio from each step to the next, which holds for one number
    of steps and one shift only; their product, kept here, is a curve over the noise level.
    """

    fingerprint: str
    """Of the model that it was measured with."""
    timesteps: tuple[int, ...]
    """Falling, from 999 at most to 0 at least."""
    branches: tuple[tuple[float, ...], ...]
    """The magnitude at each timestep, relative to the first: with the prompt, and without."""

    def at(self, timestep: float, branch: int) -> float:
        """The magnitude at a timestep. A branch that was not measured is taken for the one with the prompt."""
        values = self.branches[branch if branch < len(self.branches) else 0]
        rising = [-t for t in self.timesteps]
        after = bisect_left(rising, -timestep)
        if after == 0:
            return values[0]
        if after == len(values):
            return values[-1]
        start, end = self.timesteps[after - 1], self.timesteps[after]
        share = (start - timestep) / (start - end)
        return values[after - 1] + share * (values[after] - values[after - 1])

    def to_dict(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "timesteps": list(self.timesteps),
            "branches": [list(branch) for branch in self.branches],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Magnitudes:
        """The inverse of `to_dict`. Raises ValueError for anything else."""
        try:
            timesteps = tuple(int(t) for t in content["timesteps"])
            branches = tuple(tuple(float(value) for value in branch) for branch in content["branches"])
            found = cls(fingerprint=str(content["fingerprint"]), timesteps=timesteps, branches=branches)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no magnitudes of a model: {error}") from error
        falls = all(a > b for a, b in pairwise(timesteps))
        whole = branches and all(len(b) == len(timesteps) and min(b) > 0 for b in branches if timesteps)
        if not (timesteps and falls and whole):
            raise ValueError("no magnitudes of a model: timesteps fall, and each has a positive number a branch")
        return found
