"""The environment that `make` creates: a failed install leaves none behind, and the lock fits pyproject.toml."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from render_farm.extras import EXTRAS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()


def install(venv: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`.ci/install` without any index, so that it cannot get further than an empty environment."""
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "TORCH_INDEX_URL": "file:///"}
    return subprocess.run(
        ["bash", ".ci/install"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **offline, "PYTHON": sys.executable, "VENV": str(venv), "LOCK": "", **environment},
    )


def requirements(*arguments: str) -> str:
    command = [sys.executable, ".ci/requirements.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


# --- .ci/install ---


def test_a_python_without_ensurepip_is_told_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "ensurepip.py").write_text("raise ModuleNotFoundError('as on Debian', name='ensurepip')")
    done = install(tmp_path / "venv", PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "has no ensurepip" in done.stderr
    assert f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_failed_install_leaves_no_environment(tmp_path: Path) -> None:
    done = install(tmp_path / "venv")
    assert done.returncode != 0
    assert "installing torch" in done.stdout
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("left", [".incomplete", "pyvenv.cfg"])
def test_what_a_killed_install_left_is_made_again(left: str, tmp_path: Path) -> None:
    """Such an environment has the mark, or none but no pip either: made before there was a mark, without ensurepip."""
    venv = tmp_path / "venv"
    venv.mkdir()
    (venv / left).touch()
    done = install(venv)
    assert "is half-made" in done.stdout
    assert done.returncode != 0 and not venv.exists(), "nothing can be installed in this test"


def test_a_folder_that_is_no_environment_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    done = install(tmp_path)
    assert done.returncode != 0 and "is not a virtual environment" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


# --- the lock ---


def pins() -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", LOCK, re.MULTILINE))


def declared(*names: str) -> dict[str, Requirement]:
    lines = map(Requirement, requirements("declared", *names).splitlines())
    return {canonicalize_name(requirement.name): requirement for requirement in lines}


def test_every_requirement_is_locked_with_hashes_within_its_range() -> None:
    found = declared("all", "dev")
    for name, requirement in found.items():
        assert requirement.specifier.contains(pins()[name]), requirement
    for lines in re.split(r"\n(?=\w)", requirements("locked", *found)):
        assert "--hash=sha256:" in lines, lines


def test_the_lock_leaves_torch_and_cuda_out_and_names_no_place() -> None:
    assert "torch" not in pins()
    assert not [name for name in pins() if name.startswith(("nvidia-", "cuda-"))]
    assert not re.search(r"://|index-url|find-links| /", LOCK)


def test_torch_is_pinned_within_its_range_and_has_the_triton_of_the_lock() -> None:
    pinned = Requirement(requirements("torch").strip())
    allowed = Requirement(requirements("torch-range").strip())
    version = str(pinned.specifier).removeprefix("==")
    assert allowed.specifier.contains(version)
    (metadata,) = PROJECT["tool"]["uv"]["dependency-metadata"]
    assert metadata["version"] == version
    (triton,) = (found for found in map(Requirement, metadata["requires-dist"]) if found.name == "triton")
    assert str(triton.specifier) == f"=={pins()['triton']}"


def test_an_extra_brings_what_it_includes_and_torch_is_left_out() -> None:
    assert declared().keys() < declared("worker").keys() < declared("groups").keys() < declared("all").keys()
    assert {"ray", "diffusers"} <= declared("worker").keys() and "torch" not in declared("all")
    assert {"ruff", "pytest", "grafana-foundation-sdk"} <= declared("dev").keys()


def test_what_is_needed_is_all_of_the_lock_that_the_extras_reach() -> None:
    def needed(*names: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+)==", requirements("needed", *names), re.MULTILINE))

    core, worker, groups = needed(), needed("worker"), needed("groups")
    assert core < worker < groups and needed("all", "dev") == set(pins())
    assert {"aiobotocore", "yarl"} <= core, "s3fs and aiohttp need them"
    assert "jinja2" in worker, "torch needs it"
    assert not core & {"ray", "diffusers", "safetensors"} and not worker & {"xfuser", "triton", "pytest"}


@pytest.mark.parametrize("file", [".ci/install", "cluster/Dockerfile"])
def test_what_builds_the_package_is_installed_before_it(file: str) -> None:
    """Without build isolation, setuptools leaves out a version that it has no package for, and it becomes 0.0.0."""
    found = re.search(r"locked (pip [a-z -]+)", (ROOT / file).read_text())
    assert found
    assert {Requirement(line).name for line in PROJECT["build-system"]["requires"]} <= set(found[1].split())


def test_every_extra_and_its_packages_are_known_to_error_messages() -> None:
    """`all` has no package of its own."""
    optional = {name: lines for name, lines in PROJECT["project"]["optional-dependencies"].items() if name != "all"}
    modules = PROJECT["tool"]["deptry"]["package_module_name_map"]  # where a package is imported by another name

    def module(line: str) -> str:
        name = Requirement(line).name
        return modules.get(name, name.replace("-", "_"))

    own = {
        extra: {module(line) for line in lines if not line.startswith("render_farm")}
        for extra, lines in optional.items()
    }
    assert {extra: set(names) for extra, names in EXTRAS.items()} == own
