"""Object storage: keys, atomic objects, checkpoints, publishing, leases. See README.md in this folder."""

from render_farm.storage.open import open_store, refuse_for_farm
from render_farm.storage.store import Store, StoreOptions, content_type_for

__all__ = ["Store", "StoreOptions", "content_type_for", "open_store", "refuse_for_farm"]
