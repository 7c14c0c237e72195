"""One training loop for every network of `tiny`: Adam with warm-up and cosine decay, averaged weights, resumable.

A step's data and noise depend on (seed, step) alone, so a run that was stopped and resumed ends with the same weights
as one that was not. Several processes may share a step's batch: each computes its part and the gradients are averaged.
On a CPU that others use too, two processes of one thread are far faster than one of two, whose threads wait for each
other at every operation.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long and how fast to train."""

    steps: int
    """Steps in all, those of earlier runs included."""
    peak_lr: float
    """Learning rate after the warm-up."""
    warmup_steps: int = 100
    final_lr_ratio: float = 0.03
    """Learning rate at the last step, as a share of the peak."""
    ema_decay: float = 0.999
    """Decay of the averaged weights per step (less in the first steps)."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    muon: bool = False
    """Whether the blocks' matrices take Muon's steps, of the size of Adam's but orthogonal. A fifth more work each,
    and far fewer of them."""
    save_every_s: float = 60.0
    """Seconds between checkpoints; one is written at the end too."""
    log_every: int = 50
    schedule_steps: int | None = None
    """Steps of the learning-rate schedule, for a run that is stopped before its end; `steps` by default."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of each batch this process computes: items `rank`, `rank + count`, ..."""

    rank: int = 0
    count: int = 1

    def items(self, batch: int) -> range:
        """Return this process's items of a batch."""
        return range(self.rank, batch, self.count)


StepLoss = Callable[[int], dict[str, Tensor]]
"""Given a step's number, return named scalar losses; "loss" is the one to minimise."""


def learning_rate(config: LoopConfig, step: int) -> float:
    """Return the learning rate of a step: linear warm-up, then a cosine to `final_lr_ratio`."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, config.schedule_steps or config.steps))))
    return config.peak_lr * warm * (config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine)


def train(module: nn.Module, step_loss: StepLoss, checkpoint: Path, config: LoopConfig) -> dict[str, Tensor]:
    """Train `module` in place, resuming from `checkpoint` if it exists; return the averaged weights."""
    optimizers = _optimizers(module, config)
    average = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        average = {name: state["average"][name].to(tensor.device) for name, tensor in average.items()}
        step = state["step"]
        logger.info("resumed %s at step %d", checkpoint, step)

    is_first = not dist.is_initialized() or dist.get_rank() == 0
    sums: dict[str, float] = {}
    logged_at, logged_step, saved_at = time.monotonic(), step, time.monotonic()
    while step < config.steps:
        lr = learning_rate(config, step)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = lr
        losses = step_loss(step)
        module.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if dist.is_initialized():
            _average_gradients(module)
        norm = nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        _update_average(average, module, min(config.ema_decay, (1 + step) / (10 + step)))

        for name, value in {**losses, "grad_norm": norm}.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        if is_first and (step % config.log_every == 0 or step == config.steps):
            now, count = time.monotonic(), step - logged_step
            means = " ".join(f"{name} {value / count:.5f}" for name, value in sums.items())
            logger.info("step %d/%d %s lr %.2e %.3f s/step", step, config.steps, means, lr, (now - logged_at) / count)
            sums, logged_at, logged_step = {}, now, step
        if is_first and (time.monotonic() - saved_at > config.save_every_s or step == config.steps):
            state = {"step": step, "module": module.state_dict(), "average": average}
            save_atomically({**state, "optimizers": [optimizer.state_dict() for optimizer in optimizers]}, checkpoint)
            saved_at = time.monotonic()
    return average


def _optimizers(module: nn.Module, config: LoopConfig) -> list[torch.optim.Optimizer]:
    matrices = [
        parameter
        for name, parameter in module.named_parameters()
        if config.muon and ".blocks." in name and parameter.ndim == 2
    ]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for parameter in module.parameters() if id(parameter) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=config.weight_decay)
    ]
    if matrices:
        muon = torch.optim.Muon(matrices, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    return optimizers


def save_atomically(state: object, path: Path) -> None:
    """Write with torch.save, so that the file is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    partial.replace(path)


@torch.no_grad()
def _update_average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            average[name].lerp_(tensor, 1 - decay)
        else:
            average[name].copy_(tensor)


def _average_gradients(module: nn.Module) -> None:
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def run_shared(target: Callable[..., None], processes: int, *args: object) -> None:
    """Call `target(share, *args)` in that many processes of one thread each (1: in this one, with its threads)."""
    if processes == 1:
        target(Share(), *args)
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run_rank, (processes, f"file://{folder}/store", target, args), processes)


def _run_rank(rank: int, count: int, store: str, target: Callable[..., None], args: tuple[object, ...]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    try:
        target(Share(rank=rank, count=count), *args)
        dist.barrier()
    finally:
        dist.destroy_process_group()
