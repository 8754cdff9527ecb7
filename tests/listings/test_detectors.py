"""Detectors of personal identifiers: checksums, shapes, and what they must not hit."""

import random
from datetime import date, timedelta

import pytest
from hypothesis import given, strategies as st

from listings.detectors import (
    Sensitive,
    detect,
    is_address,
    is_bank_card,
    is_ip_address,
    is_person_name,
    is_resident_id,
    mask_text,
)

WEIGHTS = [2 ** (17 - i) % 11 for i in range(17)]


def resident_id(prefix: str) -> str:
    """ISO 7064 MOD 11-2 by its definition: weights are powers of two."""
    total = sum(int(digit) * weight for digit, weight in zip(prefix, WEIGHTS, strict=True))
    return prefix + "0123456789X"[(12 - total % 11) % 11]


days = st.dates(date(1900, 1, 1), date(2025, 12, 31))
id_prefixes = st.builds(
    lambda area, born, serial: f"{area}0105{born:%Y%m%d}{serial:03d}",
    st.sampled_from(["11", "31", "44", "65", "71"]),
    days,
    st.integers(0, 999),
)


def luhn(prefix: str) -> str:
    total = 0
    for position, digit in enumerate(reversed(prefix)):
        doubled = int(digit) * 2 if position % 2 == 0 else int(digit)
        total += sum(divmod(doubled, 10))
    return prefix + str(-total % 10)


@given(id_prefixes)
def test_valid_resident_ids_pass(prefix: str) -> None:
    assert is_resident_id(resident_id(prefix))


@given(id_prefixes, st.integers(0, 16), st.integers(1, 9))
def test_one_wrong_digit_is_found(prefix: str, place: int, shift: int) -> None:
    good = resident_id(prefix)
    wrong = str((int(good[place]) + shift) % 10)
    assert not is_resident_id(good[:place] + wrong + good[place + 1 :])


def test_known_resident_id() -> None:
    assert is_resident_id("11010519491231002X")
    assert is_resident_id("11010519491231002x")
    assert not is_resident_id("110105194912310021")
    assert not is_resident_id(resident_id("99010519491231002"))
    assert not is_resident_id(resident_id("11010519490231002"))
    assert not is_resident_id("１１０１０５１９４９１２３１００２X")


@given(st.text("0123456789", min_size=11, max_size=17))
def test_luhn_cards_pass_and_a_wrong_digit_fails(tail: str) -> None:
    card = luhn("62" + tail)[:19]
    if len(card) != len(tail) + 3 or len(set(card)) < 3:
        return
    assert is_bank_card(card)
    wrong = str((int(card[-1]) + 1) % 10)
    assert not is_bank_card(card[:-1] + wrong)


def test_card_numbers() -> None:
    assert is_bank_card("4012888888881881")
    assert is_bank_card("4012-8888 8888-1881")
    assert not is_bank_card("4012888888881882")
    assert not is_bank_card("5555 5555 5555 4444"), "two different digits: a placeholder"
    assert not is_bank_card("0000000000000000")
    assert not is_bank_card("401288888888")


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("id_no", ["11010519491231002X", "plain"], Sensitive.RESIDENT_ID),
        ("note", ["call 13812345678 now", "ask 15987654321"], Sensitive.MOBILE),
        ("tel", ["+86 138 1234 5678", "13912345678"], Sensitive.MOBILE),
        ("pay", ["4012888888881881", "4012888888881881"], Sensitive.BANK_CARD),
        ("contact", ["ada@example.com", "nobody"], Sensitive.EMAIL),
        ("姓名", ["张伟", "王芳", "欧阳娜娜"], Sensitive.PERSON_NAME),
        ("customerName", ["张伟", "李娜"], Sensitive.PERSON_NAME),
        ("addr", ["上海市浦东新区世纪大道100号", "北京市海淀区中关村大街1号"], Sensitive.ADDRESS),
        ("client", ["192.168.0.1", "2001:db8::1"], Sensitive.IP_ADDRESS),
    ],
)
def test_detects(column: str, values: list[str], kind: Sensitive) -> None:
    assert detect(column, values) is kind


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("carrier", ["UA", "AA", "DL"]),
        ("name", ["Lansdowne Airport", "Moton Field Municipal Airport"]),
        ("城市", ["张家口", "石家庄", "马鞍山"]),
        ("tailnum", ["N14228", "N24211"]),
        ("flight", [str(number) for number in range(1000, 1100)]),
        ("epoch_ms", [str(1388548800000 + i * 3_600_000) for i in range(200)]),
        ("price", ["12.50", "13812.345678"]),
        ("region", ["上海市", "北京市"]),
        ("empty", []),
    ],
)
def test_leaves_ordinary_columns_alone(column: str, values: list[str]) -> None:
    assert detect(column, values) is None


def test_random_numbers_are_not_cards_or_ids() -> None:
    draw = random.Random(20240607)
    numbers = [str(draw.randrange(10**15, 10**16)) for _ in range(2_000)]
    assert detect("order_number", numbers) is None
    start = date(2000, 1, 1)
    stamps = [
        f"{start + timedelta(days=draw.randrange(8_000)):%Y%m%d}{draw.randrange(10**10):010d}"
        for _ in range(2_000)
    ]
    assert detect("batch", stamps) is None


def test_shapes() -> None:
    assert is_person_name("司马相如")
    assert not is_person_name("数据")
    assert is_address("浙江省杭州市西湖区文三路5号")
    assert not is_address("市")
    assert not is_ip_address("1.2.3")
    assert not is_ip_address("999.1.1.1")


def test_masks_identifiers_inside_text() -> None:
    text = "张三 11010519491231002X 电话 13812345678, mail a.b@example.com, no 4012888888881881"
    assert mask_text(text) == "张三 *** 电话 ***, mail ***, no ***"
    assert mask_text("flight 1545 of 2013-01-01") == "flight 1545 of 2013-01-01"


def test_long_hostile_text_is_bounded() -> None:
    assert detect("addr", ["大" * 1_000_000] * 50) is None
    assert detect("addr", ["1" * 1_000_000] * 50) is None
