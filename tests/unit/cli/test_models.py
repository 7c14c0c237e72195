"""The verb models."""

from __future__ import annotations

import json

from render_farm.models import PRESETS


def test_models_lists_presets_and_describes_one(cli):
    listed = cli("models", "list")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()[1:]] == list(PRESETS)
    assert [model["name"] for model in json.loads(cli("models", "list", "--json").stdout)["models"]] == list(PRESETS)
    assert "num_inference_steps" in cli("models", "info", "tiny").stdout
    assert json.loads(cli("models", "info", "DF-14B-540P", "--json").stdout)["num_heads"] == 40
    unknown = cli("models", "info", "df-14b-640p")
    assert unknown.exit_code == 14
    assert unknown.stderr.startswith("render-farm: no preset is named df-14b-640p (did you mean df-14b-")
