"""What the engine stands on."""


class SyncFailedError(OSError):
    """A sync failed: what the file holds on the medium is unknown."""
