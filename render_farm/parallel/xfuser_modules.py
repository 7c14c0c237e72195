"""xfuser's modules, imported once and quietly, with or without an accelerator."""

from __future__ import annotations

import importlib
import logging
import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from render_farm.errors import UsageError
from render_farm.extras import install_advice


@dataclass(frozen=True, kw_only=True)
class Xfuser:
    """The modules of xfuser (and the one object of yunchang) that this package calls."""

    state: Any
    """`xfuser.core.distributed.parallel_state`: the groups."""
    runtime: Any
    """`xfuser.core.distributed.runtime_state`: what `USP` asks for its settings."""
    backends: Any
    """`xfuser.core.distributed.attention_backend`: the attention functions by name."""
    usp: Any
    """`xfuser.model_executor.layers.usp`: attention over a sequence-parallel group."""
    args: Any
    """`xFuserArgs`."""
    sequence_groups: Any
    """yunchang's holder of the Ulysses and the ring group."""


@cache
def xfuser() -> Xfuser:
    """Import xfuser (seconds, once a process). Raises `UsageError` when it, yunchang or triton is not installed."""
    logging.getLogger("xfuser").setLevel(logging.ERROR)
    quiet = logging.getLogger("transformers")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # xfuser imports processors that this project does not use, and each says so
    try:
        if not torch.cuda.is_available():
            from render_farm.parallel.cpu_shim import correct_envs

            correct_envs()
        state = importlib.import_module("xfuser.core.distributed.parallel_state")
        usp = importlib.import_module("xfuser.model_executor.layers.usp")
        found = Xfuser(
            state=state,
            runtime=importlib.import_module("xfuser.core.distributed.runtime_state"),
            backends=importlib.import_module("xfuser.core.distributed.attention_backend"),
            usp=usp,
            args=importlib.import_module("xfuser.config.args").xFuserArgs,
            sequence_groups=importlib.import_module("yunchang.globals").PROCESS_GROUP,
        )
    except ModuleNotFoundError as error:
        raise UsageError(
            f"render groups need the package {error.name}, which is not installed",
            advice=install_advice("xfuser"),
        ) from error
    finally:
        quiet.setLevel(level)
    if not torch.cuda.is_available():
        from render_farm.parallel.cpu_shim import correct_usp

        correct_usp(usp)
    # xfuser and `first_layer` call what torch now has under other names, and those are not in older ones.
    warnings.filterwarnings("ignore", message=".*all_gather_(into_)?tensor.*", category=FutureWarning)
    for name in list(logging.root.manager.loggerDict):
        if name == "xfuser" or name.startswith("xfuser."):
            logging.getLogger(name).setLevel(logging.ERROR)
    return found
