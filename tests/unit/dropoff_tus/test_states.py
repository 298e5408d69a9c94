"""The life of an upload as data, written out a second time."""

import itertools

import pytest

from dropoff_tus import states
from dropoff_tus.states import UploadState, may_become

_ENDS = "rejected terminated expired deleted"
_WAYS = {
    "open": f"checking complete {_ENDS}",
    "checking": f"complete {_ENDS}",
    "complete": f"finishing {_ENDS}",
    "finishing": f"checking complete {_ENDS}",
    "rejected": "terminated expired deleted",
    "terminated": "rejected expired deleted",
    "expired": "rejected terminated deleted",
    "deleted": "rejected terminated expired",
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(UploadState, UploadState)))
def test_transition_is_the_one_that_is_written_out(old: UploadState, new: UploadState) -> None:
    """Nothing else is a way, and nothing comes to life again."""
    assert may_become(old, new) == (new.value in _WAYS[old.value].split())


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (states.ENDED, _ENDS),
        (states.ALIVE, "open finishing checking complete"),
        (states.UNFINISHED, "open finishing checking"),
        (states.ACKNOWLEDGED, "checking complete"),
        (states.GIVEN_UP, "rejected terminated"),
    ],
)
def test_group_of_states_is_the_one_that_is_written_out(group: tuple[UploadState, ...], words: str) -> None:
    """Their values are stored and shown, so they stay."""
    assert {state.value for state in group} == set(words.split())
