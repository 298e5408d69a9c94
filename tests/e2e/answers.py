"""Common to every answer below /files, to any request."""

from tests.support.tus_raw import Response


def assert_refused(answer: Response, status: int, code: str | None = None) -> Response:
    """Check a refusal: the status, and the form that clients and operators rely on; return it.

    Args:
        answer: A response to anything but HEAD.
        status: The status that the design's table gives.
        code: The stable error code, where the table names one.
    """
    assert answer.status == status, (answer.status, answer.body)
    assert answer.needed("Tus-Resumable") == "1.0.0"
    assert answer.needed("X-Content-Type-Options") == "nosniff"
    assert answer.needed("Content-Type").lower().startswith("text/plain")
    text = answer.body.decode("ascii")
    assert text.startswith("ERR_")
    assert ": " in text
    assert text.endswith("\n")
    if code is not None:
        assert answer.error_code == code
    return answer


def assert_head(answer: Response, status: int) -> Response:
    """Check an answer to HEAD: no body, never cached; return it."""
    assert answer.status == status
    assert answer.needed("Tus-Resumable") == "1.0.0"
    assert answer.needed("X-Content-Type-Options") == "nosniff"
    if status == 200:
        # tus 1.0.0, HEAD: "The Server MUST prevent the client and/or proxies from caching the response".
        assert answer.needed("Cache-Control") == "no-store"
    return answer
