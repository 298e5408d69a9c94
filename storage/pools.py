"""The store's threads: few that receive and seal, as many as there are cores, and more that wait for the disk."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
_DISK_THREADS = 16


class Pools:
    """Runs blocking work beside the event loop."""

    def __init__(self) -> None:
        """Make the pools; threads start when there is work."""
        self._sealers = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="seal")
        self._workers = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="disk")

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Run file work."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)

    async def run_sealing(self, work: Callable[..., T], *arguments: object) -> T:
        """Run the receiving and sealing of a body."""
        return await asyncio.get_running_loop().run_in_executor(self._sealers, work, *arguments)

    def close(self) -> None:
        """Let the threads end what they do, and go."""
        self._sealers.shutdown(wait=True)
        self._workers.shutdown(wait=True)
