"""What address and URL the client used, told by proxies we trust and nobody else.

Source: RFC 7239; docs/architecture.md, Behind a proxy.
"""

import ipaddress
import re
from collections.abc import Sequence

from aiohttp import web

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def is_trusted(request: web.BaseRequest, networks: Sequence[Network]) -> bool:
    """Tell whether the direct peer is a configured proxy. A unix socket is: only this machine reaches it."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    if not isinstance(peer, tuple):
        return True
    return in_networks(str(peer[0]), networks)


def in_networks(address: str, networks: Sequence[Network]) -> bool:
    """Tell whether an address lies in one of the networks."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def base_url(request: web.BaseRequest, public_url: str | None, networks: Sequence[Network]) -> str:
    """Return scheme, host and path prefix of our URLs as the client sees them, without a slash at the end."""
    if public_url:
        return public_url.rstrip("/")
    scheme, host = request.scheme, request.headers.get("Host", "")
    if is_trusted(request, networks):
        proto, forwarded_host = _forwarded(request)
        if proto in _DEFAULT_PORTS:
            scheme = proto
        host = forwarded_host or host
    if _HOST.fullmatch(host) is None:
        return ""
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORTS[scheme])}"


def _forwarded(request: web.BaseRequest) -> tuple[str, str]:
    """Return (protocol, host) from Forwarded, or else from X-Forwarded-*; empty where absent."""
    header = request.headers.get("Forwarded")
    if header:
        fields = {
            name.strip().lower(): value.strip().strip('"')
            for name, _, value in (part.partition("=") for part in header.split(",")[-1].split(";"))
        }
        return fields.get("proto", "").lower(), fields.get("host", "")
    proto = request.headers.get("X-Forwarded-Proto", "").split(",")[-1].strip().lower()
    return proto, request.headers.get("X-Forwarded-Host", "").split(",")[-1].strip()
