"""Can a stranger tell by the clock whether a drop-off exists? Times refusals of the real server and compares them.

    python -m tests.bench.codes [--count 3000] [--catalog sqlite]

Unknown drop-offs, wrong codes and missing ones, in a random order on one connection. For each pair: the share of
comparisons that the first one loses by being slower, 0.5 if nobody can tell, and the deviation that chance makes.
"""

import argparse
import bisect
import contextlib
import itertools
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.support.postgres import PostgresServer
from tests.support.server_process import ServerProcess
from tests.support.tus_raw import TusSite

_WRONG = "WR0N-GC0D-EMRK-7Q2Z"


def _times(server: ServerProcess, count: int) -> dict[str, list[float]]:
    """Return how many milliseconds each refusal took, by its kind."""
    known = server.drop.upload_url
    # The same one each time, as the other is: paths that came before are parsed faster.
    unknown = f"{known.rstrip('/').rpartition('/')[0]}/{uuid.uuid4()}/"
    kinds: dict[str, tuple[str, str | None]] = {
        "wrong code": (known, _WRONG),
        "no code": (known, None),
        "unknown drop-off": (unknown, _WRONG),
        "unknown, no code": (unknown, None),
    }
    order = [name for name in kinds for _ in range(count)]
    random.shuffle(order)
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    with TusSite(known, None).connect() as connection:
        for number, name in enumerate(order):
            url, code = kinds[name]
            site = TusSite(url, code)
            message = site.message("POST", site.upload_url, site.post_headers({"Upload-Length": "5"}))
            began = time.perf_counter()
            connection.send(message)
            answer = connection.read_response()
            seconds = time.perf_counter() - began
            assert answer.status == 403, answer
            if number >= len(order) // 20:  # the first ones warm up
                taken[name].append(seconds * 1000)
    return taken


def _slower(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the share of pairs in which the first one took longer; of equals, half."""
    ordered = sorted(second)
    found = sum(bisect.bisect_left(ordered, one) + bisect.bisect_right(ordered, one) for one in first)
    return found / 2 / len(first) / len(second)


def _show(taken: dict[str, list[float]]) -> None:
    for name, values in taken.items():
        cuts = statistics.quantiles(values, n=100)
        told = ", ".join(f"{percent} %: {cuts[percent - 1]:.3f}" for percent in (5, 25, 50, 75, 95))
        print(f"  {name:18} {len(values)} refusals, ms: {told}")
    for first, second in itertools.combinations(taken, 2):
        share = _slower(taken[first], taken[second])
        chance = 1.96 * ((1 / len(taken[first]) + 1 / len(taken[second])) / 12) ** 0.5
        print(f"  {first} slower than {second}: {share:.3f} of the pairs (chance: 0.5 ± {chance:.3f})")


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.codes", description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="refusals of each kind (3000)")
    parser.add_argument("--catalog", default="sqlite", help="sqlite, postgresql, or both with a comma (sqlite)")
    given = parser.parse_args()
    for kind in given.catalog.split(","):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="codes-")))
            options: list[str] = []
            if kind == "postgresql":
                database = stack.enter_context(PostgresServer())
                database.sql("CREATE DATABASE bench")
                options = ["--catalog-url", database.url("bench")]
            settings = {"LIMITS__WRONG_CODES_PER_HOUR": "0"}
            server = stack.enter_context(
                ServerProcess(folder, environment=settings, init_options=options, forked=False)
            )
            print(kind)
            _show(_times(server, given.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
