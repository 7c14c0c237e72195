"""Packages that are not installed: which extra brings them, and what the command line says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from render_farm.extras import install_advice, missing_package
from tests.helpers.program import ROOT


def test_modules_of_known_packages_have_an_extra() -> None:
    assert install_advice("ray.job_submission") == "pip install 'render_farm[worker]'"
    assert install_advice("c2pa") == "pip install 'render_farm[provenance]'"
    assert install_advice("xfuser") == "pip install 'render_farm[groups]'"
    assert install_advice("colorama") == install_advice(None) == ""


def test_the_package_is_found_behind_a_librarys_own_error() -> None:
    with pytest.raises(ImportError) as caught:
        try:
            raise ModuleNotFoundError("No module named 'gcsfs'", name="gcsfs")
        except ModuleNotFoundError as error:
            raise ImportError("Please install gcsfs") from error
    assert missing_package(caught.value) == ("gcsfs", "pip install 'render_farm[gcs]'")
    assert missing_package(ModuleNotFoundError("no colorama", name="colorama")) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "code", "said"),
    [("torch", 2, "render_farm[worker]"), ("glob", 1, "internal error")],
)
def test_a_command_without_its_package_is_a_usage_error(module: str, code: int, said: str) -> None:
    """Any other module that is missing is a defect."""
    script = (
        "import sys; from render_farm.cli import main\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == 'render_farm.engine.bench.run': raise ModuleNotFoundError('missing', name={module!r})\n"
        "sys.meta_path.insert(0, Missing())\n"
        "sys.argv = ['render-farm', 'bench', 'engine']; main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
