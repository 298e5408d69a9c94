"""`outbox …`: events that wait for delivery."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from dropoff_tus.outbox import OutboxRow
from server.cli.context import ConfigOption, JsonOption, group
from server.cli.opening import with_catalog
from server.cli.output import CommandError, answer, note, print_json, say
from server.settings.config import Config
from server.settings.units import stamp
from storage.catalog import SqlCatalog

app = group("List the events that webhook and mail have not delivered yet, and deliver them again.")
_EVENT_ID = re.compile(r"[0-9a-f]{32}")


@app.command("list")
def list_events(
    dead: Annotated[bool, typer.Option("--dead", help="Only dead events.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the events that wait: pending ones, and dead ones, which failed as often as the configuration allows.

    Delivered events are not kept; the log has their ids.

    Example: dropoff-tus outbox list --dead
    """

    async def work(catalog: SqlCatalog, _config: Config) -> list[OutboxRow]:
        return await catalog.outbox.rows(dead_only=dead)

    found = [_json(row) for row in with_catalog(config, work)]
    if as_json:
        print_json(found)
        return
    for item in found:
        problem = f"  {item['problem']}" if item["problem"] else ""
        say(f"{item['event_id']}  {item['state']}  {item['sink']}  {item['kind']}  {item['at']}")
        say(f"  upload {item['upload_id']}, attempts {item['attempts']}, next {item['next_at'] or 'never'}{problem}")
    if not found:
        note("nothing waits")


@app.command()
def resend(
    event: Annotated[
        list[str] | None, typer.Argument(metavar="EVENT...", help="Event ids.", show_default=False)
    ] = None,
    all_dead: Annotated[bool, typer.Option("--all-dead", help="All dead events.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deliver events now, with their attempts counted from zero; a running server does it within a second or so.

    The receiver gets the same event ids as before.

    Example: dropoff-tus outbox resend --all-dead
    """
    if bool(event) == all_dead:
        raise CommandError("name event ids, or write --all-dead; list them with `dropoff-tus outbox list`")
    for text in event or ():
        if _EVENT_ID.fullmatch(text) is None:
            raise CommandError("an event id has 32 digits, 0-9 and a-f; list them with `dropoff-tus outbox list`")

    async def work(catalog: SqlCatalog, _config: Config) -> int:
        return await catalog.outbox.resend(None if all_dead else event, datetime.now(UTC))

    count = with_catalog(config, work)
    if not count and not all_dead:
        raise CommandError("no such event waits; list them with `dropoff-tus outbox list`")
    answer({"resent": count}, f"{count} to be delivered now", as_json=as_json)


def _json(row: OutboxRow) -> dict[str, Any]:
    return {
        "event_id": row.event_id,
        "sink": row.sink.value,
        "kind": row.kind.value,
        "drop_id": row.drop_id,
        "upload_id": row.upload_id,
        "at": stamp(row.at),
        "state": "dead" if row.dead else "pending",
        "attempts": row.attempts,
        "next_at": None if row.dead else stamp(row.next_at),
        "problem": row.problem,
    }
