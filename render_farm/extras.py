"""Which extra of this package brings a package that is not installed, for error messages."""

from __future__ import annotations

EXTRAS = {
    "worker": (
        "accelerate",
        "diffusers",
        "ftfy",
        "imageio_ffmpeg",
        "ray",
        "safetensors",
        "tokenizers",
        "torch",
        "transformers",
    ),
    "groups": ("distvae", "triton", "xfuser", "yunchang"),
    "torchao": ("torchao",),
    "gcs": ("gcsfs",),
    "azure": ("adlfs",),
    "provenance": ("c2pa", "cryptography"),
}
_EXTRA_OF = {module: extra for extra, modules in EXTRAS.items() for module in modules}


def install_advice(module: str | None) -> str:
    """The command that installs `module` (`ray.exceptions`, ...); empty where no extra brings it."""
    extra = _EXTRA_OF.get((module or "").partition(".")[0])
    return f"pip install 'render_farm[{extra}]'" if extra else ""


def missing_package(error: BaseException) -> tuple[str, str]:
    """The package that an `ImportError`, or the one that it was raised from, lacks, and `install_advice` for it. Both
    are empty when the error is about something else."""
    for found in (error, error.__cause__, error.__context__):
        if isinstance(found, ModuleNotFoundError) and (advice := install_advice(found.name)):
            return str(found.name).partition(".")[0], advice
    return "", ""
