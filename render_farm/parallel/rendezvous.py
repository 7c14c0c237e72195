"""Where the ranks of a group meet: a store that its first rank serves on a port that is free, under a unique name."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed import TCPStore


@dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """Enough to find the store; travels to every rank."""

    host: str
    port: int
    name: str
    """Unique to this forming of this group: whoever connects to a port that was used before finds no keys."""


class RendezvousHost:
    """Serves a rendezvous from this process until it is closed. Made by rank 0 before the others join."""

    def __init__(self, *, host: str = "127.0.0.1", timeout_s: float = 60.0) -> None:
        """`host` is the address at which the other ranks reach this process; loopback serves one node."""
        listener = socket.create_server(("" if host != "127.0.0.1" else host, 0))
        port = listener.getsockname()[1]
        self._store: TCPStore | None = TCPStore(
            host,
            port,
            None,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        self.rendezvous = Rendezvous(host=host, port=port, name=secrets.token_hex(8))

    def close(self) -> None:
        """Stop serving. The group that met here continues. A new one cannot form here."""
        self._store = None
