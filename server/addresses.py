"""Which addresses we may connect to: the public ones, and what the operator lists."""

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Networks: TypeAlias = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LAST_32_BITS = 0xFFFFFFFF


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
    return not plain and all(one.is_global and not one.is_multicast for one in (address, inner))


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for: mapped, 6to4 or NAT64; else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LAST_32_BITS)
    return address.ipv4_mapped or address.sixtofour or address
