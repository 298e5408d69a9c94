"""The base of the engine."""


class SyncFailedError(OSError):
    """A sync failed: the file's content on the medium is unknown."""
