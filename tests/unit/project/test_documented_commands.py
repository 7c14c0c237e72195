"""Every `render-farm` command of the READMEs, schedules and cluster files has verbs and flags that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.documented import ROOT, commands_of, parse

FILES = [
    *(ROOT / "cluster").rglob("*"),
    *(ROOT / "jobs").rglob("*"),
    *(ROOT / "dashboards").glob("*.md"),
    ROOT / "README.md",
    *(ROOT / "render_farm/guide").glob("*.md"),
]
TEXTS = sorted(
    path for path in FILES if path.suffix in (".md", ".yaml", ".yml", ".cron", ".service", ".sbatch") and path.is_file()
)


@pytest.mark.slow
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_parse(path: Path):
    assert [problem for line in commands_of(path) if (problem := parse(line))] == []


def test_wrong_ones_are_found():
    assert parse("render-farm render a.parquet -o b --workers 2 && echo done") == ""
    assert "no verb 'rendre'" in parse("render-farm rendre a.parquet")
    assert "--frobnicate" in parse("render-farm render a.parquet --frobnicate")
    assert parse("render-farm priority RUN a --to high") or parse("render-farm render a --workers two")
    assert "--deadlin" in parse("jobs/nightly.py a --output b --deadlin 07:00 2>>log")


def test_the_pages_have_commands_at_all():
    assert len(commands_of(ROOT / "jobs/README.md")) > 5
    assert len(commands_of(ROOT / "cluster/README.md")) > 30
    assert len(commands_of(ROOT / "jobs/nightly.cron")) == 1
