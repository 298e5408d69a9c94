"""Counters against rows: after any sequence of operations the usage is that of the rows."""

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from dropoff_tus.errors import DropoffError, PartInUseError
from dropoff_tus.model import Dropoff, Role
from dropoff_tus.states import UploadState
from storage.catalog import SqlCatalog, migrate, open_catalog
from tests.integration.catalog.conftest import RUNTIME, SHARED
from tests.integration.catalog.harness import (
    ENDED,
    HOLDING,
    NOW,
    allow,
    make_dropoff,
    make_upload,
    refuse,
    summed_usage,
)
from tests.support.postgres import PostgresServer

_SIZES = st.integers(0, 2**40)
_DECISIONS = st.sampled_from([allow, allow, allow, refuse])


class CatalogMachine(RuleBasedStateMachine):
    """Does at random what the port offers. `url` is set by whoever runs it."""

    url: Callable[[Path], str]
    uploads = Bundle("uploads")

    def __init__(self) -> None:
        """Open a catalog of its own."""
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._runner = asyncio.Runner()
        self._context = open_catalog(type(self).url(Path(self._folder.name)))
        self.catalog: SqlCatalog = self._do(self._context.__aenter__())
        self.dropoffs: list[Dropoff] = []

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - whatever the work returns
        return self._runner.run(work)

    def teardown(self) -> None:
        """Close it."""
        self._do(self._context.__aexit__(None, None, None))
        self._runner.close()
        self._folder.cleanup()

    @initialize(target=uploads)
    def two_dropoffs(self) -> Any:  # noqa: ANN401
        """Begin with two drop-offs, so that one's bytes may be mistaken for the other's, and an upload of each.

        Rules that find nothing to work on would have Hypothesis throw examples away, at times so many that it fails.
        """
        self.dropoffs = [make_dropoff(), make_dropoff()]
        rows = [make_upload(dropoff, 1) for dropoff in self.dropoffs]
        for dropoff, row in zip(self.dropoffs, rows, strict=True):
            self._do(self.catalog.add_dropoff(dropoff))
            self._do(self.catalog.add_upload(row, allow))
        return multiple(*(row.id for row in rows))

    @rule(
        target=uploads,
        which=st.integers(0, 1),
        reserved=_SIZES,
        role=st.sampled_from([Role.REGULAR, Role.PARTIAL]),
        decide=_DECISIONS,
    )
    def add(self, which: int, reserved: int, role: Role, decide: Callable[..., None]) -> Any:  # noqa: ANN401
        """Create an upload, or be refused."""
        row = make_upload(self.dropoffs[which], reserved, role)
        with contextlib.suppress(DropoffError):
            self._do(self.catalog.add_upload(row, decide))
            return row.id
        return multiple()

    @rule(target=uploads, which=st.integers(0, 1), sizes=st.lists(_SIZES, min_size=1, max_size=3))
    def add_finished_parts(self, which: int, sizes: list[int]) -> Any:  # noqa: ANN401
        """Create partials and complete them, so that there is something to claim."""
        ids: list[str] = []
        for size in sizes:
            row = make_upload(self.dropoffs[which], size, Role.PARTIAL)
            self._do(self.catalog.add_upload(row, allow))
            self._do(self.catalog.complete_upload(row.id, size, NOW))
            ids.append(row.id)
        return multiple(*ids)

    @rule(target=uploads, which=st.integers(0, 1), parts=st.lists(uploads, min_size=1, max_size=4), decide=_DECISIONS)
    def concatenate_anything(self, which: int, parts: list[str], decide: Callable[..., None]) -> Any:  # noqa: ANN401
        """Try to join whatever there is; mostly it is not fit."""
        row = make_upload(self.dropoffs[which], 7, Role.FINAL)
        with contextlib.suppress(DropoffError):
            self._do(self.catalog.add_upload(row, decide, parts=parts))
            return row.id
        return multiple()

    @rule(target=uploads, which=st.integers(0, 1), count=st.integers(1, 4))
    def concatenate(self, which: int, count: int) -> Any:  # noqa: ANN401
        """Join what is fit to be joined, if anything is."""
        dropoff = self.dropoffs[which]
        fit = self._do(self.catalog.uploads(drop_id=dropoff.id, states=[UploadState.COMPLETE], unclaimed=True))
        if not fit:
            return multiple()  # `assume` would throw the whole example away
        row = make_upload(dropoff, role=Role.FINAL)
        self._do(self.catalog.add_upload(row, allow, parts=[part.id for part in fit[:count]]))
        return row.id

    @rule(upload=uploads, total=_SIZES, settle=st.booleans(), decide=_DECISIONS)
    def reserve(self, upload: str, total: int, settle: bool, decide: Callable[..., None]) -> None:
        """Raise or settle a reservation, or be refused."""
        with contextlib.suppress(DropoffError):
            self._do(self.catalog.reserve(upload, total, decide, length=total if settle else None))

    @rule(upload=uploads, size=_SIZES)
    def complete(self, upload: str, size: int) -> None:
        """Complete; an answer of True must be true."""
        before = self._do(self.catalog.upload(upload))
        changed = self._do(self.catalog.complete_upload(upload, size, NOW))
        assert changed == (before is not None and before.state in HOLDING)

    @rule(upload=uploads, state=st.sampled_from([UploadState.CHECKING, *ENDED]))
    def move(self, upload: str, state: UploadState) -> None:
        """Check or end; an answer of True must be true, and a claimed part ends only with its final."""
        before = self._do(self.catalog.upload(upload))
        if before is not None and before.final_id is not None and before.state not in ENDED and state in ENDED:
            with pytest.raises(PartInUseError):
                self._do(self.catalog.set_state(upload, state, NOW))
            return
        changed = self._do(self.catalog.set_state(upload, state, NOW))
        after = self._do(self.catalog.upload(upload))
        assert changed == (before != after)
        assert not changed or after.state is state

    @rule(upload=uploads)
    def drop(self, upload: str) -> None:
        """Forget."""
        self._do(self.catalog.drop_upload(upload))
        assert self._do(self.catalog.upload(upload)) is None

    @rule()
    def reopen(self) -> None:
        """Close the catalog and open it again: nothing is kept in memory."""
        self._do(self._context.__aexit__(None, None, None))
        self._context = open_catalog(type(self).url(Path(self._folder.name)))
        self.catalog = self._do(self._context.__aenter__())

    @invariant()
    def counters_equal_sums(self) -> None:
        """Hold the usage against the port's definition of it."""
        for dropoff in self.dropoffs:
            assert self._do(self.catalog.usage(dropoff.id)) == self._do(summed_usage(self.catalog, dropoff.id))

    @invariant()
    def ended_uploads_hold_nothing(self) -> None:
        """Only unfinished uploads have reservations, and only partials are claimed."""
        for row in self._do(self.catalog.uploads()):
            assert not row.reserved_bytes or row.state in HOLDING
            assert row.final_id is None or row.role is Role.PARTIAL


def _sqlite(folder: Path) -> str:
    url = f"sqlite:///{folder}/catalog.sqlite3"
    if not (folder / "catalog.sqlite3").exists():
        migrate(url)
    return url


@pytest.mark.timeout(180)
def test_counters_after_random_operations_equal_the_rows_sums() -> None:
    """No sequence of operations, refused ones included, lets the counters drift from the rows."""
    machine = type("SqliteMachine", (CatalogMachine,), {"url": staticmethod(_sqlite)})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=25))


@pytest.mark.timeout(180)
def test_counters_on_postgres_equal_the_rows_sums(postgres: PostgresServer) -> None:
    """The accounting is the same code on both, so fewer examples are enough to hold the statements."""

    def empty(_folder: Path) -> str:
        return postgres.url(SHARED, RUNTIME)

    class PostgresMachine(CatalogMachine):
        """Begins with an empty catalog each time."""

        def __init__(self) -> None:
            postgres.sql("DELETE FROM uploads; DELETE FROM dropoffs", database=SHARED)
            super().__init__()

    machine = type("PostgresMachine", (PostgresMachine,), {"url": staticmethod(empty)})
    run_state_machine_as_test(machine, settings=settings(max_examples=6, stateful_step_count=15))
