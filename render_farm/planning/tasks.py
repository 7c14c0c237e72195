"""The four tasks: what each takes as inputs, and how many latent frames they give.

An image gives the first window one latent frame; a video gives it the latents of its last `overlap_history` frames;
a last image is one more latent frame after the last window's own, shown to the model and never part of the film.
Checkpoints without diffusion forcing take images in another way (`windows.Window.has_image_channels`).
"""

from __future__ import annotations

from render_farm.planning.frames import num_latent_frames

INPUTS: dict[str, tuple[str, ...]] = {
    "t2v": (),
    "i2v": ("image",),
    "flf2v": ("image", "last_image"),
    "v2v": ("video",),
}
"""Task to the columns it needs."""
IMAGE_TASKS = ("i2v", "flf2v")


def num_given_frames(task: str, overlap_history: int, temporal_factor: int = 4) -> int:
    """Latent frames at the film's start that a task's inputs give."""
    if task == "v2v":
        return num_latent_frames(overlap_history, temporal_factor)
    return 1 if task in IMAGE_TASKS else 0


def num_last_image_frames(task: str) -> int:
    """Latent frames after the film's last one that a task's inputs give."""
    return 1 if task == "flf2v" else 0
