"""The payload, in both of tusd's forms, and its signature."""

import json

import pytest

from server.outbox.payload import hook_request, upload_json
from server.outbox.signing import SecretError, read_secret, signed_headers

_UPLOAD = upload_json(upload_id="ab", length=None, offset=0, metadata={"filename": "ü"}, final=True, parts=["cd"])


def test_v1_is_the_inside_of_v2_with_the_name_in_a_header() -> None:
    """Sites that read tusd 1 find all where it was."""
    newer, _headers = hook_request("post-finish", _UPLOAD, "/files/d/ab", "v2")
    older, headers = hook_request("post-finish", _UPLOAD, "/files/d/ab", "v1")
    assert headers == {"Hook-Name": "post-finish"}
    assert json.loads(newer) == {"Type": "post-finish", "Event": json.loads(older)}
    told = json.loads(older)
    assert set(told) == {"Upload", "HTTPRequest"}
    assert " ".join(told["HTTPRequest"]) == "Method URI RemoteAddr Header"
    names = "ID Size SizeIsDeferred Offset MetaData IsPartial IsFinal PartialUploads Storage"
    assert " ".join(told["Upload"]) == names
    assert (told["Upload"]["SizeIsDeferred"], told["Upload"]["PartialUploads"]) == (True, ["cd"])


def test_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification's own libraries."""
    secret = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("text", ["", "short", "whsec_AAAA", "whsec_not base64, but long enough"])
def test_secret_that_is_none_is_told_without_it(text: str) -> None:
    """With what to write instead."""
    with pytest.raises(SecretError, match="openssl rand") as caught:
        read_secret(text)
    assert not text or text not in str(caught.value)
