"""What `render-farm plan` says of a film's render groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from render_farm.cli.terminal import plural
from render_farm.errors import ModelError

if TYPE_CHECKING:
    from render_farm.farm.run.settings import Settings
    from render_farm.planning import FilmPlan
    from render_farm.planning.group_choice import FilmGroups
    from render_farm.planning.groups import GroupShape
    from render_farm.planning.model_sizes import ModelSizes


class GroupPlanner:
    """The groups that films would have on a host with `num_workers` GPUs; with degrees from the command line."""

    def __init__(self, settings: Settings, num_workers: int, asked: Mapping[str, Any]) -> None:
        from render_farm.planning.group_cost import machine_of

        self.flags: dict[str, int] = {name: degree for name, degree in asked.items() if isinstance(degree, int)}
        """Degrees for jobs that name none."""
        self._chooses = settings.group.degrees == "auto" or "auto" in asked.values()
        self._machine = machine_of(settings.group, "cuda")
        self._num_workers = num_workers

    def lines(self, film: FilmPlan) -> Iterator[str]:
        """The groups and what the cost model says of them; nothing for one worker that no others join."""
        groups, sizes = self._groups(film)
        if groups.group.size > 1 or groups.joined:
            yield f"group: {self._told(film, groups.group, sizes)}"
        for joined in groups.joined:
            yield f"  with idle workers: {self._told(film, joined, sizes)}"

    def described(self, film: FilmPlan) -> list[dict[str, Any]]:
        """The same for `--json`, the group that it needs first."""
        groups, sizes = self._groups(film)
        described = []
        for shape in (groups.group, *groups.joined):
            entry: dict[str, Any] = dict(zip(("cfg_parallel", "ulysses", "ring"), shape.degrees, strict=True))
            if sizes is not None:
                step_s, efficiency = self._cost(film, shape, sizes)
                entry |= {"predicted_step_s": step_s, "predicted_efficiency": efficiency}
                entry |= {"predicted_forming_s": self._machine.forming_s} if shape.size > 1 else {}
            described.append(entry)
        return described

    def _groups(self, film: FilmPlan) -> tuple[FilmGroups, ModelSizes | None]:
        from render_farm.planning.group_choice import FilmGroups, film_groups
        from render_farm.planning.groups import group_of

        sizes = _sizes_of(film.spec.name)
        if not self._chooses or sizes is None:
            return FilmGroups(group=group_of(film.job)), sizes
        return film_groups(film, sizes, self._machine, num_workers=self._num_workers), sizes

    def _told(self, film: FilmPlan, shape: GroupShape, sizes: ModelSizes | None) -> str:
        text = f"{shape}, {plural(shape.size, 'worker')}"
        if sizes is None:
            return text
        step_s, efficiency = self._cost(film, shape, sizes)
        forms = f", {self._machine.forming_s:.3g} s to form" if shape.size > 1 else ""
        return f"{text}, {step_s:.3g} s a step, efficiency {efficiency:.0%}{forms} (predicted)"

    def _cost(self, film: FilmPlan, shape: GroupShape, sizes: ModelSizes) -> tuple[float, float]:
        from render_farm.planning.group_choice import efficiency
        from render_farm.planning.group_cost import step_seconds, step_work

        work = step_work(film, sizes.transformer)
        return round(step_seconds(work, shape, self._machine), 6), round(efficiency(work, shape, self._machine), 4)


@cache
def _sizes_of(model: str) -> ModelSizes | None:
    """None for a model that is not read here."""
    from render_farm.models import PRESETS
    from render_farm.planning.model_sizes import sizes_of_preset

    preset = PRESETS.get(model)
    if preset is not None and preset.hub_id is not None:
        return sizes_of_preset(preset)
    folder = Path(model).expanduser()
    if preset is not None:
        from render_farm.tiny import MODEL_DIR

        folder = MODEL_DIR
    from render_farm.engine.weights.part_sizes import read_sizes

    try:
        return read_sizes(folder)
    except ModelError:
        return None
