"""The format of client secrets (pure): ``mkt_<sandbox|live>_<43 base62>_<6 base62>``.

The fixed prefix lets secret scanners find leaked keys, the environment is readable so that a
live key never reaches a sandbox by mistake, and the trailing CRC-32 of all that precedes it
lets anyone reject junk offline (the scheme GitHub documented for its tokens in April 2021).
The checksum is no security: 256 random bits are.
"""

import re
import secrets
import zlib
from enum import StrEnum
from typing import Final

RANDOM_BYTES: Final = 32
# 62**43 > 2**256 and 62**6 > 2**32: the widths at which every value fits.
RANDOM_WIDTH: Final = 43
CHECKSUM_WIDTH: Final = 6
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# For secret scanners and log redaction; public API.
SECRET_PATTERN: Final = (
    rf"mkt_(?:sandbox|live)_[0-9A-Za-z]{{{RANDOM_WIDTH}}}_[0-9A-Za-z]{{{CHECKSUM_WIDTH}}}"
)
SECRET_LENGTH_MAX: Final = len("mkt_sandbox_") + RANDOM_WIDTH + 1 + CHECKSUM_WIDTH
_SECRET: Final = re.compile(SECRET_PATTERN, re.ASCII)


class KeyEnvironment(StrEnum):
    """Where a secret is valid; the second part of its text."""

    SANDBOX = "sandbox"
    LIVE = "live"


class MalformedSecret(ValueError):
    """The text is not a client secret: wrong form or wrong checksum."""


def mint_secret(environment: KeyEnvironment) -> str:
    """A new client secret with 256 bits from the system's random source."""
    body = f"mkt_{environment.value}_{random_digits()}"
    return f"{body}_{checksum(body)}"


def random_digits() -> str:
    """256 bits from the system's random source in 43 base62 digits."""
    return _base62(int.from_bytes(secrets.token_bytes(RANDOM_BYTES)), width=RANDOM_WIDTH)


def secret_environment(text: str) -> KeyEnvironment:
    """The environment that ``text`` belongs to, checked offline.

    Raises MalformedSecret when the form or the checksum is wrong.
    """
    if not _SECRET.fullmatch(text):
        raise MalformedSecret("not of the form mkt_<sandbox|live>_<random>_<checksum>")
    body, _, given = text.rpartition("_")
    if given != checksum(body):
        raise MalformedSecret("the checksum does not match")
    return KeyEnvironment(text.split("_", 2)[1])


def checksum(body: str) -> str:
    """CRC-32 (ISO 3309, as zlib computes it) of ``body`` in six base62 digits."""
    return _base62(zlib.crc32(body.encode("ascii")), width=CHECKSUM_WIDTH)


def _base62(number: int, *, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    assert number == 0, "the width holds every value"
    return "".join(reversed(digits))
