"""Several processes that serve together on the same sockets, and the one that watches over them.

The first worker gets ready before the others begin, so a start that fails says so once. A worker that ends, or shows no
life, is replaced; signals are passed on. What workers share was made before they were: the sockets, a row of counters
each, and a socket by which they read each other's metrics. All else they share as servers on one store do.
"""

import asyncio
import contextlib
import logging
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType
from zlib import crc32

from server import systemd

_log = logging.getLogger(__name__)
_ALIVE_EVERY_SECONDS = 1.0
_DEAD_AFTER_SECONDS = 30.0
"""A worker whose event loop stands still for so long is killed; a disk that hangs holds no event loop."""
_PAUSES_SECONDS = (0.0, 0.2, 1.0, 5.0)
"""Before a worker is replaced that ended soon after its start, each time more."""
_SOON_SECONDS = 10.0
_SIBLING_SECONDS = 2.0
_SLOTS = 1 << 14
_SLOT_BYTES = 4


class Tally:
    """Counts of names, added up over all workers. A name shares its counter with a few others at most.

    Each worker writes its own row only, so there is no lock; the row of one that died is emptied.
    """

    def __init__(self, rows: Sequence[memoryview], own: int) -> None:
        """Take every worker's row, and the place of one's own."""
        self._own = rows[own]
        self._others = [row for index, row in enumerate(rows) if index != own]

    def add(self, name: str, by: int) -> None:
        """Count here."""
        self._own[crc32(name.encode()) % _SLOTS] += by

    def elsewhere(self, name: str) -> int:
        """Return how many the other workers have."""
        slot = crc32(name.encode()) % _SLOTS
        return sum(row[slot] for row in self._others)

    def clear(self) -> None:
        """Forget what the worker before had."""
        self._own[:] = memoryview(bytes(_SLOTS * _SLOT_BYTES)).cast("I")


@dataclass(frozen=True, slots=True)
class Worker:
    """What one worker has of the others."""

    place: int
    count: int
    public: Sequence[socket.socket]
    monitoring: Sequence[socket.socket]
    tally: Tally
    siblings: Sequence[str]
    """Where the others show their metrics."""
    own: socket.socket
    """Where this one shows them."""
    life: int
    """The end of a pipe, for signs of life."""

    def share(self, limit: int) -> int:
        """Return this worker's part of a limit that is meant for all of them together; 0 is no limit."""
        return -(-limit // self.count)

    async def show_life(self, gone: Callable[[], None]) -> None:
        """Say again and again that the event loop turns; call `gone` when nobody is there to hear it."""
        while True:
            try:
                os.write(self.life, b".")
            except BlockingIOError:
                pass  # it has not read for hours, but it is there
            except OSError:
                gone()
                return
            await asyncio.sleep(_ALIVE_EVERY_SECONDS)

    async def read_siblings(self) -> list[str]:
        """Return the metrics of the others that answer."""
        found = await asyncio.gather(*map(_read, self.siblings), return_exceptions=True)
        return [text for text in found if isinstance(text, str)]


async def _read(place: str) -> str:
    async with asyncio.timeout(_SIBLING_SECONDS):
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(asking, place)
            reader, writer = await asyncio.open_unix_connection(sock=asking)
        except BaseException:
            asking.close()
            raise
        try:
            return (await reader.read(-1)).decode()
        finally:
            writer.close()


@dataclass(eq=False)
class _Child:
    """A worker as its supervisor sees it."""

    pid: int
    life: int
    began: float
    heard: float
    ready: bool = False


@dataclass(eq=False)
class Supervisor:
    """Begins workers, and replaces them until it is told to stop."""

    count: int
    public: Sequence[socket.socket]
    monitoring: Sequence[socket.socket]
    serve: Callable[[Worker, int | None], int]
    """Runs in each worker, and returns its exit code; with the status of the one whose place it takes."""
    ready: Callable[[], None]
    """Called once, when all are ready."""
    has_terminal: Callable[[], bool]
    _rows: list[memoryview] = field(init=False)
    _shown: list[socket.socket] = field(init=False)
    _children: dict[int, _Child] = field(default_factory=dict)
    _ended: dict[int, tuple[float, int]] = field(default_factory=dict)
    """By place: when its worker may be replaced, and the status of the last one."""
    _failures: dict[int, int] = field(default_factory=dict)
    _all_ready: bool = False
    _stopping: bool = False
    _code: int = 0

    def __post_init__(self) -> None:
        """Make what the workers share."""
        table = memoryview(mmap.mmap(-1, self.count * _SLOTS * _SLOT_BYTES)).cast("I")
        self._rows = [table[index * _SLOTS : (index + 1) * _SLOTS] for index in range(self.count)]
        self._shown = []
        for _ in range(self.count):
            shown = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            shown.bind("")  # the kernel draws a name, which goes with the last process that has the socket
            shown.listen()
            self._shown.append(shown)

    def run(self) -> int:
        """Serve until a signal; return the exit code."""
        woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        on_terminal = self.has_terminal()

        def stop(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP and not (on_terminal and not self.has_terminal()):
                systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
                self._signal(signal.SIGHUP)
                systemd.notify("READY=1")
                return
            if not self._stopping:
                systemd.notify("STOPPING=1")
            self._stopping = True
            self._signal(signal.SIGTERM)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._begin(0, None)
        while self._children or not self._stopping:
            self._replace()
            ends = {child.life: child for child in self._children.values()}
            for descriptor in select.select([woken, *ends], [], [], _ALIVE_EVERY_SECONDS)[0]:
                self._hear(descriptor, ends.get(descriptor))
            self._reap()
            self._look()
        return self._code

    def _begin(self, place: int, status: int | None) -> None:
        """Fork a worker, unless all are to stop."""
        # Without signals in between: one would come to a worker that still has the supervisor's handlers, or be
        # passed on to all but a worker that nobody knows of yet.
        signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
        if not self._stopping:
            heard, life = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            pid = os.fork()
            if not pid:
                os.close(heard)  # else nobody would notice that the supervisor is gone
                self._be(place, life, status)
            os.close(life)
            now = time.monotonic()
            self._children[place] = _Child(pid, heard, now, now)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)

    def _be(self, place: int, life: int, status: int | None) -> None:
        """Be a worker, to the end."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
            for child in self._children.values():
                os.close(child.life)
            os.environ.pop("NOTIFY_SOCKET", None)
            tally = Tally(self._rows, place)
            tally.clear()
            names = [shown.getsockname() for index, shown in enumerate(self._shown) if index != place]
            siblings = [name.decode() if isinstance(name, bytes) else name for name in names]
            shared = Worker(place, self.count, self.public, self.monitoring, tally, siblings, self._shown[place], life)
            code = self.serve(shared, status)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            logging.shutdown()
            with contextlib.suppress(OSError):
                sys.stderr.flush()
            os._exit(code)

    def _hear(self, descriptor: int, child: _Child | None) -> None:
        with contextlib.suppress(OSError):
            if os.read(descriptor, 512) and child is not None:
                child.heard, child.ready = time.monotonic(), True

    def _reap(self) -> None:
        """Take the ends of those that ended."""
        for place, child in list(self._children.items()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            os.close(child.life)
            del self._children[place]
            code = os.waitstatus_to_exitcode(status)
            if self._stopping:
                self._code = self._code or (0 if code == -signal.SIGTERM else max(code, 0))
            elif not self._all_ready and not child.ready:
                # It has said why.
                self._code, self._stopping = code if code > 0 else 1, True
                self._signal(signal.SIGTERM)
            else:
                now = time.monotonic()
                failures = self._failures.get(place, 0) + 1 if now - child.began < _SOON_SECONDS else 0
                self._failures[place] = failures
                self._ended[place] = now + _PAUSES_SECONDS[min(failures, len(_PAUSES_SECONDS) - 1)], code

    def _replace(self) -> None:
        """Begin those that are missing; at the start one after the first is ready."""
        if self._stopping:
            return
        now = time.monotonic()
        for place, (when, status) in list(self._ended.items()):
            if when <= now:
                del self._ended[place]
                self._begin(place, status)
        if 0 in self._children and self._children[0].ready and not self._all_ready:
            for place in range(self.count):
                if place not in self._children and place not in self._ended:
                    self._begin(place, None)

    def _look(self) -> None:
        """Tell when all are ready, and end those that show no life."""
        now, children = time.monotonic(), self._children.values()
        if not self._all_ready and len(children) == self.count and all(child.ready for child in children):
            self._all_ready = True
            self.ready()
            systemd.notify("READY=1")
        silent = [child for child in children if child.ready and now - child.heard > _DEAD_AFTER_SECONDS]
        for child in silent:
            os.kill(child.pid, signal.SIGKILL)
        if self._all_ready and not silent:
            systemd.notify("WATCHDOG=1")

    def _signal(self, number: signal.Signals) -> None:
        for child in self._children.values():
            # One that begins reads the present configuration anyway, and would die of it.
            if number == signal.SIGHUP and not child.ready:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)


_PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})
