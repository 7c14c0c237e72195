"""LoRAs next to the transformer's weights. Each layer's output gets the adapters' part added, and the weights stay.

Nothing of the base is written, so taking the adapters off leaves it bit-identical, in any dtype; weights that are
offloaded, cast to fp8 or quantised are left alone by the same token. While adapters are attached, a layer's place in
its parent is taken by a `BranchedLayer` that calls it. (Not by a forward hook: a compiled block does not look again
whether its layers have hooks, but it does look which layers it has.) A branch works on any part of the tokens: spans,
cached blocks, sequence parallelism. All adapters of a job are one branch: their halves are joined along the rank, each
scaled by its weight.

Shapes: R rank (all adapters together), I and O the layer's features in and out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from render_farm.engine.lora.weights import Lora, LowRank

_SMALLEST_DTYPE_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class WeightedLora:
    """A LoRA as a job wants it."""

    lora: Lora
    weight: float

    @property
    def identity(self) -> tuple[str, float]:
        return self.lora.sha256, self.weight


class BranchedLayer(nn.Module):
    """A linear layer and its branch: layer(x) + up(down(x)) + bias.

    The branch's tensors are neither parameters nor buffers: what moves or casts a model's weights passes them by.
    """

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.down = down
        """(R I)."""
        self.up = up
        """(R O), so that no product has to transpose."""
        self.bias = bias

    def forward(self, states: Tensor) -> Tensor:
        """`states` (... I) to (... O)."""
        output = self.layer(states)
        low = linear(states, self.down)
        total = torch.addmm(output.flatten(0, -2), low.flatten(0, -2), self.up).view_as(output)
        return total if self.bias is None else total + self.bias

    @property
    def num_bytes(self) -> int:
        """Memory that the branch takes on the device."""
        tensors = [t for t in (self.down, self.up, self.bias) if t is not None]
        return sum(t.numel() * t.element_size() for t in tensors)


class Adapters:
    """The adapters on a transformer. Used by one thread at a time, between forward passes."""

    def __init__(self, *, device: torch.device, dtype: torch.dtype) -> None:
        """`device` is where passes run, `dtype` in what: layers whose weights are stored smaller compute in it."""
        self._model: nn.Module | None = None
        self._device = device
        self._dtype = dtype
        self._branched: dict[str, BranchedLayer] = {}
        self._attached: tuple[tuple[str, float], ...] = ()
        """(sha256, weight), in order."""

    @property
    def num_bytes(self) -> int:
        """Device memory that the branches take."""
        return sum(layer.num_bytes for layer in self._branched.values())

    def use(self, model: nn.Module, loras: Sequence[WeightedLora]) -> None:
        """Have exactly `loras` attached, to `model`; those of weight 0 are not, and what is attached already stays."""
        loras = [lora for lora in loras if lora.weight]
        wanted = tuple(lora.identity for lora in loras)
        if wanted == self._attached and model is self._model:
            return
        self.remove()
        self._model = model
        try:
            for name in dict.fromkeys(name for weighted in loras for name in weighted.lora.layers):
                self._attach(name, [(w.lora.layers[name], w.weight) for w in loras if name in w.lora.layers])
        except BaseException:
            self.remove()
            raise
        self._attached = wanted

    def remove(self) -> None:
        """Take all off."""
        for name, branched in self._branched.items():
            assert self._model is not None
            self._model.set_submodule(name, branched.layer)
        self._model = None
        self._branched = {}
        self._attached = ()

    def _attach(self, name: str, parts: Sequence[tuple[LowRank, float]]) -> None:
        assert self._model is not None
        layer = self._model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        stored = layer.weight.dtype
        usable = stored.is_floating_point and stored.itemsize >= _SMALLEST_DTYPE_BYTES
        dtype = stored if usable else self._dtype
        downs = [part.down.to(self._device, dtype) for part, _ in parts]
        ups = [part.up.to(self._device, torch.float32).T * (part.scale * weight) for part, weight in parts]
        biases = [part.bias.to(self._device, torch.float32) * w for part, w in parts if part.bias is not None]
        self._branched[name] = BranchedLayer(
            layer,
            down=downs[0] if len(downs) == 1 else torch.cat(downs),
            up=torch.cat(ups).to(dtype),
            bias=sum(biases[1:], biases[0]).to(dtype) if biases else None,
        )
        self._model.set_submodule(name, self._branched[name])
