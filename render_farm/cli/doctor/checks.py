"""The checks of `doctor`. Each returns one line, with advice if something is wrong."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from render_farm.errors import RenderFarmError
from render_farm.extras import EXTRAS, install_advice

if TYPE_CHECKING:
    from render_farm.media.provenance_settings import ProvenanceSettings

GIB = 1 << 30
_ENOUGH_MEMORY_BYTES = 2 * GIB
_ENOUGH_DISK_BYTES = 2 * GIB
_PROBE_S = 120.0
_CORE_LIBRARIES = ("PIL", "fsspec", "numpy", "pyarrow", "pydantic", "s3fs", "typer", "yaml")


class Status(StrEnum):
    """How a check came out. Only `BROKEN` makes doctor fail."""

    OK = "ok"
    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    status: Status
    detail: str
    advice: str = ""


def ok(name: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(name=name, status=Status.OK, detail=detail)


def note(name: str, detail: str, advice: str = "") -> Finding:
    """Works, but is worth knowing."""
    return Finding(name=name, status=Status.NOTE, detail=detail, advice=advice)


def broken(name: str, detail: str, advice: str) -> Finding:
    """Rendering will fail."""
    return Finding(name=name, status=Status.BROKEN, detail=detail, advice=advice)


class Probe:
    """Imports a heavy library in a process of its own, started at once and asked later.

    `code` prints one JSON object. A library that kills its process, or hangs, does so there.
    """

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )

    def answer(self) -> tuple[dict[str, Any], str]:
        """What the code printed, and why there is nothing (else empty)."""
        try:
            out, err = self._process.communicate(timeout=_PROBE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return {}, f"no answer within {_PROBE_S:g} s"
        if self._process.returncode:
            lines = err.decode(errors="replace").strip().splitlines()
            return {}, lines[-1] if lines else f"ended with {self._process.returncode}"
        return json.loads(out.decode().strip().splitlines()[-1]), ""


TORCH_PROBE = """
import json, torch
gpus = []
for i in range(torch.cuda.device_count()):
    free, total = torch.cuda.mem_get_info(i)
    gpus.append({"name": torch.cuda.get_device_name(i), "free": free, "total": total})
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""
RAY_PROBE = "import json, ray; print(json.dumps({'version': ray.__version__}))"


def check_python() -> Finding:
    """The interpreter."""
    version = platform.python_version()
    if not (3, 11) <= sys.version_info[:2] <= (3, 14):
        return broken("Python", version, "use Python 3.11, 3.12, 3.13 or 3.14")
    return ok("Python", f"{version} ({sys.executable})")


def check_packages() -> Finding:
    """Whether everything render_farm depends on is installed in a version that it works with."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("render_farm") or []
    except importlib.metadata.PackageNotFoundError:
        return note("packages", "render_farm runs from a folder and is not installed", "pip install -e .")
    wrong, count = [], 0
    for requirement in map(Requirement, lines):
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ("", "worker")):
            continue
        count += 1
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        advice = "pip install --upgrade 'render_farm[worker]' (or `make venv` in a checkout)"
        return broken("packages", "; ".join(wrong), advice)
    return ok("packages", f"all {count} are installed")


def check_torch(probe: Probe) -> tuple[list[Finding], list[dict[str, Any]]]:
    """torch and the GPUs it sees, as findings and as (name, free and total bytes)."""
    answer, why = probe.answer()
    if why:
        return [broken("torch", why, install_advice("torch"))], []
    found = [ok("torch", f"{answer['version']}, {'CUDA ' + answer['cuda'] if answer['cuda'] else 'CPU build'}")]
    gpus = answer["gpus"]
    if gpus:
        found += [
            ok(f"GPU {i}", f"{gpu['name']}, {gib(gpu['free'])} of {gib(gpu['total'])} free")
            for i, gpu in enumerate(gpus)
        ]
    elif shutil.which("nvidia-smi"):
        advice = "install a CUDA build of torch, and check nvidia-smi"
        found.append(note("GPU", "nvidia-smi works, but torch sees no GPU; rendering uses the CPU", advice))
    else:
        found.append(ok("GPU", "none; rendering uses the CPU (--device cpu)"))
    return found, gpus


def check_ray(probe: Probe, address: str | None = None) -> Finding:
    """Whether Ray can be imported. `address` is a cluster that is checked too."""
    answer, why = probe.answer()
    if why:
        return broken("Ray", why, install_advice("ray"))
    address = address or os.environ.get("RAY_ADDRESS")
    return ok("Ray", f"{answer['version']}, {'cluster ' + address if address else 'private, started by each run'}")


def check_address(address: str | None = None) -> list[Finding]:
    """Whether a run would find the cluster that `address` or $RAY_ADDRESS names. Nothing for a private Ray."""
    from render_farm.farm.driver.connection import check_answers, resolve_address

    try:
        found = resolve_address(address)
        if found in ("local", "auto"):
            return []
        check_answers(found)
    except RenderFarmError as error:
        return [broken("Ray's address", error.message, error.advice)]
    return [ok("Ray's address", f"{found} answers")]


def check_working_folder(folder: Path) -> list[Finding]:
    """Files that have the names of libraries. `python -m` and a PYTHONPATH with the folder take them for these."""
    names = [*_CORE_LIBRARIES, *EXTRAS["worker"], *EXTRAS["groups"]]
    there = sorted(name for name in names if (folder / f"{name}.py").exists() or (folder / name).is_dir())
    if not there:
        return []
    return [
        note(
            "working folder",
            f"has {', '.join(there)}, named as the libraries are",
            "start render-farm elsewhere, or rename them; workers take nothing from here",
        )
    ]


def check_home() -> list[Finding]:
    """Whether models and caches can be kept in the home folder."""
    home = os.environ.get("HOME")
    if home and os.access(home, os.W_OK | os.X_OK):
        return []
    return [
        note(
            "home folder",
            f"{home} cannot be written to" if home else "$HOME is not set",
            "set RENDER_FARM_MODEL_CACHE and HF_HOME to folders that can be written to; a private Ray needs no home",
        )
    ]


def check_credentials() -> list[Finding]:
    """Credentials that end while a night is rendered."""
    if not os.environ.get("AWS_SESSION_TOKEN"):
        return []
    return [
        note(
            "credentials",
            "$AWS_SESSION_TOKEN is set, so these credentials expire, most often within hours",
            "give the machines a role, or a profile that renews its credentials",
        )
    ]


def check_ray_folder() -> Finding:
    """Whether a private Ray can make its sockets: their paths are short."""
    from render_farm.farm.driver.private_ray import is_short_enough, short_folder, usual_folder

    usual = usual_folder()
    if is_short_enough(usual):
        return ok("Ray's folder", usual)
    if place := short_folder():
        return ok("Ray's folder", f"{place}, because {usual} is too long for sockets")
    return broken("Ray's folder", f"{usual} is too long for sockets", "set RAY_TMPDIR to a short folder")


def check_xfuser() -> Finding:
    """xfuser refuses to be imported without an accelerator, so only its presence is checked."""
    try:
        version = importlib.metadata.version("xfuser")
    except importlib.metadata.PackageNotFoundError:
        return note("xfuser", "is not installed: no render groups", install_advice("xfuser"))
    if importlib.util.find_spec("yunchang") is None:
        return broken("xfuser", f"{version}, but yunchang is missing", install_advice("yunchang"))
    return ok("xfuser", version)


def check_ffmpeg() -> Finding:
    """The ffmpeg that imageio-ffmpeg finds, and its H.264 encoder."""
    advice = "pip install --force-reinstall imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to an ffmpeg with libx264"
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        encoders = subprocess.run(
            [program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return broken("ffmpeg", str(error).strip() or type(error).__name__, advice)
    if "libx264" not in encoders:
        return broken("ffmpeg", f"{program} has no libx264 encoder", advice)
    return ok("ffmpeg", f"{imageio_ffmpeg.get_ffmpeg_version()}, libx264")


def check_signing(settings: ProvenanceSettings) -> list[Finding]:
    """Whether films can be signed as the settings ask. A small picture is signed to find out."""
    if not settings.signs:
        return []
    from render_farm.media.signing import read_keys, try_signing

    try:
        signer = try_signing(read_keys(settings))
    except RenderFarmError as error:
        return [broken("signing", error.message, error.advice)]
    return [ok("signing", f"as {signer}")]


def check_model() -> Finding:
    """The built-in model's files."""
    from render_farm.tiny import MODEL_DIR

    parts = ["model_index.json", "transformer", "vae", "text_encoder", "tokenizer", "scheduler"]
    missing = [part for part in parts if not (MODEL_DIR / part).exists()]
    if missing:
        return broken("model tiny", f"{', '.join(missing)} not in {MODEL_DIR}", "install render_farm again")
    return ok("model tiny", "built in")


def check_storage(output: str | None) -> list[Finding]:
    """Write, read, list and delete a small object at `output`."""
    if not output:
        return [note("storage", "not checked", "give --output URI or set RENDER_FARM_OUTPUT")]
    from render_farm.storage import open_store
    from render_farm.storage.probe import check_access

    try:
        checks = check_access(open_store(output))
    except RenderFarmError as error:
        return [broken("storage", error.message, error.advice or "give another output")]
    failed = [check for check in checks if not check.ok]
    if not failed:
        return [ok("storage", f"{output}: {', '.join(check.name for check in checks)}")]
    # Without create-only writes the farm falls back to attempt ids, and says so.
    return [
        note("storage", f"{output}: {check.name}: {check.detail}")
        if check.name == "create-only"
        else broken("storage", f"{output}: cannot {check.name}: {check.detail}", "see above")
        for check in failed
    ]


def check_memory() -> Finding:
    """Memory available to processes."""
    available = available_memory_bytes()
    if available is None:
        return note("memory", "unknown on this system")
    if available < _ENOUGH_MEMORY_BYTES:
        return broken(
            "memory", f"{gib(available)} free", f"free some: a worker needs at least {gib(_ENOUGH_MEMORY_BYTES)}"
        )
    return ok("memory", f"{gib(available)} free, {os.cpu_count()} CPU cores")


def available_memory_bytes() -> int | None:
    """`MemAvailable` of Linux, or less where a container is held to less; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no cgroup, or "max"
        return available
    return min(available, max(limit - used, 0))


def check_disk(output: str | None) -> list[Finding]:
    """Free space for films, temporary files and Ray's objects."""
    places = {"disk (temporary files)": tempfile.gettempdir()}
    if output and "://" not in output:
        places["disk (output)"] = output
    return [_room(name, path) for name, path in places.items()]


def _room(name: str, path: str) -> Finding:
    folder = Path(path).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _ENOUGH_DISK_BYTES:
        return broken(
            name, f"{gib(free)} free in {folder}", f"free some space: at least {gib(_ENOUGH_DISK_BYTES)} is needed"
        )
    return ok(name, f"{gib(free)} free in {folder}")


def gib(num_bytes: int) -> str:
    """`3.2 GiB`."""
    return f"{num_bytes / GIB:.1f} GiB"
