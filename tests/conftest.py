"""Common to all tests: a reproducible Hypothesis, and markers that follow the folders."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Below `nohup` it is ignored, and the programs that tests start would mean it.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

_TESTS = Path(__file__).parent
_MARKED_FOLDERS = ("crash", "e2e")

# A busy machine may stall for a second, so no example has a deadline; pytest's timeout bounds the test.
# In CI Hypothesis itself chooses the same examples each time, which these profiles inherit.
settings.register_profile("normal", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("normal"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test of tests/e2e and tests/crash, so that nobody can forget to."""
    for item in items:
        if item.path.is_relative_to(_TESTS):
            kind = item.path.relative_to(_TESTS).parts[0]
            if kind in _MARKED_FOLDERS:
                item.add_marker(kind)
