"""How long segments take, as learned by the farm and kept in the output tree from run to run."""

from __future__ import annotations

from render_farm.errors import NotFoundError
from render_farm.scheduling.costs import CostModel
from render_farm.storage import checked_json
from render_farm.storage.checked_json import DamagedDocument
from render_farm.storage.layout import costs_key
from render_farm.storage.store import Store

_SCHEMA = "render_farm.costs/1"


def load_costs(store: Store, device: str) -> CostModel:
    """The costs on `cuda` or `cpu`. Empty if they are missing or damaged, because they are learned again."""
    try:
        return CostModel.from_dict(checked_json.load(store.read_bytes(costs_key(device)), schema=_SCHEMA))
    except (NotFoundError, DamagedDocument, ValueError):
        return CostModel()


def save_costs(store: Store, device: str, costs: CostModel) -> None:
    """StorageError passes."""
    store.write_bytes(costs_key(device), checked_json.dump(costs.to_dict(), schema=_SCHEMA))
