"""One decoder at a time on a GPU, on a stream of its own. The GPU stands in the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from render_farm.engine import StreamingDecoder
from render_farm.engine.decoding.turns import DecodingTurns

SMALL = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2], "num_res_blocks": 1, "temperal_downsample": [True]}
SMALL |= {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}


def test_films_in_turn_are_decoded_as_one_after_the_other() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**SMALL).eval()
    films = [torch.randn(1, 4, 3, 4, 4) for _ in range(2)]
    expected = [np.stack(list(StreamingDecoder(vae).push(film))) for film in films]
    turns = DecodingTurns(torch.device("cpu"))
    both = [StreamingDecoder(vae, turns=turns) for _ in films]
    found: list[list[np.ndarray]] = [[], []]
    for index in range(3):
        for number, film in enumerate(films):
            found[number] += both[number].push(film[:, :, index : index + 1])
    assert all(np.array_equal(np.stack(ours), theirs) for ours, theirs in zip(found, expected, strict=True))


def test_a_frame_is_decoded_on_the_stream_of_all_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    present: list[object] = ["the denoiser's"]
    seen: list[object] = []

    @contextmanager
    def stream(chosen: object) -> Iterator[None]:
        present.append(chosen)
        yield
        present.pop()

    class Decoder:
        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            seen.append(present[-1])
            return torch.zeros(1, 3, 1, 8, 8)

        def park(self) -> None:
            seen.append(("parked", present[-1]))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"own stream of {device}")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    turns, vae = DecodingTurns(torch.device("cuda")), AutoencoderKLWan(**SMALL)
    one, other = (StreamingDecoder(vae, frame_decoder=Decoder(), turns=turns) for _ in range(2))
    for decoder in (one, one, other):
        list(decoder.push(torch.zeros(1, 4, 1, 4, 4)))
    own = "own stream of cuda"
    assert seen == [own, own, ("parked", own), own]
