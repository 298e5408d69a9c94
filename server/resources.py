"""The process's share of the system: descriptors, which are raised and kept in reserve, memory and processors."""

import contextlib
import ctypes
import gc
import os
import resource
import threading

_MOST_DESCRIPTORS = 1 << 16
_OF_A_CONNECTION = 4
"""A body that stalls holds its connection, its socket once more for the worker, its data and its log."""
_RESERVE = 256
"""For what is in no limit: the catalog, deliveries, the disk's threads, monitoring, receipts and keys."""
_GC_ALLOCATIONS = 50_000


def raise_descriptor_limit(connections: int) -> int:
    """Let the process open as many files as it needs and may; return how many connections fit then.

    Args:
        connections: As many as are configured; 0: any number.
    """
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _needed(connections), _MOST_DESCRIPTORS)
    limit = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
        soft = limit
    return min(connections or soft, _fitting(soft))


def too_few_descriptors(connections: int, most: int | None = None) -> str | None:
    """Say that so many connections do not fit into what the system lets a process open; None if they do.

    Args:
        connections: As many as are configured.
        most: What it lets the server open; None: what it lets this process open.
    """
    if most is None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most == resource.RLIM_INFINITY or _needed(connections) <= most:
        return None
    return (
        f"{connections} connections need {_needed(connections)} descriptors, and the system lets a process have {most} "
        f"here, so {_fitting(most)} are let in; raise it (LimitNOFILE= of a systemd unit, `ulimit -Hn`), or lower this"
    )


def _needed(connections: int) -> int:
    return connections * _OF_A_CONNECTION + _RESERVE


def _fitting(descriptors: int) -> int:
    """Return how many connections let all that they ask for find its descriptors."""
    return max(1, (descriptors - min(_RESERVE, descriptors // 2)) // _OF_A_CONNECTION)


def tune_memory() -> None:
    """Spare what a server with many short requests pays for memory; see docs/develop/performance.md.

    One large block freed at start raises glibc's mmap threshold, so that body buffers are not mapped again each time.
    Everything imported so far lives as long as the process, so the garbage collector need not walk through it; and it
    looks for cycles, of which requests leave few, less often.
    """
    block = bytearray((32 << 20) - 65536)
    del block
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 20)


def share_processor(place: int) -> None:
    """Keep this process's threads on one processor, but for those that seal, digest and read (`storage.threads`).

    They share one interpreter, so no two of them run at a time. On several processors each system call of one wakes
    another elsewhere, and then waits for it: docs/adr/0024-one-processor-for-the-interpreter.md.

    Args:
        place: Processes with consecutive numbers take different processors.
    """
    with contextlib.suppress(AttributeError, OSError):  # not on every system, and some sandboxes forbid it
        allowed = sorted(os.sched_getaffinity(0))
        home = allowed[place % len(allowed)]
        # The calling thread by 0: after a fork Python has still its parent's number for it.
        others = [each.native_id for each in threading.enumerate() if each is not threading.current_thread()]
        for thread in (0, *others):
            os.sched_setaffinity(thread or 0, {home})


def give_memory_back() -> None:
    """Give the system what a busy time took: cycles are broken, and glibc, which keeps what is free, lets go of it."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
