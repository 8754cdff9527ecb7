"""The key that chooses marks, and the scheme that an agreement's policy names."""

from __future__ import annotations

from decimal import Decimal

from contracts.fingerprint.errors import FingerprintKeyMissing
from contracts.fingerprint.marks import Marked, Scheme
from listings.policy_schemas import FingerprintClause
from market.kernel.context import Kernel
from market.kernel.envelope import KEY_BYTES, create_key


def fingerprint_key(kernel: Kernel) -> bytes:
    """The operator's key; the sandbox makes one. Raises FingerprintKeyMissing (503)."""
    return kernel.service(_load)


def _load(kernel: Kernel) -> bytes:
    path = kernel.settings.fingerprint_key_file or kernel.settings.home / "fingerprint" / "mark.key"
    if kernel.settings.is_sandbox and not path.exists():
        create_key(path)
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise FingerprintKeyMissing from error
    if len(key) != KEY_BYTES:
        raise FingerprintKeyMissing("The key file has another length.")
    return key


def scheme_of(clause: FingerprintClause) -> Scheme:
    """What :mod:`contracts.fingerprint.marks` works with."""
    columns = tuple(Marked(column.name, Decimal(column.tolerance)) for column in clause.columns)
    return Scheme(tuple(clause.keys), columns)
