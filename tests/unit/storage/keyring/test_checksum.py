"""The checksum with no key is the GMAC that openssl computes, in whatever pieces it comes."""

import subprocess

import pytest

from storage.keyring.checksum import Checksum
from tests.support.programs import require_program

_OPTIONS = ["-macopt", f"hexkey:{'0' * 32}", "-macopt", f"hexiv:{'0' * 24}", "-in", "/dev/stdin"]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 70_000])
def test_checksum_is_what_openssl_says(size: int) -> None:
    """Also in pieces that end within a block."""
    content = bytes(at * at % 251 for at in range(size))
    command = [str(require_program("openssl")), "mac", "-cipher", "AES-128-GCM", *_OPTIONS, "GMAC"]
    said = subprocess.run(command, input=content, capture_output=True, check=True).stdout.decode().strip().lower()
    for step in (1000, 7, max(size, 1)):
        checksum = Checksum()
        for at in range(0, size, step):
            checksum.update(memoryview(content)[at : at + step])
        assert checksum.hexdigest() == said
