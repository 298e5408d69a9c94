"""What an upload's log says of its life, in few steps: commits that follow each other closely are one.

Source: docs/reference/format.md, Log.
"""

import contextlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from storage.keyring.lines import Record
from storage.uploads.base import StoreBase

_PAUSE = timedelta(seconds=30)
"""A body commits every ten seconds while bytes come, so a longer gap is a pause."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stretch of the log: `kind` is the type of its records, `commits` how many they are.

    `start` and `offset` are the durable bytes before and after it, `first` those after its first record; `why` tells an
    end.
    """

    kind: str
    began_at: datetime
    at: datetime
    start: int
    first: int
    offset: int
    length: int | None
    commits: int = 1
    why: str | None = None


def steps(base: StoreBase, upload_id: str) -> list[Step]:
    """Return the steps of an upload's log, verified, in their order.

    Raises:
        UploadNotFoundError, UploadDamagedError, StorageFailedError: As the ports say.
    """
    base.check_id(upload_id)
    with base.refusing(upload_id), contextlib.closing(base.chains.open(upload_id)) as log:
        chain = base.verified(log, upload_id)
        found = [_step(chain.state.create, 0)]
        for record in (record for _, record in chain.records(log)):
            step, last = _step(record, found[-1].offset), found[-1]
            if step.kind == last.kind == "segs" and step.at - last.at < _PAUSE:
                found[-1] = replace(last, at=step.at, offset=step.offset, commits=last.commits + 1)
            else:
                found.append(step)
        return found


def _step(record: Record, start: int) -> Step:
    at = datetime.fromisoformat(record["at"])
    offset = record["len"] if record["t"] == "final" else record["tot"][1]
    why = f"{record['state']}: {record['why']}" if record["t"] == "end" else None
    return Step(record["t"], at, at, start, offset, offset, record["len"], why=why)
