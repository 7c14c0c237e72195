"""`[engine]`: how segments are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from render_farm.config import Table, setting

Attention = Literal[
    "auto",
    "flash_attn_3",
    "torch_cudnn",
    "flash_attn_2",
    "torch_flash",
    "torch_efficient",
    "sage",
    "torch_math",
]
ATTENTION_BACKENDS: tuple[str, ...] = get_args(Attention)[1:]
"""The backends of `engine/transformer/attention_backends.py`."""
Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Table):
    """How segments are computed. The picture does not depend on it, except with `sage`."""

    variables: ClassVar[str] = "RENDER_FARM_ENGINE_"

    attention: Attention = setting(
        "auto",
        "`auto` measures the exact backends that run on the device when the model is loaded, and takes the fastest. "
        "`flash_attn_3`, `flash_attn_2` and `sage` need their packages.",
    )
    allow_approximate_attention: bool = setting(
        False,
        "Lets `auto` choose SageAttention too. Its films differ from the exact ones by more than rounding.",
    )
    compile: Switch = setting(
        "auto",
        "`torch.compile` of the transformer's blocks, once per process. `auto` does it on GPUs. `off` also leaves out "
        "the VAE's own kernel.",
    )
    kv_cache: Switch = setting(
        "auto",
        "Keys and values of finished blocks. `auto` keeps them when they fit next to the model, `on` always, `off` "
        "never. Without them they are computed again at every step, and the film is the same.",
    )

    @property
    def approximation(self) -> str:
        """Why films differ from the exact ones, for their render key; empty when they do not."""
        if self.attention == "sage":
            return "attention sage"
        return "attention auto" if self.attention == "auto" and self.allow_approximate_attention else ""
