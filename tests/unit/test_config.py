"""Settings: files and variables that cannot be right are refused with field, value and range."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from render_farm.config import CONFIG_VARIABLE, OTHER_VARIABLES, entries, load, settings_file
from render_farm.engine.dtypes import DTYPES
from render_farm.errors import UsageError
from render_farm.farm.run.settings import Settings, load_settings
from render_farm.farm.run.timeouts import Timeouts
from render_farm.media.limits import InputSettings

ROOT = Path(__file__).parents[2]


def refusal(tmp_path: Path, content: str | bytes) -> str:
    """What is said of a settings file, without the file's name."""
    file = tmp_path / "farm.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as refused:
        load_settings(file=str(file), environment={})
    assert refused.value.exit_code == 2
    return str(refused.value).replace(f"{file}: ", "")


def test_without_sources_every_setting_has_its_default() -> None:
    assert load_settings(environment={}) == Settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[timeouts]\nlease_s = nan",
            "timeouts.lease_s must be a finite number, greater than 0 and at most 31536000, got nan",
        ),
        (
            "[timeouts]\nlease_s = inf",
            "timeouts.lease_s must be a finite number, greater than 0 and at most 31536000, got inf",
        ),
        ("[timeouts]\nlease_s = -5", "timeouts.lease_s must be greater than 0 and at most 31536000, got -5"),
        ("attempts = 2.7", "attempts must be a whole number, at least 1 and at most 1000, got 2.7"),
        ("attempts = true", "attempts must be a whole number, at least 1 and at most 1000, got true"),
        (
            "[timeouts]\ngroup_s = false",
            "timeouts.group_s must be a finite number, greater than 0 and at most 31536000, got false",
        ),
        ("attempts = 0", "attempts must be at least 1 and at most 1000, got 0"),
        ("report_link_hours = 0", "report_link_hours must be greater than 0 and at most 168, got 0"),
        ("gpu_price_per_hour = 'dear'", "gpu_price_per_hour must be a finite number, at least 0, got 'dear'"),
        ("previews = 'perhaps'", "previews must be true or false, got 'perhaps'"),
        ("model = 3", "model must be text, not empty, got 3"),
        ("model = ''", "model must be text, not empty, got ''"),
        ("model = ' '", "model must be text, not empty, got ' '"),
        (
            "[inputs]\nmax_frame_pixels = 2147483648",
            "inputs.max_frame_pixels must be at least 1 and at most 2147483647, got 2147483648",
        ),
        (
            f"[inputs]\nmax_image_pixels = {10**18}",
            f"inputs.max_image_pixels must be at least 1 and at most 2147483647, got {10**18}",
        ),
        (
            f"[manifest]\nmax_cell_bytes = {10**20}",
            f"manifest.max_cell_bytes must be at least 1 and at most 1099511627776, got {10**20}",
        ),
        (
            f"[manifest]\nmax_document_bytes = {10**20}",
            f"manifest.max_document_bytes must be at least 1 and at most 1099511627776, got {10**20}",
        ),
        (
            "[notify]\nwebhook_url = 'http://'",
            "notify.webhook_url must be an http or https address, got a value that is not shown",
        ),
        (
            "[notify]\nwebhook_url = 'https:///x'",
            "notify.webhook_url must be an http or https address, got a value that is not shown",
        ),
        ("dtype = 'banana'", f"dtype must be one of auto, {', '.join(DTYPES)}, got 'banana'"),
        ("max_failed = 'few'", "max_failed must be a number of jobs or a share like 10%, got 'few'"),
        ("[scheduling]\nshare_by = 'foo'", "scheduling.share_by must be owner, none or tag:NAME, got 'foo'"),
        (
            "[scheduling]\nquotas = ['ads=2.5']",
            "scheduling.quotas: 'ads=2.5' is not NAME=NUMBER with a whole number from 1 to 1000000",
        ),
        (
            "[scheduling]\nshares = 'ads=2, docs=inf'",
            "scheduling.shares: 'docs=inf' is not NAME=NUMBER with a number from 1e-06 to 1000000",
        ),
        (
            "[scheduling]\nshares = ['b=1e-320']",
            "scheduling.shares: 'b=1e-320' is not NAME=NUMBER with a number from 1e-06 to 1000000",
        ),
        (
            "[scheduling]\nquotas = ['b=1_0']",
            "scheduling.quotas: 'b=1_0' is not NAME=NUMBER with a whole number from 1 to 1000000",
        ),
        ("[scheduling]\nshares = ['a=1', 'b=1', 'a=2']", "scheduling.shares: 'a' is given twice; give it once"),
        ("[scheduling]\nquotas = 'ads=1, ads=5'", "scheduling.quotas: 'ads' is given twice; give it once"),
        ("[scheduling]\nshares = [3]", "scheduling.shares must be a list of NAME=WEIGHT, got [3]"),
        ("[engine]\ncompile = 'maybe'", "engine.compile must be one of auto, on, off, got 'maybe'"),
        ("[notify]\nsmtp_port = 70000", "notify.smtp_port must be at least 1 and at most 65535, got 70000"),
        (
            "[provenance]\nprivate_key = 'keys/planted.pem'",
            "provenance.private_key: write the whole path of a file, or a URI such as s3://bucket/key.pem",
        ),
        ("engine = 'fast'", "engine must be a table: write [engine] and its fields below"),
        ("lease_s = 3", "unknown setting 'lease_s'; the nearest is timeouts.lease_s"),
        ("[timeouts]\nlees_s = 3", "unknown setting 'timeouts.lees_s'; the nearest is timeouts.lease_s"),
        ("[timeout]\nlease_s = 3", "unknown setting 'timeout'; the nearest is timeouts"),
        (
            "attempts = 0\nmodell = 'a'",
            "unknown setting 'modell'; the nearest is model\nattempts must be at least 1 and at most 1000, got 0",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, content: str, message: str) -> None:
    assert refusal(tmp_path, content) == message


def test_a_whole_number_may_be_written_as_a_float(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text("attempts = 2.0\n[timeouts]\nlease_s = 7\n")
    settings = load_settings(file=str(tmp_path / "farm.toml"), environment={"RENDER_FARM_HOST_FAULTS": "4.0"})
    assert (settings.attempts, settings.host_faults, settings.timeouts) == (2, 4, Timeouts(lease_s=7.0))


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("ATTEMPTS", "attempts must be a whole number, at least 1 and at most 1000, got '1_0'"),
        ("LEASE_S", "timeouts.lease_s must be a finite number, greater than 0 and at most 31536000, got '1_0'"),
        ("GPU_PRICE_PER_HOUR", "gpu_price_per_hour must be a finite number, at least 0, got '1_0'"),
    ],
)
def test_digits_with_underscores_are_no_number(variable: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        load_settings(environment={f"RENDER_FARM_{variable}": "1_0"})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "farm.toml").write_text('currency = "€"\r\n', encoding=encoding)
    assert load_settings(file=str(tmp_path / "farm.toml"), environment={}).currency == "€"


@pytest.mark.parametrize("content", [b"\x8e\xff", "attempts = ", "a = " + "[" * 5000, "attempts = " + "9" * 5000])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: str | bytes) -> None:
    assert "farm.toml is not TOML: " in refusal(tmp_path, content)


def test_messages_are_printable_and_short(tmp_path: Path) -> None:
    assert refusal(tmp_path, r'dtype = "\u001b[31m"').endswith(r"got '\x1b[31m'")
    assert refusal(tmp_path, '"a\\u001bb" = 1').startswith(r"unknown setting 'a\x1bb'")
    assert len(refusal(tmp_path, f"dtype = '{'x' * 9999}'")) < 300
    assert refusal(tmp_path, f"attempts = 0x{'f' * 9999}").endswith("got a huge number")


def test_messages_hold_no_secrets(tmp_path: Path) -> None:
    for line in (
        "[notify]\nwebhook_url = 'hooks.example/planted'",
        "[notify]\nwebhook_secret = ['planted']",
        "[notify]\nsmtp_password = {a = 'planted'}",
        "[timeouts]\nlease_s = 's3://key:planted@bucket'",
        "[provenance]\nprivate_key = 's3:planted'",
        "output = ['s3://key:planted@bucket']",
    ):
        assert "planted" not in refusal(tmp_path, line), line


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text("[provenance]\ncertificate = '/etc/films.pem'\n")
    with pytest.raises(UsageError, match="need each other"):
        load_settings(file=str(tmp_path / "farm.toml"), environment={})


# --- sources ----------------------------------------------------------------------------------------------------------


def test_later_sources_win(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text('model = "a"\ndtype = "fp16"\ncurrency = "EUR"\n')
    environment = {"RENDER_FARM_MODEL": "b", "RENDER_FARM_DTYPE": "bf16", "RENDER_FARM_CURRENCY": ""}
    file = str(tmp_path / "farm.toml")
    found = load(Settings, file=file, environment=environment, flags={"model": "c", "output": None})
    assert (found.settings.model, found.settings.dtype, found.settings.currency) == ("c", "bf16", "EUR")
    assert found.origins == {"model": "flag", "dtype": "$RENDER_FARM_DTYPE", "currency": file}


def test_lists_in_variables_have_commas() -> None:
    settings = load_settings(environment={"RENDER_FARM_SCHEDULING_SHARES": "ads=2, docs=1,"})
    assert settings.scheduling.shares == ("ads=2", "docs=1")
    assert settings.scheduling.policy.shares == {"ads": 2.0, "docs": 1.0}


def test_refusals_name_the_variable() -> None:
    with pytest.raises(UsageError, match=r"^\$RENDER_FARM_REPORT_LINK_HOURS: report_link_hours must be .* got 0$"):
        load_settings(environment={"RENDER_FARM_REPORT_LINK_HOURS": "0"})


def test_one_file_is_read_and_the_users_comes_last(tmp_path: Path) -> None:
    users = tmp_path / "config" / "render_farm" / "config.toml"
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path / "home")}
    assert settings_file(environment=environment) is None
    users.parent.mkdir(parents=True)
    users.write_text("attempts = 7")
    assert load_settings(environment=environment).attempts == 7
    assert settings_file(environment={**environment, CONFIG_VARIABLE: "b.toml"}) == "b.toml"
    assert settings_file("a.toml", {**environment, CONFIG_VARIABLE: "b.toml"}) == "a.toml"


def test_the_users_file_is_in_the_home_by_default(tmp_path: Path) -> None:
    file = tmp_path / ".config" / "render_farm" / "config.toml"
    file.parent.mkdir(parents=True)
    file.touch()
    for ignored in ({}, {"XDG_CONFIG_HOME": "relative"}):
        assert settings_file(environment={"HOME": str(tmp_path), **ignored}) == str(file)
    assert settings_file(environment={}) is None


def test_the_library_reads_its_table_only(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text("attempts = 0\n[inputs]\nnum_tries = 2\n")
    environment = {CONFIG_VARIABLE: str(tmp_path / "farm.toml"), "RENDER_FARM_ATEMPTS": "1"}
    assert load(InputSettings, environment=environment, partial=True).settings.inputs.num_tries == 2


# --- variables --------------------------------------------------------------------------------------------------------


def test_unknown_variables_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    environment = {"RENDER_FARM_TIMEOUT_LEASE_S": "3", "RENDER_FARM_NOTIFY_SMPT_HOST": "x"}
    with caplog.at_level(logging.WARNING):
        load_settings(environment=environment)
        load_settings(environment=environment)
    assert sorted(caplog.messages) == [
        "RENDER_FARM_NOTIFY_SMPT_HOST is not a known setting; the nearest is RENDER_FARM_NOTIFY_SMTP_HOST",
        "RENDER_FARM_TIMEOUT_LEASE_S is not a known setting; the nearest is RENDER_FARM_LEASE_S",
    ]


@pytest.mark.slow
def test_the_command_line_prints_the_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "render_farm.cli", "gc", "-o", str(tmp_path)]
    environment = {**os.environ, "RENDER_FARM_ATEMPTS": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("RENDER_FARM_ATEMPTS is not a known setting; the nearest is RENDER_FARM_ATTEMPTS\n")


def test_variables_of_others_are_no_settings(caplog: pytest.LogCaptureFixture) -> None:
    kubernetes = {f"RENDER_FARM_HEAD_SVC_{name}": "10.0.0.1" for name in ("SERVICE_HOST", "PORT_80_TCP_ADDR")}
    kubernetes |= {"RENDER_FARM_HEAD_SVC_SERVICE_PORT_GCS": "6379", "RENDER_FARM_HEAD_SVC_PORT": "tcp://10.0.0.1:6379"}
    with caplog.at_level(logging.WARNING):
        load_settings(environment={**dict.fromkeys(OTHER_VARIABLES[1:], "x"), **kubernetes})
    assert caplog.messages == []


def test_every_variable_of_the_project_is_known() -> None:
    known = {entry.variable for entry in entries(Settings).values()} | set(OTHER_VARIABLES)
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    files = [ROOT / name for name in listed if not name.endswith("unit/test_config.py")]
    used = {
        (word, str(file.relative_to(ROOT)))
        for file in files
        if file.is_file() and file.suffix in (".py", ".md", ".sh", ".yaml", ".yml", ".toml", ".sbatch", ".service", "")
        for word in re.findall(r"\bRENDER_FARM_[A-Z_]*[A-Z]\b(?!_)", file.read_text(errors="replace"))
    }
    assert not files or used, "they are found at all"
    assert sorted((word, file) for word, file in used if word not in known) == []


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_declaring_settings_loads_no_heavy_library() -> None:
    script = (
        "import render_farm.farm.run.settings, render_farm.cli.main, sys\n"
        "print({'pydantic', 'numpy', 'PIL', 'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "set()\n", done.stderr
