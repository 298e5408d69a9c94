"""Client addresses in the audit: told apart for a day, and never told."""

from datetime import date

from server.http.client_pseudonyms import ClientPseudonyms

_DAY, _NEXT = date(2026, 3, 4), date(2026, 3, 5)


def test_origin_is_the_same_for_a_day_and_says_nothing_of_the_address() -> None:
    """Equal addresses are equal within a day, others differ; the next day, and another process, has other names."""
    origins = ClientPseudonyms()
    one = origins.client("192.0.2.7", _DAY)
    assert one == origins.client("192.0.2.7", _DAY)
    assert one.who == "client"
    assert len(one.origin or "") == 32
    others = [
        origins.client("192.0.2.8", _DAY),
        origins.client("192.0.2.7", _NEXT),
        origins.client("192.0.2.7", _DAY),
        ClientPseudonyms().client("192.0.2.7", _DAY),
    ]
    assert len({one.origin, *(other.origin for other in others)}) == 5
    assert origins.client(None, _DAY).origin is None
