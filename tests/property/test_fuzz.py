"""No parser fails in another way than it documents, whatever it is given, and none takes what was not written so."""

import os
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fuzz_targets import Target, make_targets

_EXAMPLES = int(os.environ.get("DROPOFF_TUS_TEST_EXAMPLES", "20000"))
"""How long the slow test goes on with each parser."""
_NAMES = (
    *("age-header", "age-file", "identity-file", "recipient", "signing-key"),
    *("log", "envelope", "envelope-content", "receipt", "headers"),
)
_TELLING = (b"\n", b"\r", b"\0", b" ", b"=", b"-> ", b"---", b'"', b"{", b"[" * 3000, b"1" * 5000, b"null", b"1e999")


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    """Make the inputs to start from, once."""
    return make_targets(tmp_path_factory.mktemp("fuzz"))


@st.composite
def _changed(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Draw one of the seeds with a few changes: bits flipped, bytes replaced, stretches moved, doubled or gone."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        # Near the start as often as anywhere: headers are short, bodies long.
        at = draw(st.integers(0, min(len(data), 200)) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "byte", "out", "cut", "in", "double", "swap"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del data[at:]
        elif kind == "in":
            data[at:at] = draw(st.sampled_from(_TELLING) | st.binary(max_size=40))
        else:
            until = min(len(data), at + draw(st.integers(1, 600)))
            piece = data[at:until]
            if kind == "out":
                del data[at:until]
            elif kind == "double":
                data[at:at] = piece
            else:
                onto = draw(st.integers(0, len(data)))
                data[onto : onto + len(piece)] = piece
    return bytes(data)


def _fuzz(target: Target, examples: int) -> None:
    inputs = _changed(tuple(target.seeds)) | st.binary(max_size=300)
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    limits = settings(max_examples=examples, deadline=None, suppress_health_check=checks, database=None)
    # Hypothesis asks for a function that takes only the input.
    cast("Callable[[], None]", limits(given(inputs)(lambda data: target.run(data))))()  # noqa: PLW0108


def test_fuzz_names_are_all_targets(targets: dict[str, Target]) -> None:
    """No parser is left out below, and each takes its own seeds."""
    assert set(_NAMES) == set(targets)
    for target in targets.values():
        for seed in target.seeds:
            target.run(seed)


@pytest.mark.parametrize("name", _NAMES)
def test_parser_of_changed_input_fails_as_documented(targets: dict[str, Target], name: str) -> None:
    """A few hundred inputs for each parser."""
    _fuzz(targets[name], 100)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", _NAMES)
def test_parser_of_very_many_inputs_fails_as_documented(targets: dict[str, Target], name: str) -> None:
    """Many thousand inputs for each parser; DROPOFF_TUS_TEST_EXAMPLES says how many."""
    _fuzz(targets[name], _EXAMPLES)
