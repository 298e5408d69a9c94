"""How many connections may be open, in all and from one address; at a limit a spare one is closed."""

import socket
from collections.abc import Iterable, Sequence
from typing import Protocol

from server.http.forwarded import Network, in_networks, throttled_as


class Guest(Protocol):
    """A connection, as it is counted."""

    name: str | None

    @property
    def is_new(self) -> bool:
        """Whether no request has come so far."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a request is here that has not been answered."""
        ...

    @property
    def stalled(self) -> bool:
        """Whether its client does not take its answer."""
        ...

    def drop(self) -> None:
        """Close at once, and leave."""
        ...


class Elsewhere(Protocol):
    """The same counts in all workers of a server."""

    def add(self, name: str, by: int) -> None:
        """Count here."""
        ...

    def elsewhere(self, name: str) -> int:
        """Return how many the others have."""
        ...


_ALL = ""
"""The name of all connections, which is nobody's."""


class Admission:
    """Counts connections from the moment in which they are accepted, those in their TLS handshake too."""

    def __init__(
        self,
        connections: int,
        per_address: int,
        trusted_proxies: Sequence[Network],
        tally: Elsewhere | None = None,
    ) -> None:
        """Let so many in, in all and from one address, counting those of other workers; 0: any number."""
        self.limit(connections, per_address)
        self._trusted, self._tally = trusted_proxies, tally
        # In the order in which they came.
        self.guests: dict[Guest, None] = {}
        self._by_name: dict[str, dict[Guest, None]] = {}

    def limit(self, connections: int, per_address: int) -> None:
        """Let so many in from now on; those that are in may stay."""
        self.most, self._most_per_address = connections, per_address

    def name_of(self, accepted: socket.socket) -> str | None:
        """Return what a peer counts as; None for a unix socket and for our proxies, who connect for many.

        Raises:
            OSError: It has gone away again.
        """
        peer = accepted.getpeername()
        address = str(peer[0]) if isinstance(peer, tuple) else None
        return None if address is None or in_networks(address, self._trusted) else throttled_as(address)

    def has_place(self, name: str | None) -> bool:
        """Tell whether one more may come in; at the limit, close a spare connection if there is one."""
        same = self._by_name.get(name, {}) if name is not None else {}
        if self._most_per_address and name is not None:
            count = len(same) + self._elsewhere(name)
            if count >= self._most_per_address and not _spare_one(same):
                return False
        return not self.most or len(self.guests) + self._elsewhere(_ALL) < self.most or self.make_place()

    def _elsewhere(self, name: str) -> int:
        return 0 if self._tally is None else self._tally.elsewhere(name)

    def _count(self, name: str | None, by: int) -> None:
        if self._tally is not None:
            self._tally.add(_ALL, by)
            if name is not None:
                self._tally.add(name, by)

    def make_place(self) -> bool:
        """Close a connection that can be spared; tell whether there was one."""
        return _spare_one(self.guests)

    def enter(self, guest: Guest) -> None:
        """Count a connection in."""
        self.guests[guest] = None
        self._count(guest.name, 1)
        if guest.name is not None:
            self._by_name.setdefault(guest.name, {})[guest] = None

    def leave(self, guest: Guest) -> None:
        """Count a connection out, if it is in."""
        if self.guests.pop(guest, guest) is guest:
            return
        self._count(guest.name, -1)
        if guest.name is None:
            return
        same = self._by_name[guest.name]
        del same[guest]
        if not same:
            del self._by_name[guest.name]


def _spare_one(guests: Iterable[Guest]) -> bool:
    """Close the oldest that never had a request, else the oldest that has none now, else the oldest stalled one.

    So connections that only wait, with half a head or none, or whose clients do not read, keep nobody out.
    """
    spared = (
        next((guest for guest in guests if guest.is_new), None)
        or next((guest for guest in guests if not guest.busy), None)
        or next((guest for guest in guests if guest.stalled), None)
    )
    if spared is not None:
        spared.drop()
    return spared is not None
