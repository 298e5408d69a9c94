"""DNS rebinding: the address that was looked at is the one connected to, whatever the name says the next moment."""

import json
import sys
from pathlib import Path

from tests.support.network import in_own_network
from tests.support.rebinding import HERE, PUBLIC


def test_name_that_leads_here_the_next_moment_leads_nowhere(tmp_path: Path) -> None:
    """A public address, this machine, and both in one answer: only the public one is ever connected to."""
    done = in_own_network([sys.executable, "-m", "tests.support.rebinding", str(tmp_path)], tmp_path, ipv6=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [HERE] in seen["asked"]
    assert [PUBLIC, HERE] in seen["asked"]
    assert len(seen["asked"]) >= 8
    assert set(seen["told"]) == {503}
    assert set(seen["came"]) == {PUBLIC}
