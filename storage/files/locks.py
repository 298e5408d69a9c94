"""Every kernel lock of the store. One is held on an open file or folder, until it is closed or the process dies.

| on | who holds it |
|---|---|
| an upload's `log` | alone: whoever may write the upload |
| an upload's folder | alone: whoever makes a concatenation, whose id is not random |
| the folder of all uploads | alone: whoever decides whether to make a concatenation |
| the folder of wrapped keys | shared: each server that runs |
| `store.dir` | shared: whoever uses the server's keys; alone: a rotation of the signing key |
| the journal of re-wrapped envelopes | alone: a rotation of the roots |
| the folder of the last checkpoint | alone: whoever signs the audit |
| the catalog's folder | alone: a migration |
"""

import fcntl
import os
from pathlib import Path


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take a lock if nobody is in the way; tell whether it was taken."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int, *, shared: bool = False) -> None:
    """Wait for a lock that others have for a moment only."""
    fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


def open_folder(folder: Path) -> int:
    """Open a folder to lock it. Returns a descriptor for the caller to close."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
