"""Actors for the audit: clients by a keyed hash of their address.

The key is random, lives only in memory and is discarded after a day: rows of one day and one process can be matched by
address, but nobody can recover the address later, not even by trying all there are.
"""

import hmac
import os
from datetime import date

from dropoff_tus.audit import Actor

_KEY_BYTES = 32
_HEX_DIGITS = 32
_REMEMBERED = 4096
_UNKNOWN = Actor("client")


class ClientPseudonyms:
    """Hashes addresses under the key of the day."""

    def __init__(self) -> None:
        """Begin without a key: the first day brings one."""
        self._day: date | None = None
        self._key = b""
        self._actors: dict[str, Actor] = {}

    def client(self, address: str | None, today: date) -> Actor:
        """Return the actor for a client's address, None where it is not known."""
        if today != self._day:
            self._day, self._key, self._actors = today, os.urandom(_KEY_BYTES), {}
        if address is None:
            return _UNKNOWN
        found = self._actors.get(address)
        if found is None:
            if len(self._actors) >= _REMEMBERED:
                self._actors.clear()
            told = hmac.digest(self._key, address.encode(), "sha256").hex()[:_HEX_DIGITS]
            found = self._actors[address] = Actor("client", told)
        return found
