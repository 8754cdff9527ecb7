"""Content coding: what is negotiated, what is coded, and what a cut body still says."""

import gzip
import hashlib
import random
import zlib
from collections.abc import Coroutine
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from contracts.delivery.coding import (
    CODED_MIN_BYTES,
    PLAIN,
    Choice,
    Coded,
    Coding,
    choose_coding,
    code,
    decoding,
)
from contracts.errors import CodingNotOffered

GZIP, ZSTD = Choice(Coding.GZIP), Choice(Coding.ZSTD)
ONLY_GZIP, ONLY_ZSTD = Choice(Coding.GZIP, required=True), Choice(Coding.ZSTD, required=True)
BLOCK_BYTES = 128 << 10
_random = random.Random(20131)
# As well coded as rows are, and several zstd blocks long.
BODY = b"\n".join(b'{"id":%d,"x":%d}' % (n, _random.getrandbits(30)) for n in range(40_000))


def decoded(coded: Coded) -> bytes:
    """The body, by another reader where there is one."""
    if coded.coding is Coding.GZIP:
        return gzip.decompress(coded.data)
    with pa.CompressedInputStream(pa.BufferReader(coded.data), "zstd") as stream:
        return bytes(stream.read())


@pytest.mark.parametrize(
    ("accept_encoding", "choice"),
    [
        ("", PLAIN),
        ("identity", PLAIN),
        ("br", PLAIN),
        ("gzip;q=0", PLAIN),
        ("gzip", GZIP),
        ("GZIP ; Q=0.3", GZIP),
        ("x-gzip", GZIP),
        ("gzip, deflate", GZIP),
        ("gzip, deflate, br, zstd", ZSTD),
        ("zstd;q=0.5, gzip", GZIP),
        ("zstd;q=0.5, gzip;q=0.2", ZSTD),
        ("identity, gzip", GZIP),
        ("identity;q=0.9, gzip;q=0.8", PLAIN),
        ("gzip;q=0.001", GZIP),
        ("*", GZIP),
        ("zstd, *;q=0.1", ZSTD),
        ("*;q=0.5, identity", PLAIN),
        ("gzip;q=0, *", ZSTD),
        ("identity;q=0, *", ONLY_GZIP),
        ("identity;q=0, zstd", ONLY_ZSTD),
        ("gzip, *;q=0", ONLY_GZIP),
        ("*;q=0, identity;q=0.1", PLAIN),
        ("gzip;q=junk", PLAIN),
        ("gzip;q=nan, zstd;q=inf", PLAIN),
        (",,;q=1,", PLAIN),
    ],
)
def test_negotiation(accept_encoding: str, choice: Choice) -> None:
    assert choose_coding(accept_encoding) == choice


@pytest.mark.parametrize(
    "accept_encoding",
    ["identity;q=0", "*;q=0", "br, identity;q=0", "identity;q=0, gzip;q=0, zstd;q=0", "br, *;q=0"],
)
def test_nothing_that_fits_is_refused(accept_encoding: str) -> None:
    with pytest.raises(CodingNotOffered) as refused:
        choose_coding(accept_encoding)
    assert refused.value.status == 406


@given(st.text(max_size=200))
def test_any_header_is_answered_or_refused(accept_encoding: str) -> None:
    try:
        chosen: Choice | None = choose_coding(accept_encoding)
    except CodingNotOffered:
        chosen = None
    assert chosen is None or chosen.coding in Coding


@pytest.mark.parametrize("choice", [GZIP, ZSTD])
def test_a_coded_body_decodes_to_itself(choice: Choice) -> None:
    coded = code(BODY, choice, packed=False)
    assert coded is not None
    assert coded.coding is choice.coding
    assert len(coded.data) < len(BODY) // 2
    assert decoded(coded) == BODY


def test_a_zstd_window_is_one_that_every_client_takes() -> None:
    coded = code(BODY, ZSTD, packed=False)
    assert coded is not None
    # RFC 8878 §3.1.1.1: not a single segment, then the window's exponent; RFC 9659: 8 MiB.
    assert not coded.data[4] & 0x20
    assert 10 + (coded.data[5] >> 3) < 23


def test_what_gains_nothing_is_sent_as_it_is_unless_that_is_refused() -> None:
    small, noise = BODY[: CODED_MIN_BYTES - 1], random.Random(1).randbytes(5_000)
    for choice, required in ((GZIP, ONLY_GZIP), (ZSTD, ONLY_ZSTD)):
        assert code(BODY[:CODED_MIN_BYTES], choice, packed=False) is not None
        for body, packed in ((small, False), (noise, False), (BODY, True)):
            assert code(body, choice, packed=packed) is None
            coded = code(body, required, packed=packed)
            assert coded is not None
            assert decoded(coded) == body
    assert code(BODY, PLAIN, packed=False) is None


@pytest.mark.parametrize("choice", [GZIP, ZSTD])
def test_a_cut_body_is_as_long_as_what_can_be_read_of_it(choice: Choice) -> None:
    coded = code(BODY, choice, packed=False)
    assert coded is not None
    length = len(coded.data)
    before = 0
    for sent in (0, 1, 9, length // 9, length // 2, length - 9, length - 1, length, length + 1):
        found = coded.readable(sent)
        assert before <= found <= len(BODY)
        # What was sent is worth its share, but for the block that was cut.
        assert abs(found - len(BODY) * min(sent, length) // length) <= 2 * BLOCK_BYTES
        before = found
    assert (coded.readable(0), coded.readable(length)) == (0, len(BODY))


async def test_who_settles_is_told_bytes_of_the_body() -> None:
    coded = code(BODY, GZIP, packed=False)
    assert coded is not None
    told: list[int] = []

    def at_once(sent: int) -> None:
        told.append(sent)

    def later(sent: int) -> Coroutine[Any, Any, None]:
        async def settle() -> None:
            told.append(sent)

        return settle()

    half = len(coded.data) // 2
    assert decoding(coded, at_once)(len(coded.data)) is None
    for finish in (at_once, later):
        rest = decoding(coded, finish)(half)
        assert rest is not None
        await rest
    assert told == [len(BODY), coded.readable(half), coded.readable(half)]
    # What a reader of the cut body gets begins with just these bytes.
    stream = zlib.decompressobj(31)
    begun = stream.decompress(coded.data[:half])[: told[1]]
    assert hashlib.sha256(begun).digest() == hashlib.sha256(BODY[: told[1]]).digest()
