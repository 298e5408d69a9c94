"""Signatures of what we send: HMAC-SHA-256 over id, time and body, in the headers of Standard Webhooks.

Source: https://www.standardwebhooks.com (webhook-id, webhook-timestamp, webhook-signature); docs/reference/webhooks.md.
"""

import base64
import binascii
import hashlib
import hmac

_PREFIX = "whsec_"
_LEAST_BYTES = 16


class SecretError(ValueError):
    """The text cannot be a secret; the message says what to write, and quotes nothing."""


def read_secret(text: str) -> bytes:
    """Read a secret: `whsec_` and base64, or any text of 16 bytes or more.

    Raises:
        SecretError: It is too short, or no base64.
    """
    text = text.strip()
    secret = text.encode("utf-8")
    if text.startswith(_PREFIX):
        try:
            secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            raise SecretError(f"is no base64 behind {_PREFIX}; make one with `openssl rand -hex 32`") from None
    if len(secret) < _LEAST_BYTES:
        raise SecretError(f"has less than {_LEAST_BYTES} bytes; make one with `openssl rand -hex 32`")
    return secret


def signed_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers that let a receiver check who sent a body and when. `timestamp` is seconds since 1970."""
    signed = f"{message_id}.{timestamp}.".encode("ascii") + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode('ascii')}",
    }
