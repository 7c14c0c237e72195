"""Prints THIRD_PARTY.md: the licences of what render_farm installs, from the metadata of the installed packages.

The versions are those of requirements.lock. Run it in the environment that the lock made (`make third-party`).
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAD = """# What render_farm brings along

render_farm itself is under the Apache License 2.0 ([LICENSE](LICENSE)). It contains no code of others. What it needs
is installed by pip, and an image built from `cluster/Dockerfile` carries all of it. Whoever pushes such an image
passes on every package below, under its own licence. This page helps to find the terms. It is no legal advice.

## Three that need a look

- **ffmpeg.** The wheel of imageio-ffmpeg carries a program `ffmpeg` that is built with parts under the GPL, version 3
  or later (x264 and x265 among them). Whoever passes that program on also has to offer its source. The farm starts it
  as a separate process and does not link to it. Build the image with `--build-arg FFMPEG=system` to leave it out and
  use the distribution's own ffmpeg, whose source the distribution offers.
- **H.264.** The MP4 files are H.264. Patents on it are licensed by a pool (Via LA), and cover encoding in some
  countries and uses. A licence for the software is no licence for the patents.
- **CUDA.** On a machine with an NVIDIA GPU, PyTorch's wheels need packages named `nvidia-*`, `cuda-*` and `triton`.
  All but triton (MIT) are under NVIDIA's own terms (the CUDA Toolkit EULA, and the cuDNN, NCCL and cuSPARSELt
  licences). These limit how the files may be passed on. The base image `nvidia/cuda` has its own terms as well. Model
  weights are no part of the image and have theirs.

## Packages

`make third-party` made this table from the packages' own metadata, on Linux. Some Pythons need a few more.

| package | version | licence |
|---|---|---|"""
ROOT = Path(__file__).resolve().parent.parent
LOCKED = dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==([^ ]+) ", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def needed(name: str, extras: frozenset[str] = frozenset()) -> dict[str, metadata.Distribution]:
    """A package and all that it needs here, by name, as far as it is installed."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    wanted = [(name, extras)]
    while wanted:
        name, extras = wanted.pop()
        key = canonicalize_name(name)
        if (key, extras) in seen:
            continue
        seen.add((key, extras))
        try:
            found[key] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(Requirement, found[key].requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                wanted.append((requirement.name, frozenset(requirement.extras)))
    return found


def licence(package: metadata.Distribution) -> str:
    """As the package's metadata says it, in one line."""
    fields = package.metadata
    expression = fields["License-Expression"]
    if expression:
        return str(expression)
    classified = [
        line.rpartition(" :: ")[2] for line in fields.get_all("Classifier", []) if line.startswith("License ::")
    ]
    text = str(fields["License"] or "").strip()
    if classified:
        return ", ".join(name.removesuffix(" License") for name in classified)
    return text if text and len(text) < 80 and "\n" not in text else "see the package"


def main() -> None:
    packages = needed("render_farm", frozenset({"all"}))
    del packages["render-farm"]
    print(HEAD)
    for name, package in sorted(packages.items()):
        version = LOCKED.get(name, package.version.partition("+")[0])
        print(f"| {name} | {version} | {licence(package).replace('|', '/')} |")


if __name__ == "__main__":
    main()
