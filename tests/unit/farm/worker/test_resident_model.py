"""The model in a worker's memory."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from render_farm.farm.worker.resident_model import load_libraries

load_libraries()
before = set(sys.modules)
from render_farm.engine import load_engine

load_engine("tiny", device="cpu", dtype="float32", with_text_encoder=False)
new = set(sys.modules) - before
print(sorted(name for name in new if name.startswith(("torch.", "diffusers.", "render_farm.engine"))))
"""


@pytest.mark.slow
def test_a_worker_that_has_loaded_its_libraries_imports_no_more_for_its_first_film() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
