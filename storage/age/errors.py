"""The errors of the age format.

`NoMatchingIdentity` means "wrong key, try the next"; every other one means that the input is not what it claims to
be. No message ever contains input, since the input may be a secret key pasted into the wrong place.
"""


class AgeError(ValueError):
    """The root: catch this one to catch whatever hostile input can cause."""


class HeaderError(AgeError):
    """The header breaks the grammar, a stanza is malformed, or the header exceeds a limit."""


class HeaderMacError(AgeError):
    """A file key was unwrapped, but the header was changed after it was made."""


class NoMatchingIdentity(AgeError):  # noqa: N818 - an expected answer: try the next key
    """The header is well formed, and none of the identities opens it."""


class PayloadError(AgeError):
    """A chunk, or the length of the payload, is not what the writer sealed."""


class MixedRecipients(AgeError):  # noqa: N818 - named after the state it reports
    """Hybrid and other recipients in one file would undo what the hybrid ones protect."""


class KeyTextError(AgeError):
    """The text or the bytes of a key are malformed."""
