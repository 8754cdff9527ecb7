"""Detectors of sensitive values: which kind of personal identifier a column holds. Pure.

A detector looks at a sample of a column's values (as text) and at the column's name. Checks with
a checksum need few hits to speak, shapes that occur by chance need many.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

MASK = "***"
# Longer texts are cut before matching: the work per value stays bounded.
VALUE_CHARS_MAX = 2_000


class Sensitive(StrEnum):
    """Kinds of personal identifier."""

    RESIDENT_ID = "resident_id"
    MOBILE = "mobile"
    BANK_CARD = "bank_card"
    EMAIL = "email"
    PERSON_NAME = "person_name"
    ADDRESS = "address"
    IP_ADDRESS = "ip_address"


# GB 11643-1999: weights and check characters of the 18-digit resident identity number.
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECK = "10X98765432"
# GB/T 2260: first two digits, the province-level division.
_PROVINCE_RANGES = ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (71, 71), (81, 83))
_PROVINCES = frozenset(
    str(code)
    for first, last in (
        (11, 15),
        (21, 23),
        (31, 37),
        (41, 46),
        (50, 54),
        (61, 65),
        (71, 71),
        (81, 83),
    )
    for code in range(first, last + 1)
)
_RESIDENT_ID = re.compile(r"(?<![0-9])[1-8][0-9]{16}[0-9Xx](?![0-9])")
_MOBILE = re.compile(r"(?<![0-9])(?:\+?86[- ]?)?1[3-9][0-9](?:[- ]?[0-9]{4}){2}(?![0-9])")
_CARD = re.compile(r"(?<![0-9.])[3-6][0-9]{3}(?:[- ]?[0-9]{4}){2}[- ]?[0-9]{1,7}(?![0-9])")
_EMAIL = re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,4}[A-Za-z]{2,24}")
_IP_SHAPE = re.compile(r"[0-9a-fA-F:.]{3,45}")
_HAN = r"\u4e00-\u9fff"
_NAME = re.compile(rf"[{_HAN}]{{2,4}}(?:·[{_HAN}]{{1,8}})?")
_ADDRESS_PART = re.compile(
    rf"[{_HAN}0-9]{{1,20}}?(?:省|市|区|县|镇|乡|村|街道|路|街|巷|弄|号|栋|楼|室)"
)
_NAME_COLUMN = re.compile(
    r"(?:^|[^a-z])(?:name|xm|xingming|fullname|realname|contact|patient|customer|owner|holder)"
    r"(?:$|[^a-z])|姓名|名字|联系人|户主|患者|客户|法人|持有人"
)
_ADDRESS_COLUMN = re.compile(r"(?:^|[^a-z])(?:addr|address)(?:$|[^a-z])|地址|住址|住所")
# The hundred commonest surnames cover about 85 % of the population (MPS, 2020 name report), and
# the compound ones in use; a name column of places or brands does not start with them.
_SURNAMES = frozenset(
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩邓冯曹彭曾萧肖田董袁潘于蒋蔡余杜叶程魏苏吕丁任"
    "沈姚卢姜崔钟谭陆汪范金石廖贾夏韦付傅方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)
_COMPOUND_SURNAMES = ("欧阳", "上官", "司马", "诸葛", "司徒", "皇甫", "尉迟", "令狐", "慕容")


def is_resident_id(text: str) -> bool:
    """An 18-character resident identity number with a valid division, birth date and checksum."""
    if not re.fullmatch(r"[1-8][0-9]{16}[0-9Xx]", text) or text[:2] not in _PROVINCES:
        return False
    try:
        born = date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(text[:17], _ID_WEIGHTS, strict=True))
    return born.year >= 1850 and _ID_CHECK[total % 11] == text[17].upper()


def is_bank_card(text: str) -> bool:
    """A 13- to 19-digit card number (ISO/IEC 7812) with a valid Luhn digit; separators allowed."""
    digits = re.sub(r"[ -]", "", text)
    if not re.fullmatch(r"[3-6][0-9]{12,18}", digits) or len(set(digits)) < 3:
        return False
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_ip_address(text: str) -> bool:
    """An IPv4 or IPv6 address and nothing else."""
    if not _IP_SHAPE.fullmatch(text):
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_person_name(text: str) -> bool:
    """Two to four Chinese characters that start with a common surname."""
    if not _NAME.fullmatch(text):
        return False
    return text[0] in _SURNAMES or text.startswith(_COMPOUND_SURNAMES) or "·" in text


def is_address(text: str) -> bool:
    """A Chinese postal address: at least three administrative or street parts."""
    return len(_ADDRESS_PART.findall(text)) >= 3


def _holds_resident_id(text: str) -> bool:
    return any(is_resident_id(match) for match in _RESIDENT_ID.findall(text))


def _holds_card(text: str) -> bool:
    return any(is_bank_card(match) for match in _CARD.findall(text))


@dataclass(frozen=True, slots=True)
class Detector:
    """``share_min`` of the sampled values must match; with ``named``, half that suffices."""

    kind: Sensitive
    matches: Callable[[str], bool]
    share_min: float
    named: re.Pattern[str] | None = None
    needs_name: bool = False


# Shares: an 18-digit random number passes the id check about once in 10^4, so one percent is
# proof; one number in ten passes Luhn by chance, so cards need half of the column.
DETECTORS = (
    Detector(Sensitive.RESIDENT_ID, _holds_resident_id, 0.01),
    Detector(Sensitive.MOBILE, lambda text: _MOBILE.search(text) is not None, 0.3),
    Detector(Sensitive.BANK_CARD, _holds_card, 0.5),
    Detector(Sensitive.EMAIL, lambda text: _EMAIL.search(text) is not None, 0.02),
    Detector(Sensitive.PERSON_NAME, is_person_name, 0.5, _NAME_COLUMN, needs_name=True),
    Detector(Sensitive.ADDRESS, is_address, 0.3, _ADDRESS_COLUMN),
    Detector(Sensitive.IP_ADDRESS, is_ip_address, 0.3),
)


def _folded(column: str) -> str:
    """`customerName`, `CUSTOMER_NAME` and `customer name` alike."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column).casefold()


def detect(column: str, values: Sequence[str]) -> Sensitive | None:
    """The kind of identifier that a sample of non-null values shows, strictest kind first."""
    if not values:
        return None
    # Equal values are matched once: most columns hold few distinct ones.
    texts = Counter(value.strip()[:VALUE_CHARS_MAX] for value in values)
    name = _folded(column)
    for detector in DETECTORS:
        named = detector.named is not None and detector.named.search(name) is not None
        if detector.needs_name and not named:
            continue
        hits = sum(count for text, count in texts.items() if detector.matches(text))
        needed = detector.share_min * (0.5 if named else 1.0)
        if hits and hits >= needed * len(values):
            return detector.kind
    return None


def mask_text(text: str) -> str:
    """Free text with every identifier that has a shape of its own replaced by ``***``."""
    cut = text[:VALUE_CHARS_MAX]
    cut = _RESIDENT_ID.sub(lambda m: MASK if is_resident_id(m[0]) else m[0], cut)
    cut = _CARD.sub(lambda m: MASK if is_bank_card(m[0]) else m[0], cut)
    return _EMAIL.sub(MASK, _MOBILE.sub(MASK, cut))
