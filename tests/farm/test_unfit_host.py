"""A machine without a working encoder gets no film, and no film fails because of it."""

from __future__ import annotations

import pytest

from tests.helpers import films


@pytest.mark.long
def test_a_run_on_an_unfit_machine_says_why_and_the_same_command_continues_elsewhere(tmp_path):
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    manifest = films.manifest(tmp_path, [films.job("a", num_frames=21)])
    arguments = [manifest, "--output", str(tmp_path / "out"), "--workers", "1", "--device", "cpu"]
    patience = {"RENDER_FARM_CLUSTER_PATIENCE_S": "1"}
    done = films.render(*arguments, IMAGEIO_FFMPEG_EXE=str(broken), **patience)
    assert done.returncode == 12, done.stderr
    assert "is not fit for work: it cannot encode a video" in done.stderr
    assert "workers cannot be started: on host" in done.stderr
    assert films.results(tmp_path / "out")["a"]["state"] == "cancelled"
    again = films.render(*arguments)
    assert again.returncode == 0, again.stderr
    films.assert_complete(tmp_path / "out", "a", num_frames=21)
