"""Which addresses we may connect to: the public ones, and what the operator lists."""

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks: TypeAlias = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LAST_32_BITS = 0xFFFFFFFF
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is given out for use on the Internet; the rest is reserved, deprecated or local."""
_SPECIAL: Networks = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments; some clouds answer for their machines' keys in it
        "192.88.99.0/24",  # relays of 6to4, deprecated as it is
        "2002::/16",
        "3fff::/20",  # documentation
    )
)
"""Which `is_global` of some Python does not know. Source: the IANA special-purpose address registries."""


def is_allowed(address: Address, allowed: Networks, *, plain: bool) -> bool:
    """Tell whether an address may be connected to.

    Args:
        address: Which.
        allowed: Networks that the operator listed.
        plain: Without TLS: then only what is listed, since everyone on the way would read along.
    """
    inner = _inner(address)
    if any(one.version == net.version and one in net for one in (address, inner) for net in allowed):
        return True
    return not plain and _is_public(address) and _is_public(inner)


def _is_public(address: Address) -> bool:
    if address.version == 6 and not (address in _UNICAST or address in _NAT64):  # noqa: PLR2004 - IPv6
        return False
    return address.is_global and not address.is_multicast and not any(address in net for net in _SPECIAL)


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for: mapped or NAT64; else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LAST_32_BITS)
    return address.ipv4_mapped or address
