"""`render-farm submit`: the same run as `render`, as a Ray Job that needs nobody to wait for it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from render_farm.cli.rendering.columns import flags_again
from render_farm.cli.rendering.flags import arguments_of, takes_flags_of
from render_farm.cli.rendering.render import render, request_of
from render_farm.cli.terminal import hint, print_json, say
from render_farm.config import entries, settings_file
from render_farm.errors import UsageError
from render_farm.uris import holds_secret

if TYPE_CHECKING:
    from render_farm.farm.run.request import RunRequest
    from render_farm.farm.run.settings import Settings

_SETTINGS_FILE = "farm.toml"


def _own_flags(
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="The cluster's job server (http://HEAD:8265) or its Ray address. Default: $RAY_API_SERVER_ADDRESS, "
            "then $RAY_ADDRESS, then the Ray of this machine.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME[=VALUE]", help="A further variable for the processes."),
    ] = None,
    working_dir: Annotated[
        str | None, typer.Option("--working-dir", help="A folder to send along. The job starts in it.")
    ] = None,
    pip: Annotated[list[str] | None, typer.Option("--pip", help="A further package that the job needs.")] = None,
    runtime_env: Annotated[
        str | None, typer.Option("--runtime-env", metavar="FILE", help="Ray's runtime environment, YAML or JSON.")
    ] = None,
    with_code: Annotated[
        bool,
        typer.Option("--with-code", help="Send this render_farm along, for a cluster with another version or none."),
    ] = False,
) -> None:
    """Flags that `render` lacks."""


@takes_flags_of(render, _own_flags)
def submit(**flags: Any) -> None:
    """Submit a manifest (or one --prompt) to a Ray cluster as a Ray Job, and return at once.

    Takes what `render` takes. --address is the cluster's job server, like http://HEAD:8265, or a Ray address.
    A run that the cluster renders already is joined. Errors of the manifest are found here, before anything is sent.
    """
    from render_farm.farm.driver.ray_job import Submission
    from render_farm.farm.driver.ray_job import submit as submit_job
    from render_farm.farm.ray_cluster.environment import carried_environment
    from render_farm.storage.open import refuse_for_farm

    request = request_of(flags)
    refuse_for_farm(request.output)
    run_id, mode_was_set = checked_run_id(request), "RAY_AUTH_MODE" in os.environ
    there, files = as_on_the_cluster(request, flags, run_id)
    environment = {
        **secret_variables(request.settings),
        **carried_environment(os.environ, extra=flags["env"] or (), credentials=flags["credentials"]),
    }
    done = submit_job(
        Submission(
            run_id=run_id,
            output=there["output"],
            manifest=flags["manifest"],
            arguments=("render", *arguments_of(render, there)),
            files=files,
            environment=environment,
            working_dir=_folder(flags["working_dir"]),
            runtime_env=_runtime_env(flags["runtime_env"], flags["pip"]),
            with_code=flags["with_code"],
        ),
        flags["address"],
    )
    uri = f"{there['output'].rstrip('/')}/_runs/{run_id}"
    if flags["as_json"]:
        document = {"run_id": run_id, "output": there["output"], "run": uri, "job_id": done.job_id}
        print_json({**document, "dashboard": done.dashboard, "joined": done.joined})
        return
    say(run_id)
    hint(f"job {done.job_id} {'renders it already: joined' if done.joined else 'was submitted'} ({done.dashboard})")
    if environment and not done.joined:
        hint(f"taken along: {', '.join(sorted(environment))}")
    if "://" not in there["output"]:
        hint(f"{there['output']} must be the same folder on every machine of the cluster")
    token = not mode_was_set and os.environ.get("RAY_AUTH_MODE") == "token"
    for line in follow_ups(uri, done.job_id, done.dashboard, token=token):
        hint(f"  {line}")


def follow_ups(uri: str, job_id: str, dashboard: str, *, token: bool = False) -> list[str]:
    """Commands that follow a submitted run. `token`: Ray's own command needs a variable to send one."""
    return [
        f"render-farm watch {uri}",
        f"render-farm logs {uri} --follow",
        f"render-farm cancel {uri}",
        f"{'RAY_AUTH_MODE=token ' if token else ''}ray job logs {job_id} --address {dashboard} --follow",
    ]


def checked_run_id(request: RunRequest) -> str:
    """The run's id. Whatever `render` would refuse before it renders is refused here."""
    from render_farm.manifest.drafts import draft_run_id
    from render_farm.manifest.one_prompt import job_of_prompt, run_id_of_prompt
    from render_farm.manifest.reader import load_manifest
    from render_farm.manifest.run_id import default_run_id
    from render_farm.manifest.selection import select
    from render_farm.storage.layout import check_id

    def default(run_id: str) -> str:
        return draft_run_id(run_id, request.first_segments) if request.first_segments else run_id

    if request.manifest is None:
        return request.run_id or default(run_id_of_prompt(job_of_prompt(request.prompt or "", request.overrides)))
    rows = load_manifest(
        request.manifest, strict=request.strict, base=request.relative_to, limits=request.settings.manifest
    )
    if not select(rows, where=request.where, limit=request.limit):
        raise UsageError(f"--where {request.where!r}: holds for no row of {request.manifest}")
    run_id = request.run_id or default(default_run_id(request.manifest))
    try:
        return check_id(run_id, "--run-id")
    except ValueError as error:
        raise UsageError(str(error)) from error


def as_on_the_cluster(
    request: RunRequest, flags: Mapping[str, Any], run_id: str
) -> tuple[dict[str, Any], dict[str, str | bytes]]:
    """`render`'s flags as they are to be given there, and the local files that they name. Ray shows the command line,
    so what holds a secret travels in a file, and secrets of the settings as variables (`secret_variables`)."""
    from render_farm.manifest.files import folder_of
    from render_farm.manifest.one_prompt import job_of_prompt
    from render_farm.manifest.parts import open_manifest, place_of
    from render_farm.manifest.writer import write_manifest
    from render_farm.storage.open import open_store

    output = open_store(request.output).root_uri
    given = {**flags, "run_id": run_id, "address": "auto", "as_json": False, "output": output}
    given |= flags_again(request.overrides)
    files: dict[str, str | bytes] = {}
    if request.manifest is None and _holds_secret(request.overrides):
        given |= dict.fromkeys(flags_again(request.overrides))
        given |= {"prompt": None, "manifest": "prompt.parquet", "relative_to": request.relative_to or str(Path.cwd())}
        with tempfile.TemporaryDirectory(prefix="render-farm-") as folder:
            path = Path(folder, "prompt.parquet")
            write_manifest(str(path), [job_of_prompt(request.prompt or "", request.overrides)])
            files[path.name] = path.read_bytes()
    elif request.manifest is not None and holds_secret(request.manifest):
        given |= {"manifest": "manifest.parquet", "relative_to": folder_of(place_of(request.manifest))}
        with open_manifest(request.manifest, request.settings.manifest) as parts:
            files["manifest.parquet"] = parts.read()
    elif request.manifest is not None and "://" not in request.manifest:
        path = Path(request.manifest).expanduser().absolute()
        files[path.name] = str(path)
        if path.is_dir():  # its parts as one file
            with open_manifest(request.manifest, request.settings.manifest) as parts:
                files[path.name] = parts.read()
        given["manifest"] = path.name
        given["relative_to"] = _everywhere(request.relative_to or str(path if path.is_dir() else path.parent))
    if settings_file(flags["config"]):
        files[_SETTINGS_FILE] = "\n".join(settings_toml(request.settings)).encode()
        given["config"] = _SETTINGS_FILE
    return given, files


def _holds_secret(overrides: Mapping[str, Any]) -> bool:
    return any(holds_secret(address) for value in overrides.values() for address in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in _texts(item))


def settings_toml(values: Any) -> Iterator[str]:
    """A settings file that sets what differs from the defaults, without its secrets."""
    defaults = type(values)()
    changed = {
        field.name: value
        for field in dataclasses.fields(values)
        if (value := getattr(values, field.name)) != getattr(defaults, field.name)
        and not (isinstance(value, str) and (field.metadata["setting"].secret or holds_secret(value)))
    }
    for name, value in sorted(changed.items(), key=lambda item: dataclasses.is_dataclass(item[1])):  # tables come last
        if dataclasses.is_dataclass(value):
            yield f"[{name}]"
            yield from settings_toml(value)
        elif value is not None:
            yield f"{name} = {json.dumps(value, ensure_ascii=False)}"


def secret_variables(settings: Settings) -> dict[str, str]:
    """The secrets that `settings_toml` leaves out, by the names of their variables."""
    from render_farm.farm.run.settings import Settings

    found: dict[str, str] = {}
    for name, entry in entries(Settings).items():
        value: object = functools.reduce(getattr, name.split("."), settings)
        if isinstance(value, str) and entry.hides(value):
            found[entry.variable] = value
    return found


def _everywhere(place: str) -> str:
    """A folder as other machines may name it too; a URI as it is."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def _folder(path: str | None) -> str | None:
    if path is not None and not Path(path).is_dir():
        raise UsageError(f"--working-dir {path}: is not a folder")
    return path


def _runtime_env(file: str | None, packages: list[str] | None) -> dict[str, Any]:
    env: Any = {}
    if file is not None:
        import yaml

        try:
            env = yaml.safe_load(Path(file).read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"--runtime-env {file}: {' '.join(str(error).split())}") from error
        if not isinstance(env, dict) or not isinstance(env.get("env_vars", {}), dict):
            raise UsageError(f"--runtime-env {file}: is not a map like {json.dumps({'pip': ['av']})}")
    if packages:
        if not isinstance(env.get("pip", []), list):
            raise UsageError(f"--pip: {file} has `pip` of its own that is not a list", advice="put it there")
        env["pip"] = [*env.get("pip", []), *packages]
    found: dict[str, Any] = env
    return found
