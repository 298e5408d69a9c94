"""Write `before.tar.gz`: the folder of a server that was stopped for an upgrade, as this release leaves it.

    python -m tests.vectors.server.generate

At each release; before the first one, after each change of store, keys, catalog or configuration, since no program has
to open what was never released. The keys in it protect nothing but these uploads.
"""

import dataclasses
import json
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.support.server_process import Drop, ServerProcess, token_of
from tests.support.tus_raw import metadata

ARCHIVE = Path(__file__).with_name("before.tar.gz")
# So long that nothing expires before the next release is tried.
_SETTINGS = '[tus]\nexpire_after = "36500d"\n'


def content(name: str) -> bytes:
    """Return what an upload of a name is to hold in the end."""
    return f"{name}\n".encode() * 100


def _make(server: ServerProcess) -> dict[str, Any]:
    uploads: list[dict[str, Any]] = []

    def send(drop: Drop, name: str, sent_bytes: int = 1 << 20, concat: str | None = None) -> str:
        given = {"Upload-Metadata": metadata(filename=name), "Upload-Concat": concat}
        url = drop.site.create(len(content(name)), given)
        assert drop.site.patch(url, 0, content(name)[:sent_bytes]).status == 204
        offset = min(sent_bytes, len(content(name)))
        uploads.append({"name": name, "drop": drop.id, "token": token_of(url), "offset": offset})
        return url

    managed, sealed = server.create_drop("--managed", name="managed"), server.create_drop("--sealed", name="sealed")
    for drop in (managed, sealed):
        send(drop, f"{drop.name}.txt")
        send(drop, f"{drop.name}-half.txt", 150)
        send(drop, f"{drop.name}-begun.txt", 0)
    parts = [send(managed, name, concat="partial") for name in ("part 1", "part 2")]
    joined = {"Upload-Concat": f"final;{' '.join(parts)}", "Upload-Metadata": metadata(filename="joined.txt")}
    final = managed.site.post({**joined, "Upload-Length": None})
    ended = send(managed, "ended.txt", 10)
    assert managed.site.delete(ended).status == 204
    server.cli("drop", "close", server.drop.id)
    return {
        "drops": [dataclasses.asdict(drop) for drop in (managed, sealed)],
        "closed": server.drop.id,
        "uploads": uploads,
        "joined": token_of(final.needed("Location")),
        "api_token": server.cli_json("token", "create", "--name", "before", "--scope", "uploads:read")["token"],
    }


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def main() -> None:
    """Make the server, stop it, and pack it."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        server = ServerProcess(folder)
        server.config.write_text(server.config.read_text("utf-8") + _SETTINGS, "utf-8")
        with server:
            told = _make(server)
        (server.data / "told.json").write_text(json.dumps(told, indent=1), "utf-8")
        with tarfile.open(ARCHIVE, "w:gz") as archive:
            archive.add(server.data, ".", filter=_anonymous)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size} bytes")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
