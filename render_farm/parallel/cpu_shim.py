"""Lets xfuser 0.7.0 be imported on a machine without an accelerator. Nothing else uses this file, and only there.

xfuser refuses such machines in four places, although its groups and its attention run on gloo:

1. `xfuser.config.config` reads `envs.CUDA_VERSION`, which raises without CUDA, ROCm, MUSA or NPU;
2. `envs.get_torch_distributed_backend()` knows no backend for the CPU; it is gloo;
3. `envs.PACKAGES_CHECKER` leaves yunchang out unless CUDA is there, and there are no sequence-parallel groups then;
4. a torch that was built for CUDA or ROCm is taken for such a device, which forming groups then begins to use.

All four are decided in `xfuser.envs`, so that module is loaded first, without the package around it, and corrected.
`usp` then still takes yunchang's groups only with CUDA; `correct_usp` gives it the same object.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from packaging import version


def correct_envs() -> None:
    """Load and correct `xfuser.envs`; before anything imports `xfuser`. Raises `ModuleNotFoundError` without xfuser."""
    assert "xfuser" not in sys.modules, "xfuser decides what it can do while it is imported"
    spec = importlib.util.find_spec("xfuser")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'xfuser'", name="xfuser")
    package = ModuleType("xfuser")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["xfuser"] = package
    try:
        envs: Any = importlib.import_module("xfuser.envs")
    finally:
        del sys.modules["xfuser"]
    envs._is_cuda = envs._is_hip = lambda: False
    envs.variables["CUDA_VERSION"] = lambda: version.parse("12.0")
    envs.get_torch_distributed_backend = lambda: "gloo"
    envs.PACKAGES_CHECKER.packages_info["has_long_ctx_attn"] = True


def correct_usp(usp: Any) -> None:
    """Give `xfuser.model_executor.layers.usp` the groups that it takes only on CUDA."""
    from yunchang.globals import PROCESS_GROUP

    usp.PROCESS_GROUP = PROCESS_GROUP
