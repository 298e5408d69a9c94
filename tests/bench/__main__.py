"""`python -m tests.bench`: race this product against tusd and @tus/server on this machine.

Contestants run side by side and take turns, round by round; figures are medians, ratios are medians of the ratios of
each round. Nothing here gates anything.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench import contestants, report, scenarios, tools
from tests.bench.contestants import Contestant
from tests.bench.figures import GIB, parse_size, write_size
from tests.bench.report import Outcome
from tests.bench.scenarios import Bench, RefusedError, Scenario, Sizes

_FIELD = "product,product-os-none,tusd,tusjs"
_EPILOG = """\
contestants: tusd, tusd-hooks (its checks in an aiohttp endpoint), tusd-filehooks (Python scripts ask the
same endpoint), tusjs (@tus/server), bare (the ciphers, keys and files of an upload with nothing else), product
as shipped, or with any of fsync, os; sha256, blake3, none (digest); hybrid, x25519 (keys); sqlite, postgresql;
workers2, workers4, as in product-os-none.
base is the same for another checkout (--base ../other/.venv/bin/dropoff-tus), as in base-os-none.

examples:
  python -m tests.bench --quick
  python -m tests.bench --scenario bulk8 --contestants product-os,tusd --rounds 3
  python -m tests.bench --scenario small --contestants product,product-os,tusd,tusd-hooks --json small.json
  python -m tests.bench --scenario many --many 30000 --contestants product
  python -m tests.bench --scenario long --long-size 100GiB --contestants product
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Race this product against tusd and @tus/server on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join((*scenarios.GROUPS, *scenarios.SCENARIOS))
    parser.add_argument("--scenario", help=f"with commas: {names} (all; with --quick bulk8,small1k)")
    parser.add_argument("--contestants", default=_FIELD, help=f"with commas ({_FIELD})")
    parser.add_argument("--rounds", type=int, help="that count, after one that does not (5; with --quick 3)")
    parser.add_argument("--size", help="of all bulk uploads of a round together (1GiB; with --quick 512MiB)")
    parser.add_argument("--seconds", type=float, help="of a round of small uploads (5; with --quick 2.5)")
    parser.add_argument("--long-size", default="10GiB", help="of the long upload (10GiB)")
    parser.add_argument("--many", type=int, default=3000, metavar="N", help="uploads of the scenario many (3000)")
    parser.add_argument("--quick", action="store_true", help="about two minutes, for tuning")
    parser.add_argument("--dir", type=Path, help="where servers keep their data (build/bench, on this checkout's disk)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    parser.add_argument("--base", metavar="PROGRAM", help="what the contestant base runs")
    return parser.parse_args()


def _start(name: str, folder: Path, scenario: Scenario, given: argparse.Namespace) -> Contestant:
    if scenario.contestants and name.split("-", maxsplit=1)[0] not in scenario.contestants:
        raise tools.MissingError("it has nothing like it")
    one = contestants.make(name, folder, base=given.base)
    try:
        one.start(scenario.settings)
    except BaseException:
        one.stop()
        raise
    return one


def _turn(bench: Bench, scenario: Scenario, one: Contestant, outcome: Outcome, *, counts: bool) -> bool:
    """Run one round of one contestant; returns whether it goes on taking part."""
    if scenario.bulk:
        one.empty()
    os.sync()  # so that nobody pays for what another one wrote
    try:
        measured = scenario.run(bench, one)
    except RefusedError as error:
        said = f"it ended and said {one.ended}" if one.ended is not None else str(error)
        outcome.skipped[one.name] = " ".join(said.split())[:300]
        outcome.rounds.pop(one.name, None)
        return False
    if counts:
        outcome.rounds.setdefault(one.name, []).append(measured)
    return True


def _race(bench: Bench, scenario: Scenario, folder: Path, given: argparse.Namespace) -> Outcome:
    outcome = Outcome(scenario)
    bench.notes = outcome.notes
    with ExitStack() as stack:
        field: list[Contestant] = []
        for name in given.contestants:
            report.progress(f"{scenario.name}: starting {name}")
            try:
                one = _start(name, folder / f"{scenario.name}-{name}", scenario, given)
            except tools.MissingError as error:
                outcome.skipped[name] = str(error)
                continue
            if scenario.bulk:
                stack.callback(one.empty)
            stack.callback(one.stop)
            field.append(one)
            outcome.rounds[name] = []
        rounds = min(given.rounds, scenario.rounds or given.rounds)
        warm_up = 0 if scenario.rounds == 1 else 1
        for number in range(rounds + warm_up):
            for one in field[number % max(len(field), 1) :] + field[: number % max(len(field), 1)]:
                report.progress(f"{scenario.name}: round {number + 1 - warm_up} of {rounds}, {one.name}")
                if not _turn(bench, scenario, one, outcome, counts=number >= warm_up):
                    field = [other for other in field if other is not one]
        report.progress("")
    return outcome


def _whole(given: argparse.Namespace) -> None:
    """Fill in what depends on --quick, and check the rest.

    Raises:
        ValueError: An option cannot be used.
    """
    quick = given.quick
    wanted: str = given.scenario or ("bulk8,small1k" if quick else "all")
    given.scenario = scenarios.chosen(wanted.split(","))
    given.contestants = list(dict.fromkeys(given.contestants.split(",")))
    for name in given.contestants:
        contestants.check_name(name)
    given.rounds = given.rounds or (3 if quick else 5)
    given.size = parse_size(given.size) if given.size else GIB // 2 if quick else GIB
    given.seconds = given.seconds or (2.5 if quick else 5.0)
    given.long_size = parse_size(given.long_size)
    if given.base is not None:
        given.base = str(Path(given.base).absolute())
    if given.rounds < 1 or given.seconds <= 0:
        raise ValueError("--rounds must be at least 1, --seconds more than 0")


def main(given: argparse.Namespace) -> int:
    """Run what was asked for; returns the exit code."""
    try:
        _whole(given)
    except ValueError as error:
        return _fail(str(error))
    below = given.dir or tools.CACHE
    below.mkdir(parents=True, exist_ok=True)
    facts = report.machine(below)
    print(report.machine_line(facts))
    print(
        f"{given.rounds} rounds, medians; bulk {write_size(given.size)}, small uploads for {given.seconds:g} s; "
        "the contestants take turns, memory and processor time are the server's"
    )
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="run-", dir=below) as folder:
        try:
            client = tools.load_client(Path(folder))
        except tools.MissingError as error:
            return _fail(str(error))
        bench = Bench(client, Sizes(given.size, given.seconds, given.long_size, given.many))
        for scenario in given.scenario:
            outcomes.append(_race(bench, scenario, Path(folder), given))
            print(report.show(outcomes[-1]), flush=True)
    if given.json is not None:
        settings = {"rounds": given.rounds, "bulk_bytes": given.size, "small_seconds": given.seconds}
        given.json.write_text(json.dumps(report.as_json(outcomes, facts, settings), indent=2) + "\n", "utf-8")
    return 0


def _fail(text: str) -> int:
    sys.stderr.write(f"bench: {text}\n")
    return 1


def run(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and run."""
    if arguments is not None:
        sys.argv[1:] = arguments
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it cleans up then too
    try:
        return main(_arguments())
    except KeyboardInterrupt:
        return _fail("interrupted; everything was removed")


if __name__ == "__main__":
    sys.exit(run())
