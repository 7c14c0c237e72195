"""`render-farm config`, and the guide's page on settings."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import render_farm
from render_farm.cli.config import template, toml
from render_farm.cli.main import app
from render_farm.cli.settings_page import page
from render_farm.config import entries
from render_farm.farm.run.settings import Settings, load_settings


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["config", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings."""
    monkeypatch.delenv("RENDER_FARM_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "render_farm" / "config.toml"


def test_show_prints_toml_that_gives_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "farm.toml"
    file.write_text('output = "a\\"b\\\\ \\u007f \\U0001F98A"\n[inputs]\nallowed_roots = []\n')
    monkeypatch.setenv("RENDER_FARM_KEEP_WORKERS_S", "9")
    shown = run("show", "--config", file)
    assert shown.exit_code == 0
    (tmp_path / "again.toml").write_text(shown.stdout)
    again = load_settings(file=str(tmp_path / "again.toml"), environment={})
    assert again == load_settings(file=str(file), environment={"RENDER_FARM_KEEP_WORKERS_S": "9"})
    lines = shown.stdout.splitlines()
    assert lines[0] == f"# settings file: {file}"
    assert 'model = "tiny"  # default' in lines and "# max_failed is not set" in lines
    assert "keep_workers_s = 9.0  # $RENDER_FARM_KEEP_WORKERS_S" in lines
    assert f"allowed_roots = []  # {file}" in lines


def test_show_as_json() -> None:
    shown = json.loads(run("show", "--json").stdout)
    assert (shown["schema"], shown["file"]) == ("render_farm.config/1", None)
    assert shown["settings"]["timeouts.lease_s"] == {"value": 30.0, "from": "default", "hidden": False}
    assert shown["settings"].keys() == entries(Settings).keys()


def test_show_leaves_secrets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_FARM_NOTIFY_SMTP_PASSWORD", "planted")
    monkeypatch.setenv("RENDER_FARM_NOTIFY_WEBHOOK_URL", "https://hooks.example/planted")
    monkeypatch.setenv("RENDER_FARM_OUTPUT", "s3://key:planted@bucket/films")
    text, document = run("show").stdout, run("show", "--json").stdout
    assert "planted" not in text + document
    assert "# smtp_password is set and not shown  # $RENDER_FARM_NOTIFY_SMTP_PASSWORD" in text
    assert json.loads(document)["settings"]["output"]["hidden"]
    tomllib.loads(text)


def test_show_refuses_settings_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text("[timeouts]\nlease_s = nan\n")
    shown = run("show", "--config", tmp_path / "farm.toml")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "timeouts.lease_s must be a finite number" in shown.stderr


def test_init_writes_the_users_file_once(home: Path) -> None:
    assert run("path").exit_code == 14
    done = run("init")
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{home}\n", "")
    assert home.stat().st_mode & 0o777 == 0o600
    assert run("path").stdout == f"{home}\n"
    home.write_text("attempts = 5")
    again = run("init")
    assert again.exit_code == 2 and "exists and is not overwritten" in again.stderr
    assert home.read_text() == "attempts = 5"


def test_init_writes_another_file(tmp_path: Path) -> None:
    done = run("init", tmp_path / "new" / "farm.toml")
    assert done.exit_code == 0 and "--config" in done.stderr
    assert (tmp_path / "new" / "farm.toml").read_text() == template()
    (tmp_path / "file").touch()
    assert run("init", tmp_path / "file" / "farm.toml").exit_code == 2


@pytest.mark.slow
def test_the_template_has_every_setting_with_its_default(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    for text in (template(), re.sub(r"^#(?=\w+ = \S)", "", template(), flags=re.MULTILINE)):
        file.write_text(text)
        assert load_settings(file=str(file), environment={}) == Settings()
    names = [entry.name.rpartition(".")[2] for entry in entries(Settings).values()]
    assert re.findall(r"^#(\w+) =", template(), flags=re.MULTILINE) == names


def test_values_are_written_as_toml_reads_them() -> None:
    for value in (True, 3, 1e18, 0.1, 'a"\\\n\x7f\x9b🦊', ["a", "b"]):
        written = toml(tuple(value) if isinstance(value, list) else value)
        assert tomllib.loads(f"a = {written}")["a"] == value
        assert written.isprintable()


def test_the_guides_page_is_written_from_the_settings() -> None:
    guide = Path(render_farm.__file__).parent / "guide" / "settings.md"
    assert guide.read_text() == page(), "make settings-page writes it"
