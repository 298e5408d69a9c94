"""The machine, the table and the JSON."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import tools
from tests.bench.figures import Round, median_of, paired_ratio, table
from tests.bench.scenarios import Scenario

_PACKAGES = ("aiohttp", "blake3", "cryptography", "SQLAlchemy", "uvloop")


@dataclass(slots=True)
class Outcome:
    """The result of a scenario: rounds by contestant, and why some took no part."""

    scenario: Scenario
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def machine(folder: Path) -> dict[str, Any]:
    """Describe where this runs, as far as it bears on the figures."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / (1 << 30), 1),
        "load_average": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "file_system": _file_system(folder),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "node": _said("node", "--version"),
        "tusd": tools.TUSD_VERSION,
        "commit": _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
    }


def machine_line(facts: dict[str, Any]) -> str:
    """Write the machine as one line."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gib']} GiB, "
        f"load {facts['load_average']} before, Linux {facts['kernel']}, "
        f"{facts['file_system']}; Python {facts['python']}, {packages}; node {facts['node'] or 'missing'}, "
        f"tusd {facts['tusd']}; commit {facts['commit'] or 'unknown'}"
    )


def show(outcome: Outcome) -> str:
    """Write a scenario's table, ratios and remarks."""
    scenario, lines = outcome.scenario, [f"\n{outcome.scenario.name}: {outcome.scenario.what}"]
    if scenario.bulk:
        speed, cost = ("GiB/s", "gib_per_second"), ("CPU-s/GiB", "cpu_per_gib")
    else:
        speed, cost = ("uploads/s", "per_second"), ("CPU-ms each", "cpu_ms_each")
    head = ("", speed[0], cost[0], "user+system", "p50 ms", "p99 ms", "peak MiB", "end MiB")
    rows = []
    for name, rounds in outcome.rounds.items():
        of = median_of([one.as_json() for one in rounds])
        share = of["user_seconds"] / max(of["cpu_seconds"], 1e-9)
        rows.append(
            (
                name,
                f"{of[speed[1]]:.2f}" if scenario.bulk else f"{of[speed[1]]:.0f}",
                f"{of[cost[1]]:.2f}",
                f"{of[cost[1]] * share:.2f}+{of[cost[1]] * (1 - share):.2f}",
                f"{of['p50_ms']:.1f}",
                f"{of['p99_ms']:.1f}",
                f"{of['peak_rss_bytes'] / (1 << 20):.0f}",
                f"{of['end_rss_bytes'] / (1 << 20):.0f}",
            )
        )
    if rows:
        lines.append(table(head, rows))
    lines += [f"  {text}" for text in _ratio_lines(outcome)]
    lines += [f"  {note}" for note in outcome.notes]
    lines += [f"  {name} took no part: {reason}" for name, reason in outcome.skipped.items()]
    return "\n".join(lines)


def ratios(outcome: Outcome) -> dict[str, dict[str, dict[str, float]]]:
    """Return ours by theirs: speed (more is better), processor time, p99 and memory at the end (less is better)."""
    names, bulk = list(outcome.rounds), outcome.scenario.bulk
    ours = [name for name in names if name.startswith("product")]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for mine in ours:
        for other in (name for name in names if name != mine and not (name in ours and ours.index(name) > 0)):
            pair = outcome.rounds[mine], outcome.rounds[other]
            found.setdefault(mine, {})[other] = {
                "speed": paired_ratio(*([one.speed(bulk=bulk) for one in rounds] for rounds in pair)),
                "cpu": paired_ratio(*([one.cost(bulk=bulk) for one in rounds] for rounds in pair)),
                "p99": paired_ratio(*([one.p99_ms for one in rounds] for rounds in pair)),
                "memory": paired_ratio(*([float(max(one.end_rss_bytes, 1)) for one in rounds] for rounds in pair)),
            }
    return found


def _ratio_lines(outcome: Outcome) -> list[str]:
    return [
        f"{mine} / {other}: speed {figures['speed']:.2f}x, CPU {figures['cpu']:.2f}x, p99 {figures['p99']:.2f}x, "
        f"memory {figures['memory']:.2f}x"
        for mine, others in ratios(outcome).items()
        for other, figures in others.items()
    ]


def as_json(outcomes: Sequence[Outcome], facts: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything that was measured."""
    return {
        "machine": facts,
        "settings": settings,
        "scenarios": [
            {
                "name": outcome.scenario.name,
                "what": outcome.scenario.what,
                "contestants": {
                    name: {
                        "median": median_of([one.as_json() for one in rounds]),
                        "rounds": [one.as_json() for one in rounds],
                    }
                    for name, rounds in outcome.rounds.items()
                },
                "ratios": ratios(outcome),
                "notes": outcome.notes,
                "skipped": outcome.skipped,
            }
            for outcome in outcomes
        ],
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    return _said("stat", "--file-system", "--format=%T", str(folder)) or "unknown file system"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _said(program: str, *arguments: str) -> str | None:
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def progress(text: str) -> None:
    """Tell a person at a terminal what is going on."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
