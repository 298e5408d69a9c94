"""`keys show`: the public keys that others may have."""

from __future__ import annotations

import base64

from server.cli.context import ConfigOption, JsonOption, read_config
from server.cli.keys import app
from server.cli.output import note, print_json, say


@app.command("show")
def show_keys(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print the public key that signs receipts and logs, to pin; nothing secret.

    Give it to the people who verify receipts, by a way they trust. After a rotation older receipts still verify with
    the key of their time, which --json lists as retired.

    Example: dropoff-tus keys show > signing-key.pub
    """
    loaded = read_config(config)
    from storage.keyring.signing import key_id, load_signing_key

    signing = load_signing_key(loaded.keys.signing_key)
    text = base64.b64encode(signing.public_bytes).decode("ascii")
    if as_json:
        retired = [{"id": key_id(raw), "key": base64.b64encode(raw).decode("ascii")} for raw in signing.retired]
        print_json({"id": signing.id, "key": text, "retired": retired, "recipients": list(loaded.keys.root_recipients)})
        return
    say(text)
    note(f"public signing key {signing.id}; for `dropoff-tus verify-receipt --key`")
