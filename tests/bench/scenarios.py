"""The scenarios: each is one function that runs one round against one contestant."""

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import many, processes
from tests.bench.contestants import Contestant, Product
from tests.bench.figures import Round, write_size

CHUNK_BYTES = 5 << 20
_SETTLE_SECONDS = 0.2
_STALLED_CONNECTIONS = 256
_STALLED_BYTES = 4 << 20
_STALLED_SECONDS = 20
_RANGE_BYTES = 1 << 20
_LONG_MARKS = 20
_FEW = 4
_BULK_BYTES = 64 << 20
_NO_LIMIT = 1 << 30


class RefusedError(Exception):
    """A contestant does not do what a scenario asks; the text is what the client said."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is sent."""

    bulk_bytes: int
    small_seconds: float
    long_bytes: int
    many_uploads: int


@dataclass(slots=True)
class Bench:
    """The setting of a round besides the contestant."""

    client: Path
    sizes: Sizes
    notes: list[str] = field(default_factory=list)


Run = Callable[[Bench, Contestant], Round]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario: its name, its work, the unit of its speed."""

    name: str
    what: str
    run: Run
    bulk: bool
    settings: Mapping[str, str] = field(default_factory=dict)
    contestants: tuple[str, ...] = ()
    """Kinds that can take part; empty means all."""
    rounds: int | None = None
    """How many rounds at most, where one is long."""


# ---- the client ----------------------------------------------------------------------------------------------


def _arguments(bench: Bench, contestant: Contestant, mode: str, values: Mapping[str, object]) -> list[str]:
    given = {"port": contestant.port, "path": contestant.path, "code": contestant.code, **values}
    return [str(bench.client), mode, *(f"{key}={value}" for key, value in given.items())]


def _result(process: "subprocess.Popen[str]") -> dict[str, float]:
    out, err = process.communicate()
    if process.returncode:
        raise RefusedError(err.strip()[:600])
    result: dict[str, float] = json.loads(out.splitlines()[-1])
    return result


def _start(bench: Bench, contestant: Contestant, mode: str, **values: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        _arguments(bench, contestant, mode, values),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _measured(contestant: Contestant, work: Callable[[], dict[str, float]]) -> Round:
    """Run the client and bill the server for what it used meanwhile, and just after."""
    processes.forget_peak(contestant.pids)
    before = processes.cpu(contestant.working_pids)
    result = work()
    time.sleep(_SETTLE_SECONDS)
    used = processes.cpu(contestant.working_pids) - before
    peak, end = processes.memory(contestant.pids)
    return Round(
        wall_seconds=result["wall"],
        requests=int(result["requests"]),
        sent_bytes=int(result["bytes"]),
        user_seconds=used.user_seconds,
        system_seconds=used.system_seconds,
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        peak_rss_bytes=int(result.get("peak", peak)),
        end_rss_bytes=int(result.get("rss", end)),
    )


def _upload(bench: Bench, contestant: Contestant, **values: object) -> Round:
    return _measured(contestant, lambda: _result(_start(bench, contestant, "upload", **values)))


# ---- uploads -------------------------------------------------------------------------------------------------


def _bulk(uploads: int, chunk_bytes: int = 0) -> Run:
    def run(bench: Bench, contestant: Contestant) -> Round:
        each = bench.sizes.bulk_bytes // uploads
        return _upload(bench, contestant, connections=uploads, uploads=uploads, bytes=each, chunk=chunk_bytes)

    return run


def _small(size_bytes: int, connections: int) -> Run:
    def run(bench: Bench, contestant: Contestant) -> Round:
        return _upload(
            bench,
            contestant,
            connections=connections,
            uploads=_NO_LIMIT,
            seconds=bench.sizes.small_seconds,
            bytes=size_bytes,
        )

    return run


def _beside(bench: Bench, contestant: Contestant) -> Round:
    """Send small uploads while four large ones are sent, one after another each; the figures are the small ones'."""
    contestant.empty()
    seconds = bench.sizes.small_seconds
    small = {"connections": _FEW, "uploads": _NO_LIMIT, "seconds": seconds, "bytes": 1 << 10}

    def work() -> dict[str, float]:
        bulk = _start(
            bench, contestant, "upload", connections=4, uploads=_NO_LIMIT, seconds=seconds + 1, bytes=_BULK_BYTES
        )
        time.sleep(_SETTLE_SECONDS)
        sent = _result(_start(bench, contestant, "upload", **small))
        large = _result(bulk)
        speed = large["bytes"] / (1 << 30) / large["wall"]
        bench.notes.append(f"{contestant.name}: {speed:.2f} GiB/s of large uploads meanwhile")
        return sent

    return _measured(contestant, work)


def _many(bench: Bench, contestant: Contestant) -> Round:
    """Fill a store, and run on it what an operator runs; that is in the notes."""
    assert isinstance(contestant, Product)
    count = bench.sizes.many_uploads
    filled = many.Filled(contestant)
    values = {"connections": many.CONNECTIONS, "uploads": count, "bytes": many.UPLOAD_BYTES}
    found = _upload(bench, contestant, **values)
    said = [filled.told(count), *many.commands(contestant, count), many.start(contestant), many.pages(contestant)]
    bench.notes += [f"{contestant.name}: {line}" for line in said]
    return found


def _head(bench: Bench, contestant: Contestant) -> Round:
    """HEAD one upload every 10 ms while eight others are sent; the latency is that of HEAD."""
    each = bench.sizes.bulk_bytes // 8

    def work() -> dict[str, float]:
        probe = _start(bench, contestant, "probe", pause_us=10000)
        sent = _result(_start(bench, contestant, "upload", connections=8, uploads=8, bytes=each))
        probed = _result(probe)
        return {**sent, "requests": probed["requests"], "p50_ms": probed["p50_ms"], "p99_ms": probed["p99_ms"]}

    return _measured(contestant, work)


def _stalled(bench: Bench, contestant: Contestant) -> Round:
    """Hold many uploads half sent: the peak is of the moment when all stand still, the end of some time later."""

    def work() -> dict[str, float]:
        count = _STALLED_CONNECTIONS
        client = _start(bench, contestant, "upload", connections=count, uploads=count, bytes=_STALLED_BYTES, stall=1)
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(1)
        peak, _ = processes.memory(contestant.pids)
        time.sleep(_STALLED_SECONDS)  # a server may give back by then what only the beginning took
        _, now = processes.memory(contestant.pids)
        return {**_result(client), "peak": peak, "rss": now}

    return _measured(contestant, work)


def _long(bench: Bench, contestant: Contestant) -> Round:
    """Send one very long upload; says how speed and memory went along it."""

    def work() -> dict[str, float]:
        size = bench.sizes.long_bytes
        client = _start(bench, contestant, "upload", bytes=size, progress=_LONG_MARKS)
        assert client.stdout is not None
        marks, last = [(0, 0.0, processes.memory(contestant.pids)[1])], ""
        for line in client.stdout:
            last = line
            if line.startswith("progress "):
                _, sent, seconds = line.split()
                marks.append((int(sent), float(seconds), processes.memory(contestant.pids)[1]))
        _, err = client.communicate()
        if client.returncode:
            raise RefusedError(err.strip()[:600])
        speeds = [
            (sent - before) / (1 << 30) / max(seconds - earlier, 1e-9)
            for (before, earlier, _), (sent, seconds, _) in itertools.pairwise(marks)
        ]
        resident = ", ".join(f"{rss >> 20}" for _, _, rss in marks)
        bench.notes.append(
            f"{contestant.name}: GiB/s along the upload {', '.join(f'{speed:.2f}' for speed in speeds)}; "
            f"resident MiB {resident}"
        )
        result: dict[str, float] = json.loads(last)
        return result

    return _measured(contestant, work)


# ---- reading back --------------------------------------------------------------------------------------------


def _one_upload(bench: Bench, contestant: Contestant) -> str:
    result = _result(_start(bench, contestant, "upload", bytes=bench.sizes.bulk_bytes))
    return str(result["location"])


def _export(bench: Bench, contestant: Contestant) -> Round:
    """Run `upload export` of one upload into nothing; its own processor time counts, and its start."""
    assert isinstance(contestant, Product)
    command = contestant.export_command(_one_upload(bench, contestant))
    try:
        took = processes.run(command, contestant.environment())
    except processes.FailedError as error:
        raise RefusedError(str(error)) from None
    return Round(
        wall_seconds=took.wall_seconds,
        requests=1,
        sent_bytes=bench.sizes.bulk_bytes,
        user_seconds=took.cpu.user_seconds,
        system_seconds=took.cpu.system_seconds,
        p50_ms=took.wall_seconds * 1000,
        p99_ms=took.wall_seconds * 1000,
        peak_rss_bytes=took.peak_rss_bytes,
        end_rss_bytes=took.peak_rss_bytes,
    )


def _get(range_bytes: int, connections: int, requests: int) -> Run:
    def run(bench: Bench, contestant: Contestant) -> Round:
        location = _one_upload(bench, contestant)
        values = {
            "path": location,
            "total": bench.sizes.bulk_bytes,
            "bytes": range_bytes,
            "connections": connections,
            "uploads": requests,
        }
        return _measured(contestant, lambda: _result(_start(bench, contestant, "get", **values)))

    return run


# ---- the list ------------------------------------------------------------------------------------------------

_DOWNLOAD = {"TUS__DOWNLOAD": "true"}
_MANY = {"LIMITS__CONNECTIONS_PER_ADDRESS": "1024"}
_READABLE = ("product", "base", "tusd", "tusjs")

_ALL = (
    *(
        Scenario(f"bulk{count}", f"{count} uploads at once, each in one PATCH", _bulk(count), bulk=True)
        for count in (1, 8, 64)
    ),
    *(
        Scenario(
            f"chunked{count}",
            f"{count} uploads at once, in PATCHes of {write_size(CHUNK_BYTES)}",
            _bulk(count, CHUNK_BYTES),
            bulk=True,
        )
        for count in (1, 8, 64)
    ),
    Scenario("small1k", "create + PATCH of 1 KiB on 16 keep-alive connections", _small(1 << 10, 16), bulk=False),
    Scenario("small100k", "create + PATCH of 100 KiB on 16 keep-alive connections", _small(100 << 10, 16), bulk=False),
    Scenario("serial1k", "create + PATCH of 1 KiB on one connection", _small(1 << 10, 1), bulk=False),
    Scenario(
        "beside",
        f"create + PATCH of 1 KiB on {_FEW} connections, beside 4 with uploads of {write_size(_BULK_BYTES)}",
        _beside,
        bulk=False,
    ),
    Scenario("head", "HEAD every 10 ms while 8 uploads are sent; latencies are HEAD's", _head, bulk=True),
    Scenario(
        "export", "`upload export` of one upload into /dev/null", _export, bulk=True, contestants=("product", "base")
    ),
    Scenario("get", "GET of one upload, whole", _get(0, 1, 1), bulk=True, settings=_DOWNLOAD, contestants=_READABLE),
    Scenario(
        "range",
        f"GET of 256 ranges of {write_size(_RANGE_BYTES)}, one after another",
        _get(_RANGE_BYTES, 1, 256),
        bulk=True,
        settings=_DOWNLOAD,
        contestants=_READABLE,
    ),
    Scenario(
        "memory",
        f"{_STALLED_CONNECTIONS} uploads of {write_size(_STALLED_BYTES)} half sent and stalled; peak is of then, "
        f"the end of {_STALLED_SECONDS} s later",
        _stalled,
        bulk=True,
        settings=_MANY,
    ),
    Scenario("long", "one very long upload", _long, bulk=True, rounds=1),
    Scenario(
        "many",
        f"very many uploads of {write_size(many.UPLOAD_BYTES)}, then an operator's commands, each once",
        _many,
        bulk=False,
        contestants=("product", "base"),
        rounds=1,
    ),
)
_ASKED_FOR = ("long", "many")
"""Scenarios that take long."""
SCENARIOS = {scenario.name: scenario for scenario in _ALL}
GROUPS = {
    "bulk": ("bulk1", "bulk8", "bulk64"),
    "chunked": ("chunked1", "chunked8", "chunked64"),
    "small": ("small1k", "small100k", "serial1k"),
    "read": ("export", "get", "range"),
    "all": tuple(name for name in SCENARIOS if name not in _ASKED_FOR),
}


def chosen(names: list[str]) -> list[Scenario]:
    """Return scenarios by their names and those of groups, each once.

    Raises:
        ValueError: There is no such name.
    """
    found: dict[str, Scenario] = {}
    for name in names:
        for one in GROUPS.get(name, (name,)):
            if one not in SCENARIOS:
                raise ValueError(f"there is no scenario {one}; there are {', '.join((*GROUPS, *SCENARIOS))}")
            found[one] = SCENARIOS[one]
    return list(found.values())
