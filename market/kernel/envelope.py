"""Envelope encryption of secrets that the exchange must use again, such as a seller's API key.

Each secret has a data key of its own; that is wrapped by a key-encryption key, which lives in a
file and never in the database. A copy of the database alone reveals nothing, and changing the
key-encryption key rewraps 32 bytes per secret without touching it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from market.kernel.errors import Unavailable

KEY_BYTES: Final = 32
_FORM: Final = b"\x01"
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_WRAPPED_BYTES: Final = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES
_HEAD_BYTES: Final = len(_FORM) + _ID_BYTES + _WRAPPED_BYTES


class SecretsUnavailable(Unavailable):
    """No key-encryption key, or not the one that a secret was sealed under."""

    code, title = "secrets_unavailable", "Stored secrets cannot be used now"
    default_hint = "The operator sets MARKET_SECRET_KEY_DIR; nothing was charged."


class Envelope:
    """Seals under the last key, opens under all of them (rotation)."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys.values()):
            raise ValueError(f"an envelope needs keys of {KEY_BYTES} bytes")
        self._keys = {_id_of(key): key for key in keys.values()}
        self._current = _id_of(list(keys.values())[-1])

    @classmethod
    def load(cls, folder: Path, *, create: bool) -> Envelope:
        """Read ``*.key`` (64 hex digits each) in name order.

        With ``create``, make a first key in an empty folder. Raises SecretsUnavailable (503) when
        there is no key, ValueError when a file holds something else.
        """
        if create and not any(folder.glob("*.key")):
            create_key(folder / "0001.key")
        found = {
            path.name: bytes.fromhex(path.read_text().strip())
            for path in sorted(folder.glob("*.key"))
        }
        if not found:
            raise SecretsUnavailable
        return cls(found)

    @property
    def current(self) -> str:
        """The id of the key that new secrets are sealed under."""
        return self._current.hex()

    def seal(self, secret: bytes, *, context: bytes) -> bytes:
        """Ciphertext that opens only with the same ``context`` (what the secret belongs to)."""
        data_key = os.urandom(KEY_BYTES)
        head = _FORM + self._current + _encrypt(self._keys[self._current], data_key, context)
        return head + _encrypt(data_key, secret, context)

    def open(self, sealed: bytes, *, context: bytes) -> bytes:
        """The secret. Raises SecretsUnavailable (503) for a foreign key, context or form."""
        data_key = self._data_key(sealed, context)
        return _decrypt(data_key, sealed[_HEAD_BYTES:], context)

    def rewrap(self, sealed: bytes, *, context: bytes) -> bytes:
        """The same secret, its data key wrapped under the current key."""
        data_key = self._data_key(sealed, context)
        wrapped = _encrypt(self._keys[self._current], data_key, context)
        return _FORM + self._current + wrapped + sealed[_HEAD_BYTES:]

    def _data_key(self, sealed: bytes, context: bytes) -> bytes:
        key = self._keys.get(sealed[1 : 1 + _ID_BYTES])
        if key is None or sealed[:1] != _FORM or len(sealed) < _HEAD_BYTES:
            raise SecretsUnavailable("The secret was sealed under an unknown key.")
        return _decrypt(key, sealed[1 + _ID_BYTES : _HEAD_BYTES], context)


def _id_of(key: bytes) -> bytes:
    return hashlib.sha256(b"market-envelope\x00" + key).digest()[:_ID_BYTES]


def _encrypt(key: bytes, plain: bytes, context: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, context)


def _decrypt(key: bytes, sealed: bytes, context: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], context)
    except InvalidTag as error:
        raise SecretsUnavailable("The stored secret is damaged or out of place.") from error


def create_key(path: Path) -> None:
    """A new random key of KEY_BYTES in hex; an existing file stays."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Written aside and linked: two processes at first start agree on one key.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(os.urandom(KEY_BYTES).hex())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
