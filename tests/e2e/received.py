"""The truths once a client believes that its upload succeeded."""

import hashlib

from tests.support.server_process import Drop, ServerProcess, UploadRow


def assert_received(
    server: ServerProcess, drop: Drop, upload_url: str | None, content: bytes, *, filename: str | None
) -> UploadRow:
    """Compare what the operator sees and exports with what was sent, and return the row.

    Args:
        server: The running server.
        drop: The managed drop-off that the upload went to.
        upload_url: The upload's URL, as the client learned it.
        content: The sent bytes.
        filename: The name in the metadata, None if there was none.
    """
    assert upload_url is not None
    row = server.row(upload_url, drop)
    assert row["state"] == "complete"
    assert row["drop_id"] == drop.id
    assert row["filename"] == filename
    assert row["length"] == row["offset"] == len(content)
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    # Compared by length first: a diff of megabytes would hide what is wrong.
    exported = server.export(upload_url)
    assert len(exported) == len(content)
    assert exported == content
    return row
