"""The attention backend of a run on each kind of device: the choice of the worker that was first.

Workers choose by measuring. Where two backends are about as fast, they would choose differently, and a film's segments
or a group's ranks would round differently.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from render_farm.storage import checked_json
from render_farm.storage.layout import RunKeys
from render_farm.storage.store import Store

if TYPE_CHECKING:
    from render_farm.engine import Engine

SCHEMA = "render_farm.attention.v1"


class AttentionAgreement:
    """What this worker knows of it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def join(self, engine: Engine, store: Store, run_id: str) -> None:
        """Have `engine` use what the run uses on such devices. Only a choice between several backends is stored."""
        own = engine.fastest_attention
        if len(own.timings_ms) < 2:
            return
        key = RunKeys(run_id=run_id).attention(_kind(engine))
        uri = store.uri(key)
        if uri not in self._names:
            store.create(key, checked_json.dump(own.to_dict(), schema=SCHEMA))
            try:
                self._names[uri] = str(checked_json.load(store.read_bytes(key), schema=SCHEMA)["name"])
            except checked_json.DamagedDocument:
                self._names[uri] = own.name
        engine.agreed_attention = self._names[uri]


def _kind(engine: Engine) -> str:
    import torch

    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type
    config = engine.transformer.config
    heads = f"{config['num_attention_heads']}x{config['attention_head_dim']}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{name} {str(engine.dtype).removeprefix('torch.')} {heads}")
