"""A pipe that nobody reads, full from the start, so that whoever writes to it waits."""

import contextlib
import fcntl
import os
from collections.abc import Iterator


@contextlib.contextmanager
def unread_pipe(*, full: bool = True) -> Iterator[tuple[int, int]]:
    """Yield both ends, to read and to write; a child that is to write gets the second."""
    read, write = os.pipe()
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        if full:
            os.set_blocking(write, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(write, bytes(4096))
            os.set_blocking(write, True)
        yield read, write
    finally:
        os.close(read)
        os.close(write)
