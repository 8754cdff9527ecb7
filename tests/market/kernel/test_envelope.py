"""Sealed secrets: open only with their key and in their place; keys can be changed."""

from pathlib import Path

import pytest

from market.kernel.envelope import Envelope, SecretsUnavailable

OLD, NEW = bytes(range(32)), bytes(range(1, 33))


def test_a_secret_opens_in_its_place_only() -> None:
    envelope = Envelope({"1": OLD})
    sealed = envelope.seal(b"api-key", context=b"upstream 1")
    assert b"api-key" not in sealed
    assert envelope.open(sealed, context=b"upstream 1") == b"api-key"
    with pytest.raises(SecretsUnavailable):
        envelope.open(sealed, context=b"upstream 2")


def test_the_same_secret_never_looks_the_same() -> None:
    envelope = Envelope({"1": OLD})
    assert envelope.seal(b"x", context=b"") != envelope.seal(b"x", context=b"")


def test_every_byte_counts() -> None:
    envelope = Envelope({"1": OLD})
    sealed = envelope.seal(b"x", context=b"")
    for place in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(SecretsUnavailable):
            envelope.open(bytes(damaged), context=b"")
    with pytest.raises(SecretsUnavailable):
        envelope.open(sealed[:40], context=b"")


def test_rotation_rewraps_and_the_old_key_can_go() -> None:
    before = Envelope({"1": OLD})
    sealed = before.seal(b"api-key", context=b"c")
    both = Envelope({"1": OLD, "2": NEW})
    assert both.open(sealed, context=b"c") == b"api-key"
    rewrapped = both.rewrap(sealed, context=b"c")
    alone = Envelope({"2": NEW})
    assert alone.current == both.current != before.current
    assert alone.open(rewrapped, context=b"c") == b"api-key"
    with pytest.raises(SecretsUnavailable):
        alone.open(sealed, context=b"c")


def test_keys_are_files_made_once_and_only_for_us(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with pytest.raises(SecretsUnavailable):
        Envelope.load(folder, create=False)
    first = Envelope.load(folder, create=True)
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert Envelope.load(folder, create=True).current == first.current
    (folder / "0002.key").write_text("00" * 32)
    assert Envelope.load(folder, create=False).current != first.current
    (folder / "0003.key").write_text("short")
    with pytest.raises(ValueError, match="hex"):
        Envelope.load(folder, create=False)
