"""The operator's key for buyers' copies, and what is derived from it."""

from __future__ import annotations

import hmac
from uuid import UUID

from contracts.copies.errors import CopyKeyMissing
from market.kernel.context import Kernel
from market.kernel.envelope import KEY_BYTES, create_key


def copy_key(kernel: Kernel) -> bytes:
    """The operator's key; the sandbox makes one. Raises CopyKeyMissing (503)."""
    return kernel.service(_load)


def pseudonym_key(kernel: Kernel, product_id: UUID) -> bytes:
    """One for each product, so that pseudonyms join a product's versions, but no two products.

    Raises CopyKeyMissing (503).
    """
    return hmac.digest(copy_key(kernel), b"pseudonym" + product_id.bytes, "sha256")


def _load(kernel: Kernel) -> bytes:
    path = kernel.settings.copy_key_file or kernel.settings.home / "copies" / "copy.key"
    if kernel.settings.is_sandbox and not path.exists():
        create_key(path)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise CopyKeyMissing from error
    if len(key) != KEY_BYTES:
        raise CopyKeyMissing("The key file has another length.")
    return key
