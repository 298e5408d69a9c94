"""Every statement that the catalog runs, as SQLAlchemy Core: one set for every database.

Built once and never changed: a database compiles each of them once and finds it again by identity. Values are bound by
name; the name of a bound value is given beside each statement where it is not a column's.
"""

import functools
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    UpdateBase,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from dropoff_tus.model import Role
from dropoff_tus.states import UploadState
from storage.catalog.schema import api_tokens, audit, catalog_state, checkpoints, dropoffs, outbox, uploads

Statement: TypeAlias = Select[*tuple[Any, ...]] | UpdateBase
"""Any statement below."""

_drop_id = bindparam("drop_id", type_=dropoffs.c.id.type)
_upload_id = bindparam("upload_id", type_=uploads.c.id.type)
_COMPLETE: ColumnElement[str] = literal_column(f"'{UploadState.COMPLETE.value}'")
_PARTIAL: ColumnElement[str] = literal_column(f"'{Role.PARTIAL.value}'")
_ZERO: ColumnElement[int] = literal_column("0")
_final_id = bindparam("final_id", type_=uploads.c.final_id.type)
_token_id = bindparam("token_id", type_=api_tokens.c.id.type)
_after = bindparam("after", type_=BigInteger)


def _at_most(found: Select[*tuple[Any, ...]]) -> Select[*tuple[Any, ...]]:
    """Return the first rows of a statement, as many as the value `most` says."""
    # Without an offset SQLite's dialect still writes one, as a value under a name of its own.
    return found.limit(bindparam("most", type_=BigInteger)).offset(_ZERO)


# ---- drop-offs ------------------------------------------------------------------------------------------------

INSERT_DROPOFF = insert(dropoffs)
"""Values: every column."""

DROPOFF = select(dropoffs).where(dropoffs.c.id == _drop_id)

DROPOFF_OR_NONE = select(dropoffs).select_from(catalog_state.outerjoin(dropoffs, dropoffs.c.id == _drop_id))
"""The same as one row in any case, of nothing for an unknown id, which so costs as much (see `rows.read_if_known`)."""

CHANGE_DROPOFF = (
    update(dropoffs)
    .where(dropoffs.c.id == _drop_id)
    .values(
        {name: bindparam(f"new_{name}", type_=dropoffs.c[name].type) for name in ("terms", "code_mac", "signature")}
    )
)
"""Values: drop_id, new_terms, new_code_mac, new_signature."""


@functools.cache
def list_dropoffs(*, after: bool, limited: bool) -> Statement:
    """Return the statement for a list of drop-offs, oldest first. Values: as `list_uploads`."""
    order = (dropoffs.c.created_at, dropoffs.c.id)
    found = select(dropoffs).order_by(*order)
    if after:
        place = bindparam("after_at", type_=BigInteger), bindparam("after_id", type_=dropoffs.c.id.type)
        found = found.where(tuple_(*order) > tuple_(*place))
    return found.limit(bindparam("most", type_=BigInteger)).offset(_ZERO) if limited else found


ADMISSION = select(
    dropoffs,
    select(uploads.c.id).where(uploads.c.id == _upload_id).scalar_subquery().label("present_id"),
).where(dropoffs.c.id == _drop_id)
ADMISSION = ADMISSION.with_for_update(key_share=True)
"""All that the creation of an upload is decided on, in one; locks the drop-off."""

DROPOFF_OF_UPLOAD = (
    select(dropoffs)
    .where(dropoffs.c.id == select(uploads.c.drop_id).where(uploads.c.id == _upload_id).scalar_subquery())
    .with_for_update(key_share=True)
)
"""Locks the drop-off, so that what is asked behind this does not change any more."""

COUNT = (
    update(dropoffs)
    .where(dropoffs.c.id == _drop_id)
    .values(
        used_uploads=dropoffs.c.used_uploads + bindparam("uploads_by", type_=BigInteger),
        used_bytes=dropoffs.c.used_bytes + bindparam("used_by", type_=BigInteger),
        reserved_bytes=dropoffs.c.reserved_bytes + bindparam("reserved_by", type_=BigInteger),
        attempts=dropoffs.c.attempts + bindparam("attempts_by", type_=BigInteger),
    )
)
"""Values: drop_id, uploads_by, used_by, reserved_by, attempts_by."""

SET_CLOSED = (
    update(dropoffs)
    .where(dropoffs.c.id == _drop_id)
    .values(
        closed=bindparam("now_closed", type_=dropoffs.c.closed.type),
        ended=bindparam("now_ended", type_=dropoffs.c.ended.type),
    )
)

VERSION = select(catalog_state.c.version)

RAISE_VERSION = update(catalog_state).values(version=catalog_state.c.version + literal_column("1"))

STORE_ID = select(catalog_state.c.store_id)

SET_STORE_ID = (
    update(catalog_state)
    .where(catalog_state.c.store_id.is_(None))
    .values(store_id=bindparam("new_store_id", type_=catalog_state.c.store_id.type))
)

NOTED_TIME = select(catalog_state.c.noted_at)

NOTE_TIME = update(catalog_state).values(noted_at=bindparam("at", type_=BigInteger))

# ---- audit ----------------------------------------------------------------------------------------------------

INSERT_AUDIT = insert(audit).values(record=bindparam("record", type_=audit.c.record.type)).inline()
"""Values: record."""

AUDIT_END = select(func.coalesce(func.max(audit.c.seq), _ZERO).label("last"))

AUDIT_ROWS = _at_most(
    select(audit).where(audit.c.seq > _after, audit.c.seq <= bindparam("to", type_=BigInteger)).order_by(audit.c.seq)
)
"""Values: after, to, most."""

INSERT_CHECKPOINT = insert(checkpoints)
"""Values: every column."""

CHECKPOINTS = _at_most(select(checkpoints).where(checkpoints.c.number > _after).order_by(checkpoints.c.number))
"""Values: after, most."""

LAST_CHECKPOINT = select(checkpoints).where(
    checkpoints.c.number == select(func.max(checkpoints.c.number)).scalar_subquery()
)

# ---- uploads --------------------------------------------------------------------------------------------------

INSERT_UPLOAD = insert(uploads)
"""Values: every column."""

UPLOAD = select(uploads).where(uploads.c.id == _upload_id)

PARTS = select(uploads).where(uploads.c.final_id == _final_id)

CLAIM_PART = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(final_id=bindparam("claimed_by", type_=uploads.c.final_id.type), used_bytes=_ZERO)
)

RELEASE_PARTS = (
    update(uploads)
    .where(uploads.c.final_id == _final_id)
    .values(
        final_id=literal_column("NULL"),
        used_bytes=case((uploads.c.state == _COMPLETE, uploads.c.size_bytes), else_=_ZERO),
    )
)

RESERVE = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(
        reserved_bytes=bindparam("reserved", type_=BigInteger),
        length=func.coalesce(bindparam("new_length", type_=BigInteger), uploads.c.length),
    )
)

COMPLETE = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(
        state=_COMPLETE,
        state_at=bindparam("at", type_=BigInteger),
        completed_at=bindparam("at", type_=BigInteger),
        length=bindparam("size", type_=BigInteger),
        size_bytes=bindparam("size", type_=BigInteger),
        used_bytes=bindparam("size", type_=BigInteger),
        reserved_bytes=_ZERO,
    )
)
"""Values: upload_id, at, size."""

SET_STATE = (
    update(uploads)
    .where(uploads.c.id == _upload_id)
    .values(
        state=bindparam("new_state", type_=uploads.c.state.type),
        state_at=bindparam("at", type_=BigInteger),
        reserved_bytes=bindparam("reserved", type_=BigInteger),
        used_bytes=bindparam("used", type_=BigInteger),
    )
)

END_PARTS = (
    update(uploads)
    .where(uploads.c.final_id == _final_id)
    .values(
        state=bindparam("new_state", type_=uploads.c.state.type),
        state_at=bindparam("at", type_=BigInteger),
    )
)
"""Claimed parts take nothing by themselves, so their end changes no count."""

DELETE_UPLOAD = delete(uploads).where(uploads.c.id == _upload_id)


@functools.cache
def list_uploads(
    *,
    of_dropoff: bool,
    states: frozenset[UploadState],
    partials: bool,
    created_before: bool,
    unclaimed: bool,
    after: bool = False,
    limited: bool = False,
) -> Statement:
    """Return the statement for one kind of list, oldest first.

    Values: drop_id if of_dropoff, before if created_before, after_at and after_id if after, most if limited. The states
    stand in the text, since there are few kinds of lists, and a list of bound values would be compiled each time.
    """
    conditions: list[ColumnElement[bool]] = []
    if of_dropoff:
        conditions.append(uploads.c.drop_id == _drop_id)
    if states:
        conditions.append(uploads.c.state.in_([literal_column(f"'{state.value}'") for state in sorted(states)]))
    if not partials:
        conditions.append(uploads.c.role != _PARTIAL)
    if created_before:
        conditions.append(uploads.c.created_at < bindparam("before", type_=BigInteger))
    if unclaimed:
        # As the partial index says it, or SQLite does not see that it may use it.
        conditions += [uploads.c.role == _PARTIAL, uploads.c.final_id.is_(None)]
    order = (uploads.c.created_at, uploads.c.id)
    if after:
        place = bindparam("after_at", type_=BigInteger), bindparam("after_id", type_=uploads.c.id.type)
        conditions.append(tuple_(*order) > tuple_(*place))
    found = select(uploads).where(*conditions).order_by(*order)
    return _at_most(found) if limited else found


# ---- outbox ---------------------------------------------------------------------------------------------------

_sink = bindparam("sink", type_=outbox.c.sink.type)
_held_id = bindparam("held_id", type_=outbox.c.event_id.type)
_until = bindparam("until", type_=BigInteger)
_held = (outbox.c.event_id == _held_id) & (outbox.c.sink == bindparam("held_sink", type_=outbox.c.sink.type))
_claimed = _held & (outbox.c.attempts == bindparam("held_attempts", type_=BigInteger))

_event = {name: bindparam(name, type_=kept.type) for name, kept in outbox.c.items()}
_waits = exists().where(outbox.c.event_id == _event["event_id"], outbox.c.sink == _event["sink"])
# The terms are canonical JSON, in which nothing but an empty list is written so: within a text the quotes are escaped.
_names_nobody = dropoffs.c.terms.like(literal_column("""'%"notify":[]%'"""))
_notifies = exists().where(dropoffs.c.id == _event["drop_id"], ~_names_nobody)
_new_event = select(*_event.values()).where(~_waits)

INSERT_EVENT = insert(outbox).from_select(list(_event), _new_event)
"""Unless it waits already. Values: every column."""

INSERT_NOTIFIED_EVENT = insert(outbox).from_select(list(_event), _new_event.where(_notifies))
"""The same, if its drop-off names someone to notify."""

DUE = _at_most(
    select(outbox)
    .where(outbox.c.sink == _sink, outbox.c.dead == _ZERO, outbox.c.next_at <= bindparam("now", type_=BigInteger))
    .order_by(outbox.c.next_at, outbox.c.drop_id, outbox.c.at, outbox.c.event_id)
)
"""Values: sink, now, most."""

FREE_DUE = DUE.with_for_update(skip_locked=True)
"""The same, but for those that somebody claims at this moment; locks them."""

HOLD_EVENT = update(outbox).where(_claimed).values(next_at=_until, attempts=outbox.c.attempts + literal_column("1"))
"""Values: as DELETE_EVENT, until."""

DELETE_EVENT = delete(outbox).where(_claimed)
"""Values: held_id, held_sink, held_attempts."""

FAIL_EVENT = (
    update(outbox)
    .where(_claimed)
    .values(
        next_at=_until,
        dead=bindparam("now_dead", type_=outbox.c.dead.type),
        problem=bindparam("why", type_=outbox.c.problem.type),
    )
)
"""Values: as DELETE_EVENT, until, now_dead, why."""

RELEASE_EVENT = update(outbox).where(_claimed).values(next_at=_until, attempts=outbox.c.attempts - literal_column("1"))
"""Values: as DELETE_EVENT, until."""

_waiting = case((outbox.c.dead == _ZERO, literal_column("1")))

BACKLOG = select(
    outbox.c.sink,
    func.count(_waiting).label("waiting"),
    (func.count() - func.count(_waiting)).label("dead"),
    func.min(case((outbox.c.dead == _ZERO, outbox.c.at))).label("oldest_at"),
).group_by(outbox.c.sink)

DELETE_EVENTS = delete(outbox).where(outbox.c.upload_id == _upload_id)

EVENTS = select(outbox).order_by(outbox.c.at, outbox.c.event_id, outbox.c.sink)

DEAD_EVENTS = EVENTS.where(outbox.c.dead != _ZERO)

_anew = {"next_at": _until, "attempts": _ZERO, "dead": _ZERO}

RESEND_DEAD = update(outbox).where(outbox.c.dead != _ZERO).values(_anew)

RESEND_EVENT = update(outbox).where(outbox.c.event_id == _held_id).values(_anew)


# ---- API tokens -----------------------------------------------------------------------------------------------

INSERT_TOKEN = insert(api_tokens)
"""Values: every column."""

TOKEN = select(api_tokens).where(api_tokens.c.id == _token_id)

ALL_TOKENS = select(api_tokens).order_by(api_tokens.c.created_at, api_tokens.c.id)

REVOKE_TOKEN = (
    update(api_tokens)
    .where(api_tokens.c.id == _token_id, api_tokens.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("at", type_=BigInteger))
)
"""The first one says when."""
