"""The store's id: which folders are believed, which are refused, and that a refusal leaves everything as it was."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.files.layout import Layout
from storage.files.marker import NAME, WrongStoreError, adopt_store, check_store
from tests.support.killing import Killer

_OTHER = "f" * 32


def _layout(folder: Path) -> Layout:
    return Layout(folder / "store", folder / "keys", folder / "ingest")


def _used(folder: Path) -> Layout:
    """Return a store from before there were ids, with something in it."""
    layout = _layout(folder)
    (layout.uploads / "00").mkdir(parents=True)
    (layout.keys_dir / "00").mkdir(parents=True)
    return layout


def _tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_adopting_makes_a_new_store_of_one_id_for_its_owner_alone(tmp_path: Path) -> None:
    """Both roots say the same, another adoption agrees, and nothing else is left there."""
    layout = _layout(tmp_path)
    store_id = adopt_store(layout, in_use=False)
    assert adopt_store(layout, in_use=True) == store_id
    check_store(layout, store_id)
    for root in (layout.uploads, layout.keys_dir):
        (file,) = root.iterdir()
        assert (file.name, file.read_text("ascii")) == (NAME, f"{store_id}\n")
        assert file.stat().st_mode & 0o777 == 0o600
        assert root.stat().st_mode & 0o777 == 0o700


def test_adopting_a_store_from_before_gives_it_an_id(tmp_path: Path) -> None:
    """A catalog with uploads and folders that hold some belong together."""
    layout = _used(tmp_path)
    check_store(layout, adopt_store(layout, in_use=True))


@pytest.mark.parametrize("root", ["uploads", "keys_dir"])
@pytest.mark.parametrize("missing", [False, True], ids=["empty", "missing"])
def test_adopting_where_a_root_cannot_be_the_catalogs_is_refused(tmp_path: Path, root: str, missing: bool) -> None:
    """A catalog that has uploads does not take an empty folder for theirs, not even the first time."""
    layout = _used(tmp_path)
    folder: Path = getattr(layout, root)
    (folder / "00").rmdir()
    if missing:
        folder.rmdir()
    before = _tree(tmp_path)
    with pytest.raises(WrongStoreError, match=f"{folder}.*not mounted"):
        adopt_store(layout, in_use=True)
    assert _tree(tmp_path) == before


def _remove(file: Path) -> None:
    file.unlink()


def _unmount(file: Path) -> None:
    for path in sorted(file.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _lose(file: Path) -> None:
    _unmount(file)
    file.parent.rmdir()


def _exchange(file: Path) -> None:
    file.write_text(f"{_OTHER}\n")


def _spoil(file: Path) -> None:
    file.write_text("something\n")


@pytest.mark.parametrize("root", ["uploads", "keys_dir"])
@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_remove, "not mounted"),
        (_unmount, "not mounted"),
        (_lose, "there is no folder .* not mounted"),
        (_exchange, f"another store: its {NAME} is {_OTHER}"),
        (_spoil, "does not hold a store's id"),
    ],
)
def test_check_names_the_root_that_is_not_the_stores(
    tmp_path: Path, root: str, harm: Callable[[Path], None], said: str
) -> None:
    """Nothing is made and nothing changed, whether the catalog knows the id or the roots only disagree."""
    layout = _used(tmp_path)
    store_id = adopt_store(layout, in_use=True)
    folder: Path = getattr(layout, root)
    harm(folder / NAME)
    before = _tree(tmp_path)
    with pytest.raises(WrongStoreError, match=said) as refused:
        check_store(layout, store_id)
    assert str(folder) in str(refused.value)
    with pytest.raises(WrongStoreError):
        check_store(layout, None)
    assert _tree(tmp_path) == before


def test_check_says_the_line_that_makes_a_folder_put_back_the_right_one(tmp_path: Path) -> None:
    """The refusal's advice works."""
    layout = _used(tmp_path)
    store_id = adopt_store(layout, in_use=True)
    file = layout.keys_dir / NAME
    file.unlink()
    with pytest.raises(WrongStoreError, match=f"write the line {store_id} into {file}"):
        check_store(layout, store_id)
    file.write_text(f"{store_id}\n")
    check_store(layout, store_id)


def test_check_without_any_id_believes_a_store_from_before(tmp_path: Path) -> None:
    """A copy of an old store is read as it is."""
    check_store(_used(tmp_path), None)


@pytest.mark.parametrize("in_use", [False, True])
def test_adopting_that_was_killed_anywhere_is_gone_on_with(tmp_path: Path, killer: Killer, in_use: bool) -> None:
    """After any step, the next start finds or makes one id in both roots."""
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        layout = _used(folder) if in_use else _layout(folder)
        with killer.at(steps + 1):
            adopt_store(layout, in_use=in_use)
        if not killer.died:
            break
        check_store(layout, adopt_store(layout, in_use=in_use))
        steps += 1
    assert steps > 8


def test_adopting_at_once_from_many_gives_one_id(tmp_path: Path) -> None:
    """The server and a command that start together agree."""
    layout = _layout(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: adopt_store(layout, in_use=False), range(32)))
    assert len(found) == 1
    check_store(layout, found.pop())
