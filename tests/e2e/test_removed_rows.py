"""Names and addresses that were changed or taken out are not left in the database's file."""

from pathlib import Path

from tests.e2e.needles import find, of_text
from tests.support.hook_server import HookServer
from tests.support.server_process import ServerProcess

_MAIL = {"MAIL__SERVER": "127.0.0.1:9", "MAIL__SECURITY": "none", "MAIL__SENDER": "a@example.org"}


def test_what_was_edited_or_delivered_is_not_left_in_free_room(tmp_path: Path) -> None:
    """A stopped server's file has none of it, in no form; while it runs, the write-ahead log may."""
    with HookServer() as site:
        secret = tmp_path / "webhook-secret"
        secret.write_text("a secret of the webhook, long enough")
        secret.chmod(0o600)
        hooks = {
            "WEBHOOK__SECRET": str(secret),
            "WEBHOOK__URL": site.url,
            "WEBHOOK__ALLOW_PRIVATE_ADDRESSES": "127.0.0.1",
        }
        with ServerProcess(tmp_path, environment={**_MAIL, **hooks}) as server:
            before = ("--contact", "Needle-Contact-of-old", "--notify", "needle-notify@example.org")
            drops = [server.create_drop(*before, name="Needle-Name-of-old") for _ in range(8)]
            uploads = [drops[0].site.upload(b"hello") for _ in range(8)]
            site.wait_for(len(uploads))
            for drop in drops:
                server.cli("drop", "edit", drop.id, "--name", "n", "--contact", "", "--notify", "")
    catalog = tmp_path / "data" / "catalog.sqlite3"
    assert not catalog.with_name("catalog.sqlite3-wal").exists()
    needles = of_text("Needle-Contact-of-old") | of_text("needle-notify@") | of_text("Needle-Name-of-old")
    assert find(needles, [catalog]) == []
