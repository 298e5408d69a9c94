"""System calls that change files as the store's own do, but wait for no disk.

A killed process leaves the same with and without syncs; a power cut does not, and `power_cut` replays that.
"""

from storage.files.durable import Calls


class UnsyncedCalls(Calls):
    """Takes the place of `storage.files.durable.calls` in tests that cut no power."""

    def fdatasync(self, descriptor: int) -> None:
        """Do nothing."""

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""
