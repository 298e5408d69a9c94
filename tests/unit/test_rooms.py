"""Rooms stay small enough to be seen at a glance; which may know which is in the contracts of `pyproject.toml`."""

from collections import Counter
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_MOST_MODULES = 20


def test_no_room_has_more_modules_than_a_glance_takes_in() -> None:
    """Of the product; a package's own `__init__` is the room's sign and does not count."""
    packages = [_ROOT / name for name in ("dropoff_tus", "storage", "server")]
    modules = [path for package in packages for path in package.rglob("*.py") if path.name != "__init__.py"]
    counts = Counter(path.parent.relative_to(_ROOT) for path in modules if "node_modules" not in path.parts)
    assert len(counts) > len(packages)
    assert {str(room): count for room, count in counts.items() if count > _MOST_MODULES} == {}
