"""The client's address, behind proxies and in spite of strangers."""

import ipaddress

import pytest

from server.http.forwarded import Origin, in_networks, origin, throttled_as

_PROXIES = tuple(ipaddress.ip_network(text) for text in ("127.0.0.1/32", "10.0.0.0/8", "fd00::/8"))


def _told(peer: str | None, *headers: tuple[str, str]) -> Origin:
    return origin(peer, headers, _PROXIES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Forwarded", "for=1.2.3.4;proto=https;host=evil.example"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
    ],
)
def test_origin_of_a_stranger_is_his_own_address(name: str, value: str) -> None:
    """Anybody can send these headers; only a configured proxy is believed."""
    assert _told("203.0.113.9", (name, value)) == Origin("203.0.113.9")


@pytest.mark.parametrize(
    ("chain", "address"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.1.2.3, 10.9.9.9", "203.0.113.9"),
        ("10.1.2.3", "10.1.2.3"),
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, fd00::5", "203.0.113.9"),
        ("", "127.0.0.1"),
        ("unknown", "127.0.0.1"),
        ("1.1.1.1, unknown", "127.0.0.1"),
        ("1.1.1.1, nonsense, 10.1.2.3", "10.1.2.3"),
        ("1.1.1.1, 999.1.1.1", "127.0.0.1"),
        ("1.1.1.1,", "127.0.0.1"),
    ],
)
def test_origin_walks_the_chain_from_the_right(chain: str, address: str) -> None:
    """Trusted hops are passed, the first other address is the client, and nonsense ends the walk."""
    assert _told("127.0.0.1", ("X-Forwarded-For", chain)).address == address
    if chain and "," not in chain.rstrip(","):
        assert _told("127.0.0.1", ("Forwarded", f'for="{chain}"')).address == address


def test_origin_of_several_header_lines_is_that_of_the_joined_one() -> None:
    """A proxy may add a line instead of a member."""
    lines = [("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9, 10.0.0.1")]
    assert _told("127.0.0.1", *lines).address == "203.0.113.9"


@pytest.mark.parametrize(
    "value",
    [
        'for=203.0.113.9;proto=https;host="a.example:8443"',
        'Host="a.example:8443" ; Proto=HTTPS;For="203.0.113.9:99"',
        'for=1.1.1.1;host=evil.example, for=203.0.113.9;proto=https;host="a.example:8443"',
        'for=203.0.113.9;proto=https;host="a.example:8443",for=10.0.0.1;proto=http;by=x',
        'for="a,b;c=\\"d";host=evil.example, for=203.0.113.9;proto=https;host="a.example:8443"',
    ],
    ids=["plain", "case-order", "invented-left", "two-hops", "quoted-comma"],
)
def test_origin_reads_forwarded_and_it_wins(value: str) -> None:
    """The standard header is read by its grammar, and what X-Forwarded-* say beside it is ignored."""
    others = [("X-Forwarded-For", "9.9.9.9"), ("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "b.example")]
    expected = Origin("203.0.113.9", "https", "a.example:8443")
    told = _told("127.0.0.1", ("Forwarded", value), *others)
    # the nearer of two hops said nothing of the host, and http only of the way between the two
    assert told == expected


@pytest.mark.parametrize("value", ["", "for", "for=1.1.1.1 x", "=;", ";;", '"for=1.1.1.1"', 'for="1.1.1.1', "🧪"])
def test_origin_ignores_a_forwarded_header_that_is_nonsense(value: str) -> None:
    """A value that breaks the grammar counts as absent."""
    told = _told("127.0.0.1", ("Forwarded", value), ("X-Forwarded-For", "203.0.113.9"))
    assert told.address == "203.0.113.9"


def test_origin_of_x_forwarded_proto_is_that_of_the_outermost_trusted_hop() -> None:
    """Two proxies in a row: the client's way to the first counts."""
    chain = [("X-Forwarded-For", "203.0.113.9, 10.0.0.1"), ("X-Forwarded-Proto", "https, http")]
    assert _told("127.0.0.1", *chain) == Origin("203.0.113.9", "https")
    assert _told("127.0.0.1", ("X-Forwarded-Proto", "https, http")).scheme == "http"


def test_origin_over_a_unix_socket_believes_the_proxy() -> None:
    """Only this machine reaches a unix socket."""
    assert _told(None, ("X-Forwarded-For", "203.0.113.9")).address == "203.0.113.9"
    assert _told(None) == Origin(None)


def test_origin_of_an_endless_chain_comes_to_an_end() -> None:
    """Nobody makes us walk for long."""
    assert _told("127.0.0.1", ("X-Forwarded-For", ",".join(["10.0.0.1"] * 5000))).address == "10.0.0.1"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_clients_are_counted_by_address_and_ipv6_by_64_bits(address: str, name: str) -> None:
    """One IPv6 customer has 2^64 addresses."""
    assert throttled_as(address) == name


def test_network_holds_an_ipv4_address_that_comes_as_ipv6() -> None:
    """A listener on both protocols shows IPv4 clients so."""
    assert in_networks("::ffff:10.1.1.1", _PROXIES)
    assert not in_networks("::ffff:11.1.1.1", _PROXIES)
    assert not in_networks("nonsense", _PROXIES)
