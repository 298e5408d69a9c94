"""The application and its life as a process."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aiohttp import web

from server import systemd
from server.http import api, appkeys, pages, tus
from server.http.admission import Admission
from server.http.body import BodyRate
from server.http.bundle import PageError, read_bundle
from server.http.client_pseudonyms import ClientPseudonyms
from server.http.connection import HardenedServer, quiet_logger
from server.http.door import Door
from server.http.health import Machine, Monitoring
from server.http.listeners import ListenError, limit_unsent, listen_on, listen_on_unix
from server.http.metrics import MachineView
from server.http.middleware import around
from server.lifespan import services
from server.logs import describe, log_what_nobody_caught, write_to
from server.places import shortages, volumes
from server.reloading import Reloader
from server.resources import raise_descriptor_limit, share_processor, too_few_descriptors, tune_memory
from server.services import StartError
from server.settings.config import Config, LimitsSection
from server.tls import certificate_end, renewing_context
from server.workers import Supervisor, Worker

_Stack = contextlib.AsyncExitStack | contextlib.ExitStack
_log = logging.getLogger(__name__)
_MAX_FIELD_BYTES = 32 << 10
_READ_BYTES = 1 << 18
_LINGER_SECONDS = 1.0
_KEEPALIVE_SECONDS = 75.0
_STOP_SECONDS = 10.0
"""For requests; the steps before and after have five more."""
_MONITORING_CONNECTIONS = 64
_SAME_SIGNAL_SECONDS = 1.0
"""`make` and `timeout` pass on to us what our process group got already."""


def create_app(config: Config) -> web.Application:
    """Return the application: routes, the middleware, and what opens its services."""
    app = web.Application(middlewares=[around])
    app[appkeys.CONFIG] = config
    app[appkeys.BODY_RATE] = BodyRate(config.limits.min_body_rate)
    app[appkeys.BUNDLE] = read_bundle(config.page)
    app[appkeys.CLIENT_PSEUDONYMS] = ClientPseudonyms()
    app.cleanup_ctx.append(services)
    app.router.add_route("*", "/files/{tail:.*}", tus.handle, expect_handler=_expect)
    pages.add_routes(app)
    api.add_routes(app)
    return app


async def _expect(_request: web.Request) -> None:
    """Leave `Expect: 100-continue` to the body: our checks come before it."""


class Runner(web.AppRunner):
    """Runs the application on hardened connections."""

    def __init__(self, app: web.Application, config: Config, admission: Admission, hurry: asyncio.Event) -> None:
        """Keep the settings of connections, who counts them, and what is set when they are waited for no longer."""
        super().__init__(app, shutdown_timeout=_STOP_SECONDS)
        self._config, self._admission, self._hurry = config, admission, hurry
        self._hardened: HardenedServer | None = None

    async def accept(self, sockets: Sequence[socket.socket], context: ssl.SSLContext | None) -> None:
        """Let connections in."""
        assert self._hardened is not None  # noqa: S101 - `setup` made it
        for listening in sockets:
            # A unix socket is only for this machine, so it needs no TLS.
            tls = None if listening.family == socket.AF_UNIX else context
            await Door(self, self._hardened, listening, tls).start()

    def limit(self, limits: LimitsSection) -> None:
        """Let these limits hold from now on."""
        assert self._hardened is not None  # noqa: S101 - `setup` made it
        self._hardened.header_timeout_seconds = limits.header_timeout
        connections = raise_descriptor_limit(limits.connections)
        if connections < limits.connections:
            detail = too_few_descriptors(limits.connections)
            _log.warning("limits.connections does not fit", extra={"detail": detail})
        self._admission.limit(connections, limits.connections_per_address)
        self.app[appkeys.BODY_RATE].min_bytes_per_second = limits.min_body_rate
        self.app[appkeys.AUTH].limit(limits.wrong_codes_per_hour)
        self.app[appkeys.API_TOKENS].limit(limits.wrong_codes_per_hour)

    async def _make_server(self) -> web.Server:
        inner = await super()._make_server()
        self._hardened = HardenedServer(
            inner,
            self._admission,
            hurry=self._hurry,
            header_timeout_seconds=self._config.limits.header_timeout,
            reader_timeout_seconds=self._config.tus.body_idle_timeout,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            logger=quiet_logger,
            access_log=None,
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            lingering_time=_LINGER_SECONDS,
            read_bufsize=_READ_BYTES,
            auto_decompress=False,
        )
        return self._hardened


def supervise(config: Config, load: Callable[[], Config], prepare: Callable[[], None]) -> int:
    """Serve by several processes; as `serve`. `prepare` is called in each, before anything else."""

    def work(worker: Worker, status: int | None) -> int:
        prepare()
        if status is not None:
            _log.warning("a worker ended and was replaced", extra={"status": status})
        return serve(_of_worker(config, worker), lambda: _of_worker(load(), worker), worker)

    with contextlib.ExitStack() as stack:
        try:
            public, monitoring = listen(config, stack)
        except (ListenError, StartError) as error:
            return _refuse(error)
        ready = functools.partial(_tell_ready, sys.stdout.fileno(), _url(config))
        return Supervisor(config.server.workers, public, monitoring, work, ready, _has_terminal).run()


def _of_worker(config: Config, worker: Worker) -> Config:
    """Return what one worker is to know: of the wrong codes that all may let pass, it lets its share."""
    wrong = worker.share(config.limits.wrong_codes_per_hour)
    return config.model_copy(update={"limits": config.limits.model_copy(update={"wrong_codes_per_hour": wrong})})


def serve(config: Config, load: Callable[[], Config], worker: Worker | None = None) -> int:
    """Serve until SIGTERM, SIGINT, or its terminal closes; returns the exit code.

    Args:
        config: As it was loaded.
        load: What loads it again, at any other SIGHUP.
        worker: What it has of the others, if it is one of several.
    """
    tune_memory()
    share_processor(os.getpid() if worker is None else os.getppid() + worker.place)
    run: Any = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        run = uvloop.run
    log_what_nobody_caught()
    try:
        run(_serve(config, load, worker))
    except (ListenError, PageError, StartError) as error:
        return _refuse(error)
    return 0


def _refuse(error: Exception) -> int:
    for handler in logging.getLogger().handlers:
        handler.flush()
    print(f"dropoff-tus: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
    return 1


async def _serve(config: Config, load: Callable[[], Config], worker: Worker | None) -> None:
    """Serve until a signal; a second one ends what requests are still being waited for."""
    loop = asyncio.get_running_loop()
    stopping, hurry, reloading = asyncio.Event(), asyncio.Event(), asyncio.Event()
    asked_at = 0.0
    on_terminal = _has_terminal()

    def stop() -> None:
        nonlocal asked_at
        if not stopping.is_set():
            asked_at = loop.time()
            stopping.set()
            starting.cancel()
        elif loop.time() - asked_at > _SAME_SIGNAL_SECONDS:
            hurry.set()

    def hang_up() -> None:
        # A terminal that closes says it by the same signal as an operator who asks for a reload.
        if on_terminal and not _has_terminal():
            stop()
        else:
            reloading.set()

    async with contextlib.AsyncExitStack() as stack:
        starting = loop.create_task(_start(config, stack, hurry, worker))
        for number, react in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hang_up)):
            # `nohup` and a shell's background jobs have some ignored, and mean it.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, functools.partial(_on_loop, loop, react))
                # Last of all: a loop's own handlers would end with it, and a late signal kill what ends well.
                stack.callback(signal.signal, number, signal.SIG_IGN)
        await asyncio.wait([starting])
        if starting.cancelled() and stopping.is_set():
            # The next start takes its work up again.
            return
        runner = starting.result()
        for beside in (Reloader(config, load, runner.limit).whenever(reloading), _tell(config, worker, stop)):
            stack.callback(loop.create_task(beside).cancel)
        systemd.notify("READY=1")
        await stopping.wait()
        systemd.notify("STOPPING=1")


def _tell(config: Config, worker: Worker | None, stop: Callable[[], None]) -> Coroutine[None, None, None]:
    """Say that we are ready; return what goes on saying that we are alive, to whoever watches over us."""
    if worker is not None:
        return worker.show_life(stop)
    # In a thread of its own, since nobody may take it.
    threading.Thread(target=_tell_ready, args=(sys.stdout.fileno(), _url(config)), daemon=True).start()
    return systemd.show_life()


def _on_loop(loop: asyncio.AbstractEventLoop, react: Callable[[], None], *_signal: object) -> None:
    loop.call_soon_threadsafe(react)


def _has_terminal() -> bool:
    """Tell whether a terminal controls this process; none does any more after it was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _tell_ready(descriptor: int, url: str) -> None:
    try:
        write_to(descriptor, f"ready {url}\n")
    except OSError as error:
        _log.warning("`ready` could not be written to stdout", extra={"exception": describe(error)})


async def _start(
    config: Config, stack: contextlib.AsyncExitStack, hurry: asyncio.Event, worker: Worker | None
) -> Runner:
    """Open everything and accept; `stack` closes it."""
    context, limits = _tls(config), config.limits
    # All addresses first: beside a running server nothing may be opened, let alone repaired.
    public, monitoring = listen(config, stack) if worker is None else (worker.public, worker.monitoring)
    raise_descriptor_limit(limits.connections)
    tally = None if worker is None else worker.tally
    admission = Admission(limits.connections, limits.connections_per_address, config.server.trusted_proxies, tally)
    runner = Runner(create_app(config), config, admission, hurry)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    runner.limit(limits)
    if monitoring:
        few = Admission(_MONITORING_CONNECTIONS, 0, ())
        shown = _monitoring(runner.app, admission, worker)
        if worker is not None:
            server = await asyncio.start_unix_server(shown.show_to_sibling, sock=worker.own)
            stack.callback(server.close)
        monitor = Runner(shown.app(), config, few, hurry)
        stack.push_async_callback(monitor.cleanup)
        await monitor.setup()
        await monitor.accept(monitoring, None)
    await runner.accept(public, context)
    return runner


def _tls(config: Config) -> ssl.SSLContext | None:
    server = config.server
    if not server.tls_cert or not server.tls_key:
        return None
    return renewing_context(server.tls_cert, server.tls_key)


def listen(config: Config, stack: _Stack) -> tuple[list[socket.socket], list[socket.socket]]:
    """Bind the public addresses and those for monitoring, but for sockets that systemd gives; `stack` closes them."""
    server, monitoring = config.server, config.monitoring.listen
    given = systemd.given_sockets()
    watched = given.pop("monitoring", [])
    public = [one for sockets in given.values() for one in sockets]
    for listening in public:
        limit_unsent(listening)
    if not public:
        public = listen_on(server.host, server.port, f"server.listen = {server.listen}")
    bound = [stack.enter_context(listening) for listening in public]
    if server.unix_socket and not given:
        name = f"server.unix_socket = {server.unix_socket}"
        bound.append(stack.enter_context(listen_on_unix(server.unix_socket, name)))
    if watched or not monitoring:
        return bound, [stack.enter_context(listening) for listening in watched]
    host, _, port = monitoring.rpartition(":")
    others = listen_on(host.strip("[]"), int(port), f"monitoring.listen = {monitoring}")
    return bound, [stack.enter_context(listening) for listening in others]


def _url(config: Config) -> str:
    server = config.server
    scheme = "https" if server.tls_cert else "http"
    return str(server.public_url or f"{scheme}://{server.listen}").rstrip("/")


def _monitoring(app: web.Application, admission: Admission, worker: Worker | None) -> Monitoring:
    config = app[appkeys.CONFIG]

    def view() -> MachineView:
        end = certificate_end(config.server.tls_cert) if config.server.tls_cert else None
        return MachineView(volumes(config), config.store.free_space_floor, end)

    machine = Machine(functools.partial(shortages, config), view, lambda: (len(admission.guests), admission.most))
    return Monitoring(
        app[appkeys.METRICS],
        app[appkeys.CATALOG],
        app[appkeys.OUTBOX],
        app[appkeys.UPLOADS],
        machine,
        None if worker is None else worker.read_siblings,
    )
