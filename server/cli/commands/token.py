"""`token …`: operators' keys to the API."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from dropoff_tus.model import ApiToken
from server.answers import ApiTokenAnswer
from server.cli.commands.drop import load_keys
from server.cli.context import ConfigOption, JsonOption, group, parsed
from server.cli.opening import with_catalog
from server.cli.output import CommandError, answer, note, print_json, say, show
from server.clock import SystemClock
from server.settings.config import Config
from server.settings.units import parse_time
from server.usecases.api_tokens import create_api_token
from storage.catalog import SqlCatalog
from storage.files.marks import revoked_tokens

app = group("Make, list and revoke the tokens with which programs use the API.")


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Its user or use.", show_default=False)],
    scope: Annotated[
        list[str],
        typer.Option(
            help="Its scopes: drops:read, drops:write, uploads:read, uploads:download or uploads:delete. Repeatable.",
            show_default=False,
        ),
    ],
    expires: Annotated[str | None, typer.Option(help="30d, or 2030-01-31T12:00:00Z; without: never.")] = None,
    drop: Annotated[
        str | None, typer.Option("--drop", metavar="ID", help="Only for this drop-off; without: for all.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token, and show it this once.

    Give each program a token of its own with the fewest scopes that do. With --drop it is only for that drop-off, and
    makes none. It goes into the header Authorization, after the word Bearer. docs/reference/api.md describes the API.

    Example: dropoff-tus token create --name nightly-fetch --scope uploads:read --scope uploads:download --expires 90d
    """
    expires_at = None
    if expires not in {None, "", "0"}:
        expires_at = parsed(lambda text: parse_time(text, datetime.now(UTC)), expires or "", "--expires")

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        token, secret = await create_api_token(
            catalog,
            load_keys(conf).api_token_mac,
            SystemClock(),
            name=name,
            scopes=scope,
            expires_at=expires_at,
            drop_id=drop,
        )
        return {**ApiTokenAnswer.of(token).model_dump(mode="json"), "token": secret}

    made = with_catalog(config, work)
    if as_json:
        print_json(made)
        return
    say(f"id:       {made['id']}")
    say(f"scopes:   {', '.join(made['scopes'])}")
    say(f"drop-off: {made['drop_id'] or 'all'}")
    say(f"expires:  {made['expires_at'] or 'never'}")
    say(f"token:    {made['token']}   (shown this once)")


@app.command("list")
def list_tokens(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all tokens, expired and revoked ones too, oldest first.

    Example: dropoff-tus token list --json
    """

    async def work(catalog: SqlCatalog, _conf: Config) -> list[dict[str, Any]]:
        return [ApiTokenAnswer.of(token).model_dump(mode="json") for token in await catalog.tokens()]

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
        return
    for item in found:
        until = f"revoked {item['revoked_at']}" if item["revoked_at"] else f"expires {item['expires_at'] or 'never'}"
        for_drop = f"  of {item['drop_id']}" if item["drop_id"] else ""
        say(f"{item['id']}  {until}  {','.join(item['scopes'])}{for_drop}  {show(item['name'])}")
    if not found:
        note("there is no token yet; make one with: dropoff-tus token create --name NAME --scope SCOPE")


@app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id.", show_default=False)],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a token; a running server refuses it from its next request on. There is no way back.

    Example: dropoff-tus token revoke 5f0c0b6d3a5e4f0e
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        if await catalog.token(token_id) is None:
            raise CommandError("there is no token of this id; list them with `dropoff-tus token list`")
        # First, since it holds whatever the catalog says.
        revoked_tokens(Path(conf.store.keys_dir)).add(token_id)
        await catalog.revoke_token(token_id, SystemClock().now())
        return ApiTokenAnswer.of(cast("ApiToken", await catalog.token(token_id))).model_dump(mode="json")

    done = with_catalog(config, work)
    answer(done, "revoked", as_json=as_json)
