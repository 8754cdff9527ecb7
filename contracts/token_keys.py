"""The opaque form of a delivery token (pure): ``dem_<43 base62>_<6 base62>``.

256 random bits, then a CRC-32 of all that precedes it, so that scanners and this server reject
junk offline; the checksum is no security. SHA-256 is what is stored: a slow hash protects secrets
that can be guessed, and nobody guesses 256 bits.
"""

import hashlib
import re
from typing import Final

from market.kernel.security import InvalidToken
from market.parties.keys import CHECKSUM_WIDTH, RANDOM_WIDTH, checksum, random_digits

KEY_PREFIX: Final = "dem_"
# For secret scanners; public API.
KEY_PATTERN: Final = rf"{KEY_PREFIX}[0-9A-Za-z]{{{RANDOM_WIDTH}}}_[0-9A-Za-z]{{{CHECKSUM_WIDTH}}}"
_KEY: Final = re.compile(KEY_PATTERN, re.ASCII)


def mint_key() -> str:
    """A new key with 256 bits from the system's random source."""
    body = f"{KEY_PREFIX}{random_digits()}"
    return f"{body}_{checksum(body)}"


def key_sha256(text: str) -> str:
    """What is stored of a key. Raises InvalidToken (401) for a wrong form or checksum."""
    if not _KEY.fullmatch(text):
        raise InvalidToken("The key does not have the form of one.")
    body, _, given = text.rpartition("_")
    if given != checksum(body):
        raise InvalidToken("The key's checksum is wrong: it was not copied whole.")
    return hashlib.sha256(text.encode("ascii")).hexdigest()
