"""What marker and signature add to films and posters: bytes and seconds, and whether equal films have equal bytes.

    python -m tests.benchmarks.provenance_cost [FOLDER]

Films of 49 frames are written bare, marked twice, and signed. They stay in FOLDER for other programs to look at.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from render_farm.media.mp4 import Mp4Writer
from render_farm.media.poster import write_poster
from render_farm.media.provenance import Marker, xmp_packet
from render_farm.media.provenance_settings import ProvenanceSettings
from render_farm.media.signing import read_keys, read_signature, sign
from tests.benchmarks.preview_cost import SIZES, frames_of
from tests.helpers.signing_keys import write_signing_keys

MARKER = Marker(
    job_id="night-0001",
    model="SkyReels-V2-DF-1.3B-540P-Diffusers",
    model_version="0123456789abcdef" * 4,
    software="render_farm 0.1.1.dev557+gda055c6b3",
)
NUM_FRAMES = 49


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    chain, key = write_signing_keys(folder)
    keys = read_keys(ProvenanceSettings(certificate=str(chain), private_key=str(key)))
    for size in ("tiny", "540P"):
        height, width = SIZES[size]
        frames = frames_of(height, width)[:NUM_FRAMES]
        for ending in ("mp4", "jpg"):
            paths = {label: folder / f"{size}-{label}.{ending}" for label in ("bare", "marked", "signed")}
            for label, path in paths.items():
                xmp = b"" if label == "bare" else xmp_packet(MARKER)
                if ending == "jpg":
                    write_poster(frames[len(frames) // 2], path, xmp=xmp)
                    continue
                with Mp4Writer(path, width=width, height=height, fps=24, xmp=xmp) as writer:
                    for frame in frames:
                        writer.append(frame)
            equal = paths["marked"].read_bytes() == paths["signed"].read_bytes()
            start = time.monotonic()
            sign(paths["signed"], MARKER, keys)
            signed = time.monotonic()
            found = read_signature(paths["signed"])
            bare, marked, both = (path.stat().st_size for path in paths.values())
            print(
                f"{size} {ending}: {bare:,} bytes, marker {marked - bare:+,}, signature {both - marked:+,} in "
                f"{signed - start:.2f} s, read in {time.monotonic() - signed:.2f} s ({found}); marked twice: "
                f"{'equal' if equal else 'DIFFERENT'}"
            )


if __name__ == "__main__":
    main()
