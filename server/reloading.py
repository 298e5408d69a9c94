"""A change of configuration without a restart: at SIGHUP the log and the limits become those of the file.

Certificates come by themselves (`server.tls`); here they are only looked at, so that the operator hears of a wrong one.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from server import logs, systemd
from server.services import StartError
from server.settings.config import NAMES, Config, ConfigError, LimitsSection
from server.tls import read_certificate

_log = logging.getLogger(__name__)
_TAKEN = frozenset({"limits", "log"})


class Reloader:
    """Reads the configuration again; a wrong one changes nothing."""

    def __init__(self, config: Config, load: Callable[[], Config], limit: Callable[[LimitsSection], None]) -> None:
        """Take the configuration that holds, what reads it again, and what applies limits."""
        self._started_with, self._load, self._limit = config, load, limit

    async def whenever(self, asked: asyncio.Event) -> None:
        """Reload each time that it is asked for."""
        while True:
            await asked.wait()
            asked.clear()
            systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                await self.reload()
            except Exception:  # noqa: BLE001 - a server that cannot be reloaded serves on
                _log.exception("the reload failed")
            systemd.notify("READY=1")

    async def reload(self) -> None:
        """Read the configuration, and take what can change."""
        try:
            config = await asyncio.to_thread(self._read)
        except (ConfigError, StartError) as error:
            _log.error(
                "the configuration is wrong and was not reloaded; the old one holds", extra={"problem": str(error)}
            )
            return
        self._limit(config.limits)
        # Whoever reloads wants to see it, whatever the level.
        logs.change(config.log.format, "info")
        _log.info(
            "the configuration was reloaded", extra={"needs_a_restart": _other_changes(self._started_with, config)}
        )
        logs.change(config.log.format, config.log.level)

    def _read(self) -> Config:
        config = self._load()
        server = self._started_with.server
        if server.tls_cert and server.tls_key:
            read_certificate(server.tls_cert, server.tls_key)
        return config


def _other_changes(before: Config, after: Config) -> list[str]:
    """Name the settings that differ and hold only from a restart on."""
    return [
        f"{section}.{key}"
        for section, keys in NAMES.items()
        for key in keys
        if section not in _TAKEN and getattr(getattr(before, section), key) != getattr(getattr(after, section), key)
    ]
