"""Train `tiny`: `python -m render_farm.tiny.train {vae,latents,transformer,lora,distilled,export} --folder RUN`.

Each verb resumes where it stopped. `--folder` holds the run's checkpoints and the cache of latents.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from render_farm.tiny import LORA_DIR, MODEL_DIR
from render_farm.tiny.build import Architecture
from render_farm.tiny.export import export_checkpoint
from render_farm.tiny.forcing import ForcingConfig
from render_farm.tiny.latents import KINDS, read_latents, write_latents
from render_farm.tiny.loop import LoopConfig, Share, run_shared
from render_farm.tiny.train_lora import DISTILLED_LEVELS, LoraConfig, train_lora
from render_farm.tiny.train_transformer import train_transformer
from render_farm.tiny.train_vae import VaeConfig, draw_clips, psnr, train_vae

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(prog="python -m render_farm.tiny.train", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    vae = verbs.add_parser("vae", help="train the video autoencoder")
    vae.add_argument("--steps", type=int, default=2400)
    vae.add_argument("--lr", type=float, default=2e-3)
    latents = verbs.add_parser("latents", help="render and encode the clips the transformer learns from")
    latents.add_argument("--long", type=int, default=4096, help="clips whose prompt stays")
    latents.add_argument("--change", type=int, default=1024, help="clips whose prompt changes")
    latents.add_argument("--outline", type=int, default=512, help="clips of outlined shapes, for the LoRA")
    transformer = verbs.add_parser("transformer", help="train the transformer and the text encoder")
    transformer.add_argument("--steps", type=int, default=2000)
    transformer.add_argument("--lr", type=float, default=4e-3)
    lora = verbs.add_parser("lora", help="train the outline LoRA for the finished transformer")
    lora.add_argument("--steps", type=int, default=500)
    lora.add_argument("--lr", type=float, default=2e-3)
    lora.add_argument("--to", type=Path, default=LORA_DIR / "outlined.safetensors")
    distilled = verbs.add_parser("distilled", help="train the LoRA that makes films in four steps")
    distilled.add_argument("--steps", type=int, default=250)
    distilled.add_argument("--lr", type=float, default=3e-3)
    distilled.add_argument("--to", type=Path, default=LORA_DIR / "distilled.safetensors")
    export = verbs.add_parser("export", help="write the averaged weights as a diffusers folder")
    export.add_argument("--to", type=Path, default=MODEL_DIR)
    for verb in (vae, transformer):
        verb.add_argument("--start", type=Path, help="start with this checkpoint's decoder or text encoder")
    for verb in (lora, distilled):
        verb.add_argument("--base", type=Path, default=MODEL_DIR, help="the checkpoint that the LoRA is for")
    for verb in (vae, latents, transformer, lora, distilled, export):
        verb.add_argument("--folder", type=Path, required=True)
        verb.add_argument("--device", default="auto", help="auto, cpu or cuda")
        verb.add_argument("--threads", type=int, default=2, help="CPU threads of a single process")
        verb.add_argument(
            "--processes", type=int, default=1, help="processes of one thread that share each batch (CPU)"
        )
    return top


def main(argv: list[str] | None = None) -> None:
    """Run one verb."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    if args.verb == "export":
        export_checkpoint(args.folder, args.to)
    else:
        run_shared(VERBS[args.verb], args.processes, args)


def device_of(name: str) -> torch.device:
    """Return the device of that name; "auto" is the GPU where there is one."""
    return torch.device(name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu")


def run_vae(share: Share, args: argparse.Namespace) -> None:
    """Train the video autoencoder and measure it on clips it has not seen."""
    device = device_of(args.device)
    loop = LoopConfig(steps=args.steps, peak_lr=args.lr, ema_decay=0.998)
    vae = train_vae(Architecture(), VaeConfig(), loop, args.folder, device, share, args.start)
    if share.rank == 0:
        logger.info("PSNR %.2f dB", psnr(vae, draw_clips(12345, 0, range(16), 17).to(device)))


def run_latents(share: Share, args: argparse.Namespace) -> None:
    """Fill the cache of latents."""
    counts = {kind: getattr(args, kind) for kind in KINDS}
    write_latents(args.folder / "latents", counts, seed=1, share=share)


def run_transformer(share: Share, args: argparse.Namespace) -> None:
    """Train the transformer and the text encoder on the cache of latents."""
    clips = read_latents(args.folder / "latents")
    if share.rank == 0:
        logger.info("%d clips", len(clips))
    loop = LoopConfig(steps=args.steps, peak_lr=args.lr, warmup_steps=100, ema_decay=0.998, muon=True)
    device = device_of(args.device)
    train_transformer(Architecture(), ForcingConfig(), loop, clips, args.folder, device, share, args.start)


def run_lora(share: Share, args: argparse.Namespace) -> None:
    """Train the LoRA on the cache's outlined clips."""
    clips = read_latents(args.folder / "latents", ("outline",))
    loop = LoopConfig(steps=args.steps, peak_lr=args.lr, warmup_steps=20, ema_decay=0.98)
    forcing = ForcingConfig(lengths=((1.1, ((5, 5), (25, 10), (25, 25))),))
    train_lora(args.base, LoraConfig(), forcing, loop, clips, args.folder, args.to, device_of(args.device), share)


def run_distilled(share: Share, args: argparse.Namespace) -> None:
    """Train the LoRA of few steps on the cache of latents."""
    clips = read_latents(args.folder / "latents")
    loop = LoopConfig(steps=args.steps, peak_lr=args.lr, warmup_steps=20, ema_decay=0.98)
    forcing = ForcingConfig(
        levels=DISTILLED_LEVELS, lengths=((1.1, ((25, 25),)),), causal_share=0.0, prompt_dropout=0.0
    )
    config = LoraConfig(rank=16, teacher_steps=4)
    train_lora(args.base, config, forcing, loop, clips, args.folder, args.to, device_of(args.device), share)


VERBS = {
    "vae": run_vae,
    "latents": run_latents,
    "transformer": run_transformer,
    "lora": run_lora,
    "distilled": run_distilled,
}


if __name__ == "__main__":
    main()
