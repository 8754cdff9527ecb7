"""The exchange's own work factor, for the tests that see it."""

import pytest

from market.parties import hashing


@pytest.fixture
def full_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are hashed as outside of tests (tests/conftest.py makes it cheap)."""
    monkeypatch.setattr(hashing.hasher, "_argon2", hashing.SecretHasher()._argon2)
