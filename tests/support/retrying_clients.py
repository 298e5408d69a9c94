"""Clients under which a server is restarted, or backed up."""

import contextlib
import hashlib
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from tests.support.tus_raw import ConnectionCutError, TusSite

_WAIT = frozenset({409, 423, 503})
"""Answers after which a client asks where it stands, and goes on."""


class Clients(ABC):
    """Clients that upload without a pause; `done` has the content of each finished upload, by URL."""

    def __init__(self, count: int) -> None:
        """Take how many there are."""
        self._count, self._stop = count, threading.Event()
        self.done: dict[str, bytes] = {}
        self.failures: list[str] = []

    @abstractmethod
    def _work(self, number: int) -> None:
        """Be one of them, until `_stop` is set."""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Upload all the time."""
        self._stop.clear()
        threads = [threading.Thread(target=self._work, args=(number,)) for number in range(self._count)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def wait_for_more(self, count: int) -> None:
        """Wait until so many more uploads are finished."""
        target, deadline = len(self.done) + count, time.monotonic() + 60
        while len(self.done) < target and not self.failures:
            assert time.monotonic() < deadline
            time.sleep(0.01)


class RetryingClients(Clients):
    """They retry as tus-js-client does; any other answer is a failure."""

    def __init__(self, site: TusSite) -> None:
        """Know where to upload to."""
        super().__init__(4)
        self._site = site

    def _work(self, number: int) -> None:
        for turn in itertools.count():
            if self._stop.is_set() or self.failures:
                return
            content = hashlib.shake_128(f"{number} {turn}".encode()).digest(40_000)
            try:
                self.done[self._upload(content)] = content
            except AssertionError as error:
                self.failures.append(str(error))

    def _upload(self, content: bytes) -> str:
        url, offset = "", 0
        while offset < len(content):
            time.sleep(0.1)
            # A connection that was open may end with the old server; a new one is never refused.
            with contextlib.suppress(ConnectionCutError, TimeoutError, ConnectionResetError):
                if not url:
                    answer = self._site.post({"Upload-Length": str(len(content))})
                    assert answer.status in {201, *_WAIT}, answer
                    url = answer.needed("Location") if answer.status == 201 else ""
                    continue
                answer = self._site.patch(url, offset, content[offset : offset + 10_000])
                assert answer.status in {204, *_WAIT}, answer
                answer = self._site.head(url)
                assert answer.status in {200, *_WAIT}, answer
                offset = answer.offset if answer.status == 200 else offset
        return url
