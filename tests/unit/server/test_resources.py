"""How many descriptors the process takes, and how many connections fit into what it gets."""

import resource
from pathlib import Path

import pytest

from server.resources import give_memory_back, raise_descriptor_limit, too_few_descriptors


class _System:
    """A limit as the kernel keeps it."""

    def __init__(self, soft: int, hard: int) -> None:
        self.limits = (soft, hard)

    def get(self, _which: int) -> tuple[int, int]:
        return self.limits

    def set(self, _which: int, limits: tuple[int, int]) -> None:
        self.limits = limits


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "raised", "fitting"),
    [
        (1024, 1 << 20, 1024, 1 << 16, 1024),
        (1024, 1 << 20, 100_000, 400_256, 100_000),
        (1024, resource.RLIM_INFINITY, 1024, 1 << 16, 1024),
        (1024, 1024, 1024, 1024, 192),
        (1024, 4096, 1024, 4096, 960),
        (1024, 1 << 20, 0, 1 << 16, 16_320),
        (1 << 19, 1 << 20, 1024, 1 << 19, 1024),
        (64, 64, 1024, 64, 8),
    ],
)
def test_soft_limit_is_raised_and_a_reserve_is_kept(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, raised: int, fitting: int
) -> None:
    """Connections are let in only as far as all that they ask for, and the rest of the program, find descriptors."""
    system = _System(soft, hard)
    monkeypatch.setattr(resource, "getrlimit", system.get)
    monkeypatch.setattr(resource, "setrlimit", system.set)
    assert raise_descriptor_limit(wanted) == fitting
    assert system.limits == (raised, hard)
    said = too_few_descriptors(wanted)
    assert (said is not None) == (fitting < wanted)
    assert said is None or str(fitting) in said


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def _cycle(block: object) -> list[object]:
    cycle = [block]
    cycle.append(cycle)
    return cycle


def test_memory_of_a_busy_time_is_given_back() -> None:
    """Also where something small that is still in use lies behind what is free, and in cycles."""
    blocks: list[object] = [bytes(1000) for _ in range(60_000)]
    for number in range(0, len(blocks), 2):
        blocks[number] = _cycle(blocks[number])
    kept = blocks[::1000]
    full = _resident_bytes()
    blocks.clear()
    give_memory_back()
    assert full - _resident_bytes() > 30 << 20
    assert kept
