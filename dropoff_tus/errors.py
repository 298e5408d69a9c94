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

    def __init_subclass__(
        cls,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after_seconds: int | None = None,
        close_connection: bool = False,
        cut: str | None = None,
    ) -> None:
        """Keep what a refusal says differently from the one it is a kind of; one that cuts a body off closes, too."""
        super().__init_subclass__()
        cls.code = code or cls.code
        cls.status_hint = status or cls.status_hint
        cls.default_retry_after_seconds = retry_after_seconds or cls.default_retry_after_seconds
        cls.close_connection = close_connection or cut is not None or cls.close_connection
        cls.cut = cut or cls.cut

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


class UnsupportedVersionError(DropoffError, code="ERR_UNSUPPORTED_VERSION", status=412):
    """Tus-Resumable is missing or is not 1.0.0."""


class MethodNotAllowedError(DropoffError, code="ERR_METHOD_NOT_ALLOWED", status=405):
    """The resource does not know this method."""

    def __init__(self, message: str, *, allow: tuple[str, ...]) -> None:
        """Keep the methods for the Allow header."""
        super().__init__(message)
        self.allow = allow


class InvalidUploadLengthError(DropoffError, code="ERR_INVALID_UPLOAD_LENGTH", status=400):
    """Upload-Length is missing, malformed or too large for a signed 64-bit number."""


class LengthAndDeferError(DropoffError, code="ERR_UPLOAD_LENGTH_AND_UPLOAD_DEFER_LENGTH", status=400):
    """Both Upload-Length and Upload-Defer-Length were sent."""


class InvalidDeferLengthError(DropoffError, code="ERR_INVALID_UPLOAD_DEFER_LENGTH", status=400):
    """Upload-Defer-Length is not 1."""


class InvalidOffsetError(DropoffError, code="ERR_INVALID_OFFSET", status=400):
    """Upload-Offset is missing or malformed."""


class InvalidContentTypeError(DropoffError, code="ERR_INVALID_CONTENT_TYPE", status=415):
    """A PATCH without `application/offset+octet-stream`."""


class InvalidMetadataError(DropoffError, code="ERR_INVALID_METADATA", status=400):
    """Upload-Metadata does not follow the grammar, or is too large."""


class InvalidDigestError(DropoffError, code="ERR_INVALID_DIGEST", status=400):
    """A `sha256`, `sha512` or `md5` in the metadata is no such digest."""


class InvalidChecksumError(DropoffError, code="ERR_INVALID_CHECKSUM", status=400):
    """Upload-Checksum is malformed, names an unknown algorithm or has the wrong size."""


class InvalidConcatError(DropoffError, code="ERR_INVALID_CONCAT", status=400):
    """Upload-Concat is malformed, or its parts are not complete partial uploads."""


class HeadersTooLargeError(DropoffError, code="ERR_HEADERS_TOO_LARGE", status=431):
    """A header is too long."""


class MalformedRequestError(DropoffError, code="ERR_MALFORMED_REQUEST", status=400, close_connection=True):
    """The request is not HTTP that the server accepts, for instance a coded transfer."""


# ---- who may, and the drop-off's limits ---------------------------------------------------------------------


class AccessDeniedError(DropoffError, code="ERR_ACCESS_DENIED", status=403):
    """Unknown drop-off, wrong code or missing code: one answer for all three."""


class TooManyWrongCodesError(DropoffError, code="ERR_TOO_MANY_WRONG_CODES", status=429, retry_after_seconds=60):
    """Wrong codes came too fast; a right code is never refused by this."""


class UnauthorizedError(DropoffError, code="ERR_UNAUTHORIZED", status=401):
    """No API token, or one that is unknown, expired or revoked: one answer for all that are presented."""

    def __init__(self, message: str, *, presented: bool) -> None:
        """Keep whether there was a token at all, which the challenge tells."""
        super().__init__(message)
        self.presented = presented


class TooManyWrongTokensError(DropoffError, code="ERR_TOO_MANY_WRONG_TOKENS", status=429, retry_after_seconds=60):
    """Wrong API tokens came too fast; a right one is never refused by this."""


class ScopeMissingError(DropoffError, code="ERR_SCOPE_MISSING", status=403):
    """The API token is good, but not for this."""

    def __init__(self, message: str, *, scope: str) -> None:
        """Keep the scope that it would take."""
        super().__init__(message)
        self.scope = scope


class DropoffNotFoundError(DropoffError, code="ERR_DROPOFF_NOT_FOUND", status=404):
    """No drop-off has this id. Only operators get this; uploaders get ERR_ACCESS_DENIED."""


class DropoffExistsError(DropoffError, code="ERR_DROPOFF_EXISTS", status=409):
    """Another drop-off has this id already."""


class InvalidFieldError(DropoffError, code="ERR_INVALID_FIELD", status=422):
    """A field of a drop-off or a token has an impossible value; `field` is its name in answers."""

    def __init__(self, field: str, problem: str) -> None:
        """Keep the field, and a predicate that says what to write instead."""
        super().__init__(f"{field} {problem}")
        self.field, self.problem = field, problem


class DropoffClosedError(DropoffError, code="ERR_DROPOFF_CLOSED", status=403):
    """The operator closed the drop-off."""


class DropoffNotOpenError(DropoffError, code="ERR_DROPOFF_NOT_OPEN", status=403):
    """The drop-off's window has not begun."""


class DropoffExpiredError(DropoffError, code="ERR_DROPOFF_EXPIRED", status=403):
    """The drop-off's window is over."""


class DropoffFullError(DropoffError, code="ERR_DROPOFF_FULL", status=403):
    """The number of uploads is used up."""


class QuotaError(DropoffError, code="ERR_QUOTA", status=413):
    """The drop-off's bytes are used up."""


class TypeNotAllowedError(DropoffError, code="ERR_TYPE_NOT_ALLOWED", status=422):
    """The file's type or name is not among those the drop-off takes."""


class PolicyTamperedError(DropoffError, code="ERR_POLICY_TAMPERED", status=500):
    """A drop-off's terms are not those that the server signed: nothing is accepted for it."""


class CatalogTamperedError(DropoffError, code="ERR_CATALOG_TAMPERED", status=500):
    """The catalog says of an upload otherwise than its signed log: nothing of it is shown, sent or ended."""


# ---- the upload ---------------------------------------------------------------------------------------------


class UploadNotFoundError(DropoffError, code="ERR_UPLOAD_NOT_FOUND", status=404):
    """No such upload in this drop-off."""


class UploadGoneError(DropoffError, code="ERR_UPLOAD_GONE", status=410):
    """The upload was terminated, expired, rejected or ended by the operator."""


class UploadEndingError(UploadGoneError, cut="closed"):
    """The upload is being ended while its body arrives."""


class ModifyFinalError(DropoffError, code="ERR_MODIFY_FINAL", status=403):
    """A PATCH on a concatenation, or a body on its creation."""


class TerminateFinishedError(DropoffError, code="ERR_TERMINATE_FINISHED", status=403):
    """DELETE of a finished upload where the operator does not allow it."""


class PartNotFoundError(DropoffError, code="ERR_UPLOAD_NOT_FOUND", status=404):
    """A part of a concatenation does not exist in this drop-off."""


class PartInUseError(DropoffError, code="ERR_PART_IN_USE", status=409):
    """A part of a concatenation belongs to another final upload already."""


class UploadExistsError(DropoffError, code="ERR_UPLOAD_EXISTS", status=409):
    """Another creation has this token already: its URL says where it stands."""


class InvalidTokenError(DropoffError, code="ERR_INVALID_TOKEN", status=400):
    """Dropoff-Token is no token."""


class MismatchedOffsetError(DropoffError, code="ERR_MISMATCHED_OFFSET", status=409):
    """Upload-Offset is not the durable offset."""


class UploadInterruptedError(DropoffError, code="ERR_UPLOAD_INTERRUPTED", status=409, cut="taken over"):
    """Another request took the upload over."""


class LengthFixedError(DropoffError, code="ERR_INVALID_UPLOAD_LENGTH", status=400):
    """A declared length is declared again, differently."""


class MaxSizeExceededError(DropoffError, code="ERR_MAX_SIZE_EXCEEDED", status=413, close_connection=True):
    """The upload is, or grows, larger than the server or the drop-off accepts."""


class UploadSizeExceededError(DropoffError, code="ERR_UPLOAD_SIZE_EXCEEDED", status=413, close_connection=True):
    """The body goes past the upload's declared length."""


class TooManySegmentsError(DropoffError, code="ERR_TOO_MANY_SEGMENTS", status=413, close_connection=True):
    """The upload consists of too many small pieces."""


class ChecksumMismatchError(DropoffError, code="ERR_CHECKSUM_MISMATCH", status=460):
    """The body does not match Upload-Checksum; its bytes were discarded."""


class DigestMismatchError(DropoffError, code="ERR_DIGEST_MISMATCH", status=422):
    """The finished upload does not match the digest given in its metadata; it is rejected."""


class NotSealedError(DropoffError, code="ERR_NOT_SEALED", status=422):
    """The drop-off, or the upload's metadata, says that the browser seals the content, and it did not."""


class UploadLockedError(DropoffError, code="ERR_UPLOAD_LOCKED", status=423, retry_after_seconds=2):
    """The lease was not obtained in time."""


class UploadFinishingError(DropoffError, code="ERR_UPLOAD_FINISHING", status=423, retry_after_seconds=2):
    """All bytes are here and the server is still finishing."""


# ---- the server and its disk ----------------------------------------------------------------------------------


class BodyCutError(DropoffError, code="ERR_CONNECTION_RESET", status=400, cut="client gone"):
    """The client went away in the middle of the body."""


class BodyTimeoutError(DropoffError, code="ERR_READ_TIMEOUT", status=503, retry_after_seconds=1, cut="idle"):
    """The body stood still for too long."""


class BodySlowError(BodyTimeoutError, cut="too slow"):
    """The body came more slowly than the server accepts."""


class ServerShutdownError(
    DropoffError, code="ERR_SERVER_SHUTDOWN", status=503, retry_after_seconds=5, cut="server stopped"
):
    """The server is stopping."""


class StorageFullError(DropoffError, code="ERR_STORAGE_FULL", status=507, retry_after_seconds=60, cut="disk full"):
    """The disk is full, or below its floor."""


class StorageFailedError(
    DropoffError, code="ERR_STORAGE_FAILED", status=503, retry_after_seconds=30, cut="disk failed"
):
    """The disk failed; the upload is refused until recovery has looked at it."""


class UploadDamagedError(DropoffError, code="ERR_UPLOAD_DAMAGED", status=500):
    """The stored upload does not verify; it is refused and nothing of it is changed."""


class KeyMissingError(DropoffError, code="ERR_KEY_MISSING", status=503, retry_after_seconds=60):
    """No identity at hand opens this upload."""


class CatalogUnavailableError(DropoffError, code="ERR_CATALOG_UNAVAILABLE", status=503, retry_after_seconds=5):
    """The database does not answer; bytes that were acknowledged are safe."""


class CatalogFullError(CatalogUnavailableError, code="ERR_STORAGE_FULL", status=507, retry_after_seconds=60):
    """The database's disk is full, so that it takes nothing."""


class SiteUnavailableError(DropoffError, code="ERR_SITE_UNAVAILABLE", status=503, retry_after_seconds=5):
    """The site that is asked before an upload begins gives no answer, so nothing begins."""


class RefusedBySiteError(DropoffError, code="ERR_REFUSED_BY_SITE", status=400):
    """The site that is asked before an upload begins refuses it, in its own words and with its own status."""

    def __init__(self, message: str, *, status: int = 400) -> None:
        """Keep the words, one plain line, and the status from 400 to 499."""
        super().__init__(message)
        self.status = status
