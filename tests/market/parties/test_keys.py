import re
import zlib

import pytest
from hypothesis import given, strategies as st

from market.parties.keys import (
    CHECKSUM_WIDTH,
    SECRET_LENGTH_MAX,
    SECRET_PATTERN,
    KeyEnvironment,
    MalformedSecret,
    checksum,
    mint_secret,
    secret_environment,
)

environments = st.sampled_from(list(KeyEnvironment))
alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@given(environments)
def test_a_minted_secret_is_recognized_offline(environment: KeyEnvironment) -> None:
    secret = mint_secret(environment)
    assert secret_environment(secret) is environment
    assert re.fullmatch(SECRET_PATTERN, secret)
    assert len(secret) <= SECRET_LENGTH_MAX


def test_secrets_do_not_repeat() -> None:
    assert len({mint_secret(KeyEnvironment.LIVE) for _ in range(1_000)}) == 1_000


@given(environments, st.data())
def test_one_changed_character_is_always_found(
    environment: KeyEnvironment, data: st.DataObject
) -> None:
    # CRC-32 finds every burst error of at most 32 bits, so one wrong byte never passes.
    secret = mint_secret(environment)
    place = data.draw(st.integers(0, len(secret) - 1))
    other = data.draw(st.sampled_from(alphabet + "_").filter(lambda c: c != secret[place]))
    with pytest.raises(MalformedSecret):
        secret_environment(secret[:place] + other + secret[place + 1 :])


@given(environments, st.data())
def test_swapped_neighbors_are_always_found(
    environment: KeyEnvironment, data: st.DataObject
) -> None:
    secret = mint_secret(environment)
    place = data.draw(st.integers(0, len(secret) - 2).filter(lambda i: secret[i] != secret[i + 1]))
    swapped = secret[:place] + secret[place + 1] + secret[place] + secret[place + 2 :]
    with pytest.raises(MalformedSecret):
        secret_environment(swapped)


@given(st.text(max_size=120))
def test_junk_is_refused_and_nothing_else_is_raised(text: str) -> None:
    with pytest.raises(MalformedSecret):
        secret_environment(text)


@pytest.mark.parametrize("around", ["{}\n", " {}", "{}\x00", "x{}", "{}x"])
def test_nothing_may_surround_a_secret(around: str) -> None:
    with pytest.raises(MalformedSecret):
        secret_environment(around.format(mint_secret(KeyEnvironment.LIVE)))


def test_a_sandbox_key_cannot_be_relabeled_live() -> None:
    relabeled = mint_secret(KeyEnvironment.SANDBOX).replace("_sandbox_", "_live_")
    with pytest.raises(MalformedSecret):
        secret_environment(relabeled)


@given(st.text(alphabet=alphabet + "_", max_size=80))
def test_the_checksum_is_crc32_in_base62(body: str) -> None:
    number = 0
    for digit in checksum(body):
        number = number * 62 + alphabet.index(digit)
    assert number == zlib.crc32(body.encode())
    assert len(checksum(body)) == CHECKSUM_WIDTH


def test_a_known_secret() -> None:
    body = "mkt_live_" + "0" * 43
    assert checksum(body) == "37mdeF"
