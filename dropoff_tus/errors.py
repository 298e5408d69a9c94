"""Every refusal, with a stable code and the HTTP status it hints at.

One root, `DropoffError`. A raiser says what happened (and what happened to the bytes); only `server.http.middleware`
turns it into a response. Codes are tusd's where tusd has one, and ours otherwise; they never change.
Messages are shown to strangers: they must not contain a code, a token, a key or a digest, and a file name only in the
answer to its own client. No message of a request goes into a log.
"""

from typing import ClassVar


class ToldError(Exception):
    """The root of all errors whose text tells operators the problem and what to do."""


class DropoffError(ToldError):
    """The root of all refusals.

    Attributes:
        code: Stable machine-readable code, the first word of the error body.
        status_hint: The HTTP status that fits; the middleware may translate it (HEAD answers only a few).
        retry_after_seconds: When a repeat may succeed; None where a repeat cannot help.
        close_connection: True where the rest of the request body cannot be waited for.
        cut: For the log, why a body was cut off, of errors that can do that.
        fate: What became of the body's bytes, at the end of the message; set by the code that knows it.
        offset: The durable offset after a body that was cut off; set by the code that knows it.
    """

    code: ClassVar[str] = "ERR_INTERNAL"
    status_hint: ClassVar[int] = 500
    default_retry_after_seconds: ClassVar[int | None] = None
    close_connection: ClassVar[bool] = False
    cut: ClassVar[str | None] = None

    def __init__(self, message: str, *, fate: str | None = None, retry_after_seconds: int | None = None) -> None:
        """Keep the message for the response body and the delay for Retry-After."""
        super().__init__(message)
        self.fate = fate
        self.offset: int | None = None
        self.retry_after_seconds = (
            self.default_retry_after_seconds if retry_after_seconds is None else retry_after_seconds
        )

    @property
    def message(self) -> str:
        """The sentence, and the fate of the bytes."""
        return str(self.args[0]) if self.fate is None else f"{self.args[0]}; {self.fate}"


# ---- the request as written -------------------------------------------------------------------------------


class UnsupportedVersionError(DropoffError):
    """Tus-Resumable is missing or is not 1.0.0."""

    code, status_hint = "ERR_UNSUPPORTED_VERSION", 412


class MethodNotAllowedError(DropoffError):
    """The resource does not know this method."""

    code, status_hint = "ERR_METHOD_NOT_ALLOWED", 405

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        """Keep the methods for the Allow header."""
        super().__init__(message)
        self.allow = allow


class InvalidUploadLengthError(DropoffError):
    """Upload-Length is missing, malformed or too large for a signed 64-bit number."""

    code, status_hint = "ERR_INVALID_UPLOAD_LENGTH", 400


class LengthAndDeferError(DropoffError):
    """Both Upload-Length and Upload-Defer-Length were sent."""

    code, status_hint = "ERR_UPLOAD_LENGTH_AND_UPLOAD_DEFER_LENGTH", 400


class InvalidDeferLengthError(DropoffError):
    """Upload-Defer-Length is not 1."""

    code, status_hint = "ERR_INVALID_UPLOAD_DEFER_LENGTH", 400


class InvalidOffsetError(DropoffError):
    """Upload-Offset is missing or malformed."""

    code, status_hint = "ERR_INVALID_OFFSET", 400


class InvalidContentTypeError(DropoffError):
    """A PATCH without `application/offset+octet-stream`."""

    code, status_hint = "ERR_INVALID_CONTENT_TYPE", 415


class InvalidMetadataError(DropoffError):
    """Upload-Metadata does not follow the grammar, or is too large."""

    code, status_hint = "ERR_INVALID_METADATA", 400


class InvalidDigestError(DropoffError):
    """A `sha256`, `sha512` or `md5` in the metadata is no such digest."""

    code, status_hint = "ERR_INVALID_DIGEST", 400


class InvalidChecksumError(DropoffError):
    """Upload-Checksum is malformed, names an unknown algorithm or has the wrong size."""

    code, status_hint = "ERR_INVALID_CHECKSUM", 400


class InvalidConcatError(DropoffError):
    """Upload-Concat is malformed, or its parts are not complete partial uploads."""

    code, status_hint = "ERR_INVALID_CONCAT", 400


class HeadersTooLargeError(DropoffError):
    """A header is too long."""

    code, status_hint = "ERR_HEADERS_TOO_LARGE", 431


class MalformedRequestError(DropoffError):
    """The request is not HTTP that the server accepts, for instance a coded transfer."""

    code, status_hint = "ERR_MALFORMED_REQUEST", 400
    close_connection = True


# ---- who may, and the drop-off's limits ---------------------------------------------------------------------


class AccessDeniedError(DropoffError):
    """Unknown drop-off, wrong code or missing code: one answer for all three."""

    code, status_hint = "ERR_ACCESS_DENIED", 403


class TooManyWrongCodesError(DropoffError):
    """Wrong codes came too fast; a right code is never refused by this."""

    code, status_hint = "ERR_TOO_MANY_WRONG_CODES", 429
    default_retry_after_seconds = 60


class UnauthorizedError(DropoffError):
    """No API token, or one that is unknown, expired or revoked: one answer for all that are presented."""

    code, status_hint = "ERR_UNAUTHORIZED", 401

    def __init__(self, message: str, *, presented: bool) -> None:
        """Keep whether there was a token at all, which the challenge tells."""
        super().__init__(message)
        self.presented = presented


class TooManyWrongTokensError(DropoffError):
    """Wrong API tokens came too fast; a right one is never refused by this."""

    code, status_hint = "ERR_TOO_MANY_WRONG_TOKENS", 429
    default_retry_after_seconds = 60


class ScopeMissingError(DropoffError):
    """The API token is good, but not for this."""

    code, status_hint = "ERR_SCOPE_MISSING", 403

    def __init__(self, message: str, *, scope: str) -> None:
        """Keep the scope that it would take."""
        super().__init__(message)
        self.scope = scope


class DropoffNotFoundError(DropoffError):
    """No drop-off has this id. Only operators get this; uploaders get ERR_ACCESS_DENIED."""

    code, status_hint = "ERR_DROPOFF_NOT_FOUND", 404


class DropoffExistsError(DropoffError):
    """Another drop-off has this id already."""

    code, status_hint = "ERR_DROPOFF_EXISTS", 409


class InvalidFieldError(DropoffError):
    """A field of a drop-off or a token has an impossible value; `field` is its name in answers."""

    code, status_hint = "ERR_INVALID_FIELD", 422

    def __init__(self, field: str, problem: str) -> None:
        """Keep the field, and a predicate that says what to write instead."""
        super().__init__(f"{field} {problem}")
        self.field, self.problem = field, problem


class DropoffClosedError(DropoffError):
    """The operator closed the drop-off."""

    code, status_hint = "ERR_DROPOFF_CLOSED", 403


class DropoffNotOpenError(DropoffError):
    """The drop-off's window has not begun."""

    code, status_hint = "ERR_DROPOFF_NOT_OPEN", 403


class DropoffExpiredError(DropoffError):
    """The drop-off's window is over."""

    code, status_hint = "ERR_DROPOFF_EXPIRED", 403


class DropoffFullError(DropoffError):
    """The number of uploads is used up."""

    code, status_hint = "ERR_DROPOFF_FULL", 403


class QuotaError(DropoffError):
    """The drop-off's bytes are used up."""

    code, status_hint = "ERR_QUOTA", 413


class TypeNotAllowedError(DropoffError):
    """The file's type or name is not among those the drop-off takes."""

    code, status_hint = "ERR_TYPE_NOT_ALLOWED", 422


class PolicyTamperedError(DropoffError):
    """A drop-off's terms are not those that the server signed: nothing is accepted for it."""

    code, status_hint = "ERR_POLICY_TAMPERED", 500


class CatalogTamperedError(DropoffError):
    """The catalog says of an upload otherwise than its signed log: nothing of it is shown, sent or ended."""

    code, status_hint = "ERR_CATALOG_TAMPERED", 500


# ---- the upload ---------------------------------------------------------------------------------------------


class UploadNotFoundError(DropoffError):
    """No such upload in this drop-off."""

    code, status_hint = "ERR_UPLOAD_NOT_FOUND", 404


class UploadGoneError(DropoffError):
    """The upload was terminated, expired, rejected or ended by the operator."""

    code, status_hint = "ERR_UPLOAD_GONE", 410


class UploadEndingError(UploadGoneError):
    """The upload is being ended while its body arrives."""

    close_connection, cut = True, "closed"


class ModifyFinalError(DropoffError):
    """A PATCH on a concatenation, or a body on its creation."""

    code, status_hint = "ERR_MODIFY_FINAL", 403


class TerminateFinishedError(DropoffError):
    """DELETE of a finished upload where the operator does not allow it."""

    code, status_hint = "ERR_TERMINATE_FINISHED", 403


class PartNotFoundError(DropoffError):
    """A part of a concatenation does not exist in this drop-off."""

    code, status_hint = "ERR_UPLOAD_NOT_FOUND", 404


class PartInUseError(DropoffError):
    """A part of a concatenation belongs to another final upload already."""

    code, status_hint = "ERR_PART_IN_USE", 409


class UploadExistsError(DropoffError):
    """Another creation has this token already: its URL says where it stands."""

    code, status_hint = "ERR_UPLOAD_EXISTS", 409


class InvalidTokenError(DropoffError):
    """Dropoff-Token is no token."""

    code, status_hint = "ERR_INVALID_TOKEN", 400


class MismatchedOffsetError(DropoffError):
    """Upload-Offset is not the durable offset."""

    code, status_hint = "ERR_MISMATCHED_OFFSET", 409


class UploadInterruptedError(DropoffError):
    """Another request took the upload over."""

    code, status_hint = "ERR_UPLOAD_INTERRUPTED", 409
    close_connection, cut = True, "taken over"


class LengthFixedError(DropoffError):
    """A declared length is declared again, differently."""

    code, status_hint = "ERR_INVALID_UPLOAD_LENGTH", 400


class MaxSizeExceededError(DropoffError):
    """The upload is, or grows, larger than the server or the drop-off accepts."""

    code, status_hint = "ERR_MAX_SIZE_EXCEEDED", 413
    close_connection = True


class UploadSizeExceededError(DropoffError):
    """The body goes past the upload's declared length."""

    code, status_hint = "ERR_UPLOAD_SIZE_EXCEEDED", 413
    close_connection = True


class TooManySegmentsError(DropoffError):
    """The upload consists of too many small pieces."""

    code, status_hint = "ERR_TOO_MANY_SEGMENTS", 413
    close_connection = True


class ChecksumMismatchError(DropoffError):
    """The body does not match Upload-Checksum; its bytes were discarded."""

    code, status_hint = "ERR_CHECKSUM_MISMATCH", 460


class DigestMismatchError(DropoffError):
    """The finished upload does not match the digest given in its metadata; it is rejected."""

    code, status_hint = "ERR_DIGEST_MISMATCH", 422


class NotSealedError(DropoffError):
    """The drop-off, or the upload's metadata, says that the browser seals the content, and it did not."""

    code, status_hint = "ERR_NOT_SEALED", 422


class UploadLockedError(DropoffError):
    """The lease was not obtained in time."""

    code, status_hint = "ERR_UPLOAD_LOCKED", 423
    default_retry_after_seconds = 2


class UploadFinishingError(DropoffError):
    """All bytes are here and the server is still finishing."""

    code, status_hint = "ERR_UPLOAD_FINISHING", 423
    default_retry_after_seconds = 2


# ---- the server and its disk ----------------------------------------------------------------------------------


class BodyCutError(DropoffError):
    """The client went away in the middle of the body."""

    code, status_hint = "ERR_CONNECTION_RESET", 400
    close_connection, cut = True, "client gone"


class BodyTimeoutError(DropoffError):
    """The body stood still for too long."""

    code, status_hint = "ERR_READ_TIMEOUT", 503
    default_retry_after_seconds = 1
    close_connection, cut = True, "idle"


class BodySlowError(BodyTimeoutError):
    """The body came more slowly than the server accepts."""

    cut = "too slow"


class ServerShutdownError(DropoffError):
    """The server is stopping."""

    code, status_hint = "ERR_SERVER_SHUTDOWN", 503
    default_retry_after_seconds = 5
    close_connection, cut = True, "server stopped"


class StorageFullError(DropoffError):
    """The disk is full, or below its floor."""

    code, status_hint = "ERR_STORAGE_FULL", 507
    default_retry_after_seconds = 60
    close_connection, cut = True, "disk full"


class StorageFailedError(DropoffError):
    """The disk failed; the upload is refused until recovery has looked at it."""

    code, status_hint = "ERR_STORAGE_FAILED", 503
    default_retry_after_seconds = 30
    close_connection, cut = True, "disk failed"


class UploadDamagedError(DropoffError):
    """The stored upload does not verify; it is refused and nothing of it is changed."""

    code, status_hint = "ERR_UPLOAD_DAMAGED", 500


class KeyMissingError(DropoffError):
    """No identity at hand opens this upload."""

    code, status_hint = "ERR_KEY_MISSING", 503
    default_retry_after_seconds = 60


class CatalogUnavailableError(DropoffError):
    """The database does not answer; bytes that were acknowledged are safe."""

    code, status_hint = "ERR_CATALOG_UNAVAILABLE", 503
    default_retry_after_seconds = 5


class CatalogFullError(CatalogUnavailableError):
    """The database's disk is full, so that it takes nothing."""

    code, status_hint = StorageFullError.code, StorageFullError.status_hint
    default_retry_after_seconds = 60


class SiteUnavailableError(DropoffError):
    """The site that is asked before an upload begins gives no answer, so nothing begins."""

    code, status_hint = "ERR_SITE_UNAVAILABLE", 503
    default_retry_after_seconds = 5


class RefusedBySiteError(DropoffError):
    """The site that is asked before an upload begins refuses it, in its own words and with its own status."""

    code, status_hint = "ERR_REFUSED_BY_SITE", 400

    def __init__(self, message: str, *, status: int = 400) -> None:
        """Keep the words, one plain line, and the status from 400 to 499."""
        super().__init__(message)
        self.status = status
