"""Pure arithmetic on films: frames, windows, timestep schedules, refusals and cost. Standard library only."""

from render_farm.planning.film import FilmPlan, plan_film, with_inputs_read, with_loras_read
from render_farm.planning.model_spec import ModelSpec, spec_of_preset
from render_farm.planning.resolve import ResolvedJob, resolve_job
from render_farm.planning.schedule import StepSchedule, make_schedule
from render_farm.planning.windows import Window, plan_windows

__all__ = [
    "FilmPlan",
    "ModelSpec",
    "ResolvedJob",
    "StepSchedule",
    "Window",
    "make_schedule",
    "plan_film",
    "plan_windows",
    "resolve_job",
    "spec_of_preset",
    "with_inputs_read",
    "with_loras_read",
]
