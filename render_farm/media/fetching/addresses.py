"""Which network addresses an input may come from: a manifest must not reach into the cluster's own network.

A name is resolved once, the addresses are checked, and the connection goes to a checked address, not to the name: a
name server that answers differently the second time (DNS rebinding) changes nothing, and nothing is sent before the
check, as it would be if the peer were looked at after connecting.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Not marked as private by every Python from 3.11 on, or public and still the cloud's own.
_INSIDE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's host agent
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata among them
        "192.88.99.0/24",  # relays of 6to4
        "100.64.0.0/10",  # carriers, and Alibaba's metadata
        "2001::/23",  # protocol assignments; Teredo among them
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)
_UNICAST = ipaddress.ip_network("2000::/3")
"""The IPv6 addresses that the internet routes. Translated, site-local and segment routing's ones are outside."""
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_EMBEDDING = (_TRANSLATED, *map(ipaddress.ip_network, ("64:ff9b:1::/48", "::ffff:0:0:0/96", "::/96")))
"""Networks whose last four bytes are an IPv4 address. The last two are SIIT's, and a form long out of use."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An address to connect to, as `socket` takes it."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class ForbiddenAddress(Exception):
    """A host whose addresses may not be used. The message says which and why."""


def checked_endpoints(host: str, port: int, *, trusted: bool) -> list[Endpoint]:
    """The addresses of `host` that may be used, at least one; `trusted` hosts may have private and loopback ones.

    Raises `ForbiddenAddress`, or OSError when the name does not resolve.
    """
    allowed, refused = [], ""
    for family, _, _, _, sockaddr in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        address = ipaddress.ip_address(str(sockaddr[0]).partition("%")[0])
        reason = why_forbidden(address, trusted=trusted)
        if reason:
            refused = f"{address} is {reason}"
        else:
            allowed.append(Endpoint(family=family, sockaddr=sockaddr))
    if not allowed:
        raise ForbiddenAddress(refused or "it has no address")
    return allowed


def why_forbidden(address: Address, *, trusted: bool = False) -> str:
    """Why nothing is fetched from `address`; "" when it may be."""
    if isinstance(address, ipaddress.IPv6Address) and (inner := _embedded(address)):
        reason = why_forbidden(inner, trusted=trusted)
        if reason or address.ipv4_mapped or address in _TRANSLATED:
            return reason
    if address.is_link_local:
        return "a link-local address (a cloud's metadata service is one)"
    if address.is_unspecified or address.is_multicast:
        return "no address of a server"
    if trusted:
        return ""
    if address.is_loopback:
        return "a loopback address"
    outside = address.version == 6 and address not in _UNICAST
    if outside or not address.is_global or any(address in net for net in _INSIDE if net.version == address.version):
        return "a private address"
    return ""


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a packet to `address` may end up at."""
    if address.is_loopback or address.is_unspecified:
        return None
    if any(address in network for network in _EMBEDDING):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
