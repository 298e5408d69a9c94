"""System calls that change files as the store's own do, but wait for no disk.

What a killed process leaves does not depend on syncs; what a power cut leaves does, and `power_cut` replays that.
"""

from storage.files.durable import Calls


class UnsyncedCalls(Calls):
    """Takes the place of `storage.files.durable.calls` in tests that cut no power."""

    def fdatasync(self, descriptor: int) -> None:
        """Do nothing."""

    def fsync(self, descriptor: int) -> None:
        """Do nothing."""
