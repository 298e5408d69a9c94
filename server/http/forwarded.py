"""The address and URL of the client, as trusted proxies report them, and nobody else.

Each proxy adds, on the right, the address that asked it. So the chain is read from the right: as long as an address is
a trusted proxy's, the next one to the left is that proxy's word; the first other address is the client, and what stands
left of it is the client's invention. At nonsense the reading stops.

Source: RFC 7239; docs/reference/http.md, Behind a proxy.
"""

import functools
import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from dropoff_tus.headers import Headers

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_HOST = re.compile(r"[A-Za-z0-9.\-_]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+)(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")
# RFC 7239, section 4: forwarded-pair, with either form of value; section 7.1 allows spaces around commas.
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;=]*))\s*')
_CLIENT_PREFIX_BITS = 64
_MAX_HOPS = 32


@dataclass(frozen=True, slots=True)
class Origin:
    """The known facts about the client. `address` is None, and scheme and host are empty, if nobody said them."""

    address: str | None
    scheme: str = ""
    host: str = ""


_ORIGIN: web.RequestKey[Origin] = web.RequestKey("origin", Origin)


def in_networks(address: str, networks: Sequence[Network]) -> bool:
    """Tell whether an address lies in one of the networks."""
    parsed = _address(address) if networks else None
    return parsed is not None and any(parsed in network for network in networks)


@functools.lru_cache(maxsize=4096)
def throttled_as(address: str) -> str:
    """Return what stands for an address where clients are counted: IPv6 hands a /64 to everyone, so that counts."""
    parsed = _address(address)
    if not isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed or address)
    return str(ipaddress.IPv6Network((int(parsed), _CLIENT_PREFIX_BITS), strict=False))


def origin(peer: str | None, headers: Headers, networks: Sequence[Network]) -> Origin:
    """Read who asked, and how.

    Args:
        peer: The address at the other end of the connection; None for a unix socket, which only this machine reaches.
        headers: The request's.
        networks: The proxies that are believed.
    """
    if peer is not None and not in_networks(peer, networks):
        return Origin(peer)
    found = Origin(peer)
    for hop in _hops(headers):
        found = Origin(hop.address or found.address, hop.scheme or found.scheme, hop.host or found.host)
        if hop.address is None or not in_networks(hop.address, networks):
            break
    return found


def is_trusted(request: web.BaseRequest, networks: Sequence[Network]) -> bool:
    """Tell whether the direct peer is a configured proxy, or came over a unix socket."""
    peer = _peer(request)
    return peer is None or in_networks(peer, networks)


def origin_of(request: web.BaseRequest, networks: Sequence[Network]) -> Origin:
    """Read who sent a request; once, since several ask."""
    found = request.get(_ORIGIN)
    if found is None:
        peer = _peer(request)
        believed = peer is None or in_networks(peer, networks)
        found = origin(peer, tuple(request.headers.items()), networks) if believed else Origin(peer)
        request[_ORIGIN] = found
    return found


def _peer(request: web.BaseRequest) -> str | None:
    """Return the address at the other end; None for a unix socket, and none that anybody trusts once it is gone."""
    if request.transport is None:
        return ""
    peer = request.transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else None


def client_of(request: web.BaseRequest, networks: Sequence[Network]) -> str | None:
    """Return what to count a request's client as; None where its address is not known."""
    address = origin_of(request, networks).address
    return None if address is None else throttled_as(address)


def base_url(request: web.BaseRequest, public_url: str | None, networks: Sequence[Network]) -> str:
    """Return scheme, host and path prefix of our URLs as the client sees them, without a slash at the end."""
    if public_url:
        return public_url.rstrip("/")
    told = origin_of(request, networks)
    scheme = told.scheme if told.scheme in _DEFAULT_PORTS else request.scheme
    host = told.host or request.headers.get("Host", "")
    if _HOST.fullmatch(host) is None:
        return ""
    return f"{scheme}://{host.removesuffix(_DEFAULT_PORTS[scheme])}"


def _hops(headers: Headers) -> Iterator[Origin]:
    """Yield what each proxy said, the nearest first: from Forwarded if it is there and makes sense, else from X-…."""
    standard = _forwarded(", ".join(_all(headers, "Forwarded")))
    if standard:
        yield from reversed(standard[-_MAX_HOPS:])
        return
    addresses = _values(headers, "X-Forwarded-For")
    schemes = _values(headers, "X-Forwarded-Proto")
    hosts = _values(headers, "X-Forwarded-Host")
    for place in range(min(_MAX_HOPS, max(len(addresses), len(schemes), len(hosts)))):
        yield Origin(
            _node(addresses[place]) if place < len(addresses) else None,
            schemes[place].lower() if place < len(schemes) else "",
            hosts[place] if place < len(hosts) else "",
        )


def _values(headers: Headers, name: str) -> list[str]:
    """Return the members of a list header, the last first."""
    return [value.strip() for value in reversed(",".join(_all(headers, name)).split(","))]


def _all(headers: Headers, name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name.lower()]


def _forwarded(text: str) -> list[Origin]:
    """Read a Forwarded header; nothing of it where it does not follow the grammar.

    Source: RFC 7239, section 4.
    """
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is not None:
            quoted = pair[2]
            value = pair[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            elements[-1].setdefault(pair[1].lower(), value)
            position = pair.end()
        if position < len(text):
            if text[position] not in ",;":
                return []
            if text[position] == ",":
                elements.append({})
            position += 1
    return [
        Origin(_node(element.get("for", "")), element.get("proto", "").lower(), element.get("host", ""))
        for element in elements
        if element
    ]


def _node(text: str) -> str | None:
    """Read an address with or without a port; names such as `unknown` are none."""
    found = _NODE.fullmatch(text)
    parsed = _address(found[1] or found[2] or found[3]) if found else None
    return None if parsed is None else str(parsed)


@functools.lru_cache(maxsize=4096)
def _address(text: str) -> Address | None:
    """Read an address; an IPv4 one in IPv6's clothes is that IPv4 one."""
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None) or parsed
