"""Pixel frames and latent frames.

Latent frame 0 is pixel frame 0; latent frame j >= 1 is pixel frames f*j-f+1 .. f*j, for a VAE of temporal factor f.
"""

from __future__ import annotations


def num_latent_frames(num_frames: int, temporal_factor: int = 4) -> int:
    """Latent frames of `num_frames` pixel frames; incomplete groups are dropped, as diffusers does."""
    return (num_frames - 1) // temporal_factor + 1


def num_pixel_frames(num_latent: int, temporal_factor: int = 4) -> int:
    """Pixel frames that `num_latent` latent frames decode to."""
    return (num_latent - 1) * temporal_factor + 1 if num_latent else 0


def rounded_num_frames(num_frames: int, temporal_factor: int = 4) -> int:
    """The frame count that diffusers renders instead: the form 4n+1, 4 and its like going *up* (4 -> 5, 3 -> 1)."""
    if num_frames % temporal_factor != 1:
        num_frames = num_frames // temporal_factor * temporal_factor + 1
    return max(num_frames, 1)
