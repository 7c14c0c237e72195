"""Farm settings: a TOML file, then `RENDER_FARM_*` variables, then flags; read once into frozen dataclasses."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from render_farm.errors import UsageError
from render_farm.memory_mode import canonical_memory

NAMESPACE = "render_farm"
ATTENTION_BACKENDS = (
    "flash_attn_3",
    "torch_cudnn",
    "flash_attn_2",
    "torch_flash",
    "torch_efficient",
    "sage",
    "torch_math",
)
"""What `engine/transformer/attention_backends.py` has."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """All in seconds. Tests shorten them."""

    hang_floor_s: float = 60.0
    """A group that reports no step for max(this, 10 x its usual step) is ended."""
    first_step_floor_s: float = 600.0
    """The same for the first step of a segment, which may compile or load."""
    store_floor_s: float = 900.0
    """How long storing a segment may take after its last step; more than `cluster_patience_s`, which is spent there."""
    finish_floor_s: float = 1800.0
    """A film's finishing (decoding, encoding, publishing) that writes nothing for this long is ended."""
    group_s: float = 120.0
    """How long a rank of a render group waits for the others in an exchange."""
    lease_s: float = 30.0
    """A run's holder counts as gone after this long without a renewal."""
    worker_start_s: float = 600.0
    """A worker that has not answered by then is started anew."""
    keep_workers_s: float = 0.0
    """How long a shared cluster's workers stay up, models loaded, when nothing is left to render: for runs that come
    one after another. 0 gives their devices back at once."""
    preemption_grace_s: float = 25.0
    """How long a worker that got a SIGTERM may go on, when that is enough to complete its segment."""
    step_checkpoint_s: float = 0.0
    """How often the state of a segment is stored in the middle of its steps, so that a lost worker costs no more than
    this; 0 stores it only when a worker is asked to end. Worth it where a segment takes many minutes. The same kind of
    device goes on bit for bit."""
    cluster_patience_s: float = 600.0
    """How long the cluster's faults (storage, network) in a row are waited out before a job fails of them. A worker
    keeps a rendered segment for as long and tries to store it again and again."""


@dataclass(frozen=True, kw_only=True)
class InputLimits:
    """What an input image, video or LoRA of a job may be, and where it may come from. Manifests are not trusted.

    As a table `[inputs]` in the settings file, or as variables `RENDER_FARM_INPUT_<FIELD>` (lists with commas).
    """

    max_image_bytes: int = 64 << 20
    """Size of an image's file; counted while it arrives, whatever the server says."""
    max_video_bytes: int = 4 << 30
    """The same for a video's."""
    max_lora_bytes: int = 4 << 30
    """The same for a LoRA's."""
    max_lora_header_bytes: int = 8 << 20
    """Size of the header of a LoRA's file, which takes some ten times as much memory when it is read."""
    max_image_pixels: int = 89_478_485
    """Width x height of an image (Pillow's own threshold). An image with more is refused before it is decoded."""
    max_frame_pixels: int = 8192 * 4320
    """Width x height of a video's frames."""
    fetch_timeout_s: float = 600.0
    """Longest time that getting one input may take, trials included."""
    silence_timeout_s: float = 30.0
    """Longest silence of an https server, and the longest wait for a connection."""
    decode_timeout_s: float = 1800.0
    """Longest time that decoding one video may take."""
    image_timeout_s: float = 30.0
    """Longest time that decoding one image may take."""
    protocols: tuple[str, ...] = ("file", "s3", "gs", "az", "abfs", "https", "memory")
    """What may stand before `://`; `file` is also a plain path."""
    allowed_roots: tuple[str, ...] | None = None
    """Folders that local inputs and models of a manifest must lie in, links followed. Unset allows every file that the
    farm's user can read; set it when you render the manifests of others. An empty list allows no local files."""
    trusted_hosts: tuple[str, ...] = ()
    """`name` or `name:port` of https servers of your own that may have private or loopback addresses. Without it no
    input comes from such an address. Link-local ones (the cloud's metadata) never serve."""
    ca_file: str | None = None
    """PEM file with certificates to trust besides the system's, for servers with a private authority."""
    max_redirects: int = 5
    """How many redirects of an https server are followed; each is checked like the first address."""
    num_tries: int = 3
    """Tries of an https request that fails in a way that may pass."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How segments are computed; what they show does not depend on it, but for `sage`.

    As a table `[engine]` in the settings file, or as variables `RENDER_FARM_ENGINE_<FIELD>`.
    """

    attention: str = "auto"
    """`auto`: the fastest exact backend of those that run on the device, measured when the model is loaded; or one by
    name: `flash_attn_3`, `flash_attn_2` and `sage` (their packages must be installed), `torch_cudnn`, `torch_flash`,
    `torch_efficient`, `torch_math`."""
    allow_approximate_attention: bool = False
    """Lets `auto` choose SageAttention too, whose films differ from the exact ones by more than rounding."""
    compile: str = "auto"
    """`torch.compile` of the transformer's blocks, once a process: `auto` does it on GPUs; `on`, `off`."""
    kv_cache: str = "auto"
    """Keys and values of finished blocks: `auto` keeps them when they fit beside the model, `on` always, `off` never
    (they are computed anew at every step; the film is the same)."""

    @property
    def approximation(self) -> str:
        """What makes films differ from the exact ones, for their render key; empty when nothing does."""
        if self.attention == "sage":
            return "attention sage"
        return "attention auto" if self.attention == "auto" and self.allow_approximate_attention else ""


@dataclass(frozen=True, kw_only=True)
class SchedulingSettings:
    """Who gets workers when not all can have them.

    As a table `[scheduling]` in the settings file, or as variables `RENDER_FARM_SCHEDULING_<FIELD>` (lists with
    commas). A farm keeps those of the run that started it.
    """

    aging_s: float = 360.0
    """Waiting this long is worth one point of priority; 0: waiting is worth nothing."""
    share_by: str = "owner"
    """What films of equal priority share the workers by: `owner`, `tag:NAME` (the value of that tag) or `none`."""
    shares: tuple[str, ...] = ()
    """`NAME=WEIGHT` of the owners (or values of the tag) that are to have more or less than others, which weigh 1."""
    quotas: tuple[str, ...] = ()
    """`NAME=WORKERS`: the most workers that films of such an owner render on at a time."""


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Render groups: several workers of one host for one segment. What `auto` degrees are chosen by, and decoding.

    As a table `[group]` in the settings file, or as variables `RENDER_FARM_GROUP_<FIELD>`. `render-farm bench parallel`
    measures the four numbers on a machine and prints them as such a table; unset, they are guesses.
    """

    degrees: str = "given"
    """`given`: those of the job or the command line, else 1; `auto`: what they leave open is chosen. A film is then
    rendered by the fewest workers that it fits on, and by more when they would be idle otherwise. Its last bits depend
    on the groups that it happens to have (1e-4 in float32)."""
    gpus_per_node: int | None = None
    """GPUs of a machine that the cluster's autoscaler brings: where a cluster is to grow (`--max-gpus`), `auto` goes by
    it before such a machine is there, and films that may have larger groups ask for such ones. Unset: by the machines
    that are there when the run starts."""
    interconnect: str = "nvlink"
    """How the GPUs of a host meet: `nvlink` or `pcie`; what `bytes_per_s` is guessed by."""
    operations_per_s: float | None = None
    """Of one worker in the transformer's layers, a multiply-add counted as two."""
    bytes_per_s: float | None = None
    """That a worker sends to others of its host while they send as much."""
    exchange_s: float | None = None
    """What an exchange takes that sends next to nothing."""
    decoding_operations_per_s: float | None = None
    """Of one worker in the VAE's decoder."""
    decode: str = "auto"
    """Whether a group decodes its films together, between segments, instead of one worker beside the next segment:
    `auto` when it takes less time by these numbers; `on`, `off`."""


@dataclass(frozen=True, kw_only=True)
class NotifySettings:
    """Who is told when a run ends, when its first film fails, and when a film may miss its deadline. Unset: nobody.

    As a table `[notify]` in the settings file, or as variables `RENDER_FARM_NOTIFY_<FIELD>` (lists with commas).
    """

    webhook_url: str | None = None
    """http or https; gets a POST."""
    webhook_secret: str | None = None
    """Signs the body (`observability/webhook.py` says how); unset: unsigned."""
    webhook_template: str = "json"
    """`json`, or `slack` for the body that Slack's incoming webhooks take."""
    smtp_host: str | None = None
    """A mail server."""
    smtp_port: int = 587
    smtp_security: str = "starttls"
    """`starttls`, `tls` or `none`."""
    smtp_user: str | None = None
    smtp_password: str | None = None
    mail_from: str | None = None
    mail_to: tuple[str, ...] = ()
    heartbeat_url: str | None = None
    """http or https; gets a GET when a night starts and when it ends (`observability/heartbeat.py` says how)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a farm needs to know that is not in a manifest."""

    output: str | None = None
    """Where runs go when neither a flag nor the run's URI says so."""
    model: str = "tiny"
    """The model of rows whose `model` is null."""
    model_cache: str = field(default_factory=lambda: str(Path.home() / ".cache" / "render_farm" / "models"))
    """Local folder for models that come from a URI."""
    dtype: str = "auto"
    """`auto` is bfloat16 on CUDA and float32 on the CPU."""
    memory: str = "auto"
    """The memory mode of rows whose `memory` is null."""
    attempts: int = 3
    """How often a segment is tried before its job fails; only the worker's faults count."""
    host_faults: int = 3
    """A host with this many worker faults within 10 minutes is quarantined."""
    max_failed: str | None = None
    """A run stops when more jobs than this (`N` or `P%`) have failed; unset means never."""
    previews: bool = True
    """Whether the finished segments of a film can be watched while the rest is rendered (`render-farm preview`)."""
    gpu_price_per_hour: float | None = None
    """What an hour of one GPU costs, for the report; unset means that no cost is shown."""
    currency: str = "USD"
    """Of that price."""
    report_link_hours: float | None = None
    """The films of the report are signed links that last so long (at most 168 hours), for readers without access to the
    bucket; unset: relative links, which need access or `render-farm serve`."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    inputs: InputLimits = field(default_factory=InputLimits)
    engine: EngineOptions = field(default_factory=EngineOptions)
    group: GroupOptions = field(default_factory=GroupOptions)
    notify: NotifySettings = field(default_factory=NotifySettings)
    scheduling: SchedulingSettings = field(default_factory=SchedulingSettings)


_TABLES: dict[str, str] = {
    "timeouts": "RENDER_FARM_",
    "inputs": "RENDER_FARM_INPUT_",
    "engine": "RENDER_FARM_ENGINE_",
    "group": "RENDER_FARM_GROUP_",
    "notify": "RENDER_FARM_NOTIFY_",
    "scheduling": "RENDER_FARM_SCHEDULING_",
}
"""Settings with fields of their own, and how their variables start."""
_CHOICES: dict[str, tuple[str, ...]] = {
    "attention": ("auto", *ATTENTION_BACKENDS),
    "compile": ("auto", "on", "off"),
    "kv_cache": ("auto", "on", "off"),
    "degrees": ("given", "auto"),
    "decode": ("auto", "on", "off"),
    "interconnect": ("nvlink", "pcie"),
}
_FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


def load_settings(*, file: str | None = None, environment: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """Settings from `file` (TOML; also `$RENDER_FARM_CONFIG`), `RENDER_FARM_<FIELD>` variables and `flags`.

    Later sources win; flags that are None are ignored. Raises `UsageError` for an unreadable file or unknown key.
    """
    environment = os.environ if environment is None else environment
    settings = Settings()
    path = file or environment.get("RENDER_FARM_CONFIG")
    if path:
        settings = _apply(settings, _read_toml(path), source=path)
    from_environment: dict[str, Any] = _variables(settings, "RENDER_FARM_", environment)
    for table, prefix in _TABLES.items():
        if values := _variables(getattr(settings, table), prefix, environment):
            from_environment[table] = values
    settings = _apply(settings, from_environment, source="the environment")
    return _apply(settings, {key: value for key, value in flags.items() if value is not None}, source="flags")


def _read_toml(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as handle:
            return tomllib.load(handle)
    except OSError as error:
        raise UsageError(
            f"settings file {path}: {error.strerror}",
            advice="--config and $RENDER_FARM_CONFIG name it; neither is needed",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"settings file {path} is not TOML: {error}") from error


def _apply(settings: Settings, values: Mapping[str, Any], *, source: str) -> Settings:
    known = {f.name for f in fields(Settings)}
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"{source}: unknown setting {key!r}; known: {', '.join(sorted(known))}")
        if key in _TABLES:
            changes[key] = _apply_table(getattr(settings, key), key, value, source=source)
        elif key in ("attempts", "host_faults"):
            changes[key] = _number(int, key, value, source)
            if changes[key] < 1:
                raise UsageError(f"{source}: {key}: {value} is less than 1")
        elif key == "gpu_price_per_hour":
            changes[key] = _number(float, key, value, source)
            if not 0 <= changes[key] < float("inf"):
                raise UsageError(f"{source}: gpu_price_per_hour: {value} is not a price of 0 or more")
        elif key == "report_link_hours":
            changes[key] = _number(float, key, value, source)
            if not 0 < changes[key] <= 168:
                raise UsageError(f"{source}: report_link_hours: {value} is not more than 0 and at most 168")
        elif key == "previews":
            changes[key] = _flag(key, value, source)
        elif not isinstance(value, str):
            raise UsageError(f"{source}: {key}: {value!r} is not text")
        elif key == "memory":
            changes[key] = _memory(value, source)
        else:
            changes[key] = value
    return replace(settings, **changes)


def _memory(value: str, source: str) -> str:
    try:
        return canonical_memory(value)
    except ValueError as error:
        raise UsageError(f"{source}: memory: {error}") from error


def _variables(part: Any, prefix: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set for the fields of the dataclass `part`, tables left out."""
    names = {f.name: f"{prefix}{f.name.upper()}" for f in fields(part) if f.name not in _TABLES}
    return {name: environment[variable] for name, variable in names.items() if environment.get(variable)}


def _apply_table(part: Any, table: str, values: Any, *, source: str) -> Any:
    if not isinstance(values, Mapping):
        raise UsageError(
            f"{source}: {table}: {values!r} is not a table", advice=f"write [{table}] and its fields below"
        )
    kinds = {f.name: str(f.type) for f in fields(part)}
    unknown = sorted(set(values) - set(kinds))
    if unknown:
        noun = "time-out" if table == "timeouts" else f"setting of {table}"
        raise UsageError(f"{source}: unknown {noun} {unknown[0]!r}; known: {', '.join(sorted(kinds))}")
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if kinds[key].startswith("tuple"):
            changes[key] = _names(key, value, source)
        elif kinds[key] in ("int", "float"):
            changes[key] = _number(int if kinds[key] == "int" else float, key, value, source)
        elif kinds[key] == "int | None":
            changes[key] = _number(int, key, value, source)
            if changes[key] < 1:
                raise UsageError(f"{source}: {key}: {value!r} is less than 1")
        elif kinds[key] == "float | None":
            changes[key] = _number(float, key, value, source)
            if not 0 < changes[key] < float("inf"):
                raise UsageError(f"{source}: {key}: {value!r} is not more than 0")
        elif kinds[key] == "bool":
            changes[key] = _flag(key, value, source)
        elif not isinstance(value, str):
            raise UsageError(f"{source}: {key}: {value!r} is not text")
        else:
            changes[key] = value
        if key in _CHOICES and changes[key] not in _CHOICES[key]:
            raise UsageError(f"{source}: {key}: {value!r} is not one of {', '.join(_CHOICES[key])}")
    return replace(part, **changes)


def _names(key: str, value: Any, source: str) -> tuple[str, ...]:
    values = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(part, str) for part in values):
        raise UsageError(f"{source}: {key}: {value!r} is not a list of names")
    return tuple(values)


def _flag(key: str, value: Any, source: str) -> bool:
    flag = _FLAGS.get(str(value).lower())
    if flag is None:
        raise UsageError(f"{source}: {key}: {value!r} is neither true nor false")
    return flag


def _number(kind: type, key: str, value: Any, source: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UsageError(f"{source}: {key}: {value!r} is not a number") from None
