"""The bench's arithmetic."""

import os
import time

import pytest

from tests.bench import processes
from tests.bench.contestants import check_name
from tests.bench.figures import (
    Cpu,
    Round,
    median_of,
    paired_ratio,
    parse_size,
    parse_stat,
    parse_status_bytes,
    table,
    write_size,
)
from tests.bench.scenarios import GROUPS, SCENARIOS, chosen

_STAT = "12 (a (strange) name) S 7 12 12 0 -1 4194560 9 0 0 0 250 100 30 20 20 0 5 0 1 2 3"


def test_stat_with_a_strange_name_reads_times_of_threads_and_children() -> None:
    """User and system time hold those of reaped children; the parent is found behind a name with blanks."""
    parent, used = parse_stat(_STAT, 100)
    assert parent == 7
    assert used == Cpu(2.8, 1.2)


def test_cpu_of_this_process_grows_while_it_works() -> None:
    """Work of this process appears in what is billed."""
    before = processes.cpu([os.getpid()])
    deadline = time.process_time() + 0.1
    while time.process_time() < deadline:
        pass
    used = processes.cpu([os.getpid()]) - before
    assert used.user_seconds + used.system_seconds >= 0.05


def test_status_reads_bytes_and_gives_nothing_for_what_is_absent() -> None:
    """Amounts in kB become bytes; a kernel that does not tell gives 0."""
    text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"
    assert parse_status_bytes(text, "VmHWM") == 2 << 20
    assert parse_status_bytes(text, "VmSwap") == 0


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("1024", 1024), ("5MiB", 5 << 20), ("1.5g", 3 << 29), (" 10 GiB", 10 << 30)]
)
def test_sizes_with_and_without_units_are_read(text: str, size_bytes: int) -> None:
    """The spellings that people type are understood."""
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "x", "5 parsec", "0", "-1GiB"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    """A size is a number above nothing with a known unit."""
    with pytest.raises(ValueError, match=r".+"):
        parse_size(text)


def test_written_sizes_keep_every_byte() -> None:
    """The largest unit that is whole is used, and no other."""
    assert [write_size(size) for size in (1 << 30, 3 << 29, 100 << 10, 1000)] == [
        "1 GiB",
        "1536 MiB",
        "100 KiB",
        "1000 B",
    ]


def test_median_and_paired_ratio_stand_up_to_a_slow_round() -> None:
    """One slow round of both moves neither figure much, as medians and pairs are meant to."""
    rounds = [{"wall": 1.0}, {"wall": 9.0}, {"wall": 1.2}]
    assert median_of(rounds) == {"wall": 1.2}
    assert paired_ratio([2, 20, 2], [1, 10, 4]) == 2
    with pytest.raises(ValueError, match="argument"):
        paired_ratio([1, 2], [1])
    with pytest.raises(ValueError, match="no round"):
        paired_ratio([], [])


def test_round_derives_speed_and_cost() -> None:
    """Throughput, uploads a second and processor time for each follow from what was measured."""
    one = Round(2.0, 4, 1 << 30, 0.75, 0.25, 1.0, 2.0, 3, 3)
    assert (one.gib_per_second, one.per_second, one.cpu_per_gib, one.cpu_ms_each) == (0.5, 2.0, 1.0, 250.0)
    assert one.as_json()["cpu_seconds"] == 1.0


def test_table_aligns_names_left_and_figures_right() -> None:
    """Columns are as wide as their widest cell."""
    assert table(("", "GiB/s"), [("tusd", "1.00"), ("product", "10.00")]).splitlines() == [
        "         GiB/s",
        "tusd      1.00",
        "product  10.00",
    ]


@pytest.mark.parametrize("name", ["product", "product-os-none-x25519", "base-blake3-postgresql", "tusd-hooks", "tusjs"])
def test_contestants_with_known_words_are_taken(name: str) -> None:
    """Every variant that the help names can be written."""
    check_name(name)


@pytest.mark.parametrize("name", ["", "nginx", "tusd-os", "tusjs-hooks", "product-fast", "product-"])
def test_contestants_with_unknown_words_are_refused(name: str) -> None:
    """A mistyped variant is not silently raced as another one."""
    with pytest.raises(ValueError, match="there is no contestant"):
        check_name(name)


def test_scenarios_are_found_by_name_and_group_each_once() -> None:
    """Groups unfold, what is named twice runs once, and what does not exist is refused."""
    assert [one.name for one in chosen(["bulk8", "bulk"])] == ["bulk8", "bulk1", "bulk64"]
    assert {name for group in GROUPS.values() for name in group} == set(SCENARIOS) - {"long", "many"}
    with pytest.raises(ValueError, match="there is no scenario bulk9"):
        chosen(["bulk9"])
