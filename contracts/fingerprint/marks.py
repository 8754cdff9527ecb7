"""Which value of which row is changed for which agreement, and whose marks a copy carries. Pure.

A row is known by its key columns, which are never changed. The exchange's key chooses one row in
``SPACING`` and, of it, one of the columns that the seller named; there the parity of
``round(value / step)`` becomes a bit that depends on key, agreement and row. The original is not
needed to read it back: by chance half of the bits agree, whatever the values are, because the bits
are independent of them. (After Agrawal, Haas and Kiernan, "Watermarking relational data", 2003.)

Limit: buyers who compare their copies see where they differ, and can mix them. Then each of them
agrees in more than half of the bits, but fewer than ``Verdict`` may ask for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import pyarrow as pa

from listings.policy_schemas import FingerprintClause

# One row in so many is marked: 1 % of 20,000 rows leaves about 50 bits; for 100 agreements 37 do.
SPACING = 4
# More make no verdict surer that is sure, and cost every candidate a hash each.
BITS_MAX = 2_000
# A wrong name is worse than none: the chance that any of the candidates is named by accident.
FALSE_ALARM = 1e-6


@dataclass(frozen=True, slots=True)
class Marked:
    """A numeric column and its tolerance: no value of it is changed by more than ``step``."""

    name: str
    step: Decimal

    def __post_init__(self) -> None:
        if not (self.step.is_finite() and self.step > 0):
            raise ValueError(f"the tolerance of {self.name} is not above zero")


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a listing declares: key columns, and the columns that may be changed."""

    keys: tuple[str, ...]
    columns: tuple[Marked, ...]

    def __post_init__(self) -> None:
        names = [*self.keys, *(column.name for column in self.columns)]
        if not self.keys or not self.columns or len(set(names)) != len(names):
            raise ValueError("a fingerprint needs key columns and others that may be changed")


def scheme_of(clause: FingerprintClause) -> Scheme:
    """What an agreement's policy names."""
    columns = tuple(Marked(column.name, Decimal(column.tolerance)) for column in clause.columns)
    return Scheme(tuple(clause.keys), columns)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many marks of an agreement were found; ``chance`` that so many agree by accident."""

    agreement: UUID
    agreeing: int
    bits: int
    chance: float


# What a sample shows, by the identity of its rows.
Marks = dict[bytes, tuple["_Row", int]]


def mark(table: pa.Table, scheme: Scheme, key: bytes, agreement: UUID) -> pa.Table:
    """The agreement's copy of the rows. Null and not finite values stay as they are.

    Raises KeyError for a column that is not there, ValueError for one that is not numeric, or an
    integer one with a tolerance that is not whole.
    """
    changed = {column.name: table[column.name].to_pylist() for column in scheme.columns}
    for column in scheme.columns:
        _require_type(table.schema.field(column.name), column)
    for number, row in _rows(table, scheme, key):
        column, values = row.column, changed[row.column.name]
        value = values[number]
        cell = _cell(value, column.step)
        if cell is not None and cell % 2 != row.bit(key, agreement):
            values[number] = _moved(value, column.step, up=row.up)
    for name, values in changed.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table


def detect(
    table: pa.Table, scheme: Scheme, key: bytes, agreements: Iterable[UUID]
) -> tuple[Verdict | None, list[Verdict]]:
    """Whose copy the rows are of, and all candidates, the likeliest first.

    Nobody is named unless chance is below ``FALSE_ALARM`` for all candidates together. Marks of
    columns that are not there are not looked for. Raises KeyError for a key column that is not
    there.
    """
    return judge(read(table, scheme, key), key, agreements)


def read(table: pa.Table, scheme: Scheme, key: bytes) -> Marks:
    """The marks of a sample, by row: one that was copied many times is one observation."""
    present = set(table.column_names)
    found: Marks = {}
    for number, row in _rows(table, scheme, key):
        if row.column.name in present:
            cell = _cell(table[row.column.name][number].as_py(), row.column.step)
            if cell is not None and len(found) < BITS_MAX:
                found[row.identity] = (row, cell % 2)
    return found


def judge(
    marks: Marks, key: bytes, agreements: Iterable[UUID]
) -> tuple[Verdict | None, list[Verdict]]:
    """As :func:`detect`, of marks that were read."""
    bits = list(marks.values())
    verdicts = [_verdict(agreement, bits, key) for agreement in dict.fromkeys(agreements)]
    verdicts.sort(key=lambda verdict: (verdict.chance, -verdict.agreeing))
    if not verdicts or verdicts[0].chance * len(verdicts) > FALSE_ALARM:
        return None, verdicts
    return verdicts[0], verdicts


def _verdict(agreement: UUID, bits: Sequence[tuple[_Row, int]], key: bytes) -> Verdict:
    agreeing = sum(row.bit(key, agreement) == bit for row, bit in bits)
    return Verdict(agreement, agreeing, len(bits), _tail(agreeing, len(bits)))


def _tail(agreeing: int, bits: int) -> float:
    """Hoeffding's bound of so many heads or more in ``bits`` tosses of a fair coin."""
    excess = max(0.0, agreeing - bits / 2)
    return math.exp(-2 * excess * excess / bits) if bits else 1.0


@dataclass(frozen=True, slots=True)
class _Row:
    """A chosen row: its name in the marks, its column and the direction of a change."""

    identity: bytes
    column: Marked
    up: bool

    def bit(self, key: bytes, agreement: UUID) -> int:
        return _keyed(key, b"bit", agreement.bytes + self.identity)[0] & 1


def _rows(table: pa.Table, scheme: Scheme, key: bytes) -> Iterable[tuple[int, _Row]]:
    texts = [table[name].cast(pa.string()).to_pylist() for name in scheme.keys]
    for number, values in enumerate(zip(*texts, strict=True)):
        identity = _keyed(key, b"row", repr(values).encode())
        if int.from_bytes(identity[:8]) % SPACING == 0:
            column = scheme.columns[int.from_bytes(identity[8:12]) % len(scheme.columns)]
            yield number, _Row(identity, column, up=bool(identity[12] & 1))


def _keyed(key: bytes, purpose: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=key, person=purpose, digest_size=32).digest()


def _cell(value: object, step: Decimal) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return round(exact / step) if exact.is_finite() else None


def _moved(value: int | float | Decimal, step: Decimal, *, up: bool) -> int | float | Decimal:
    by = step if up else -step
    if isinstance(value, Decimal):
        return value + by
    return float(Decimal(repr(value)) + by) if isinstance(value, float) else value + int(by)


def _require_type(field: pa.Field, column: Marked) -> None:
    if pa.types.is_integer(field.type):
        if column.step != column.step.to_integral_value():
            raise ValueError(f"the tolerance of {column.name} is not whole")
    elif (
        pa.types.is_decimal(field.type) and -int(column.step.as_tuple().exponent) > field.type.scale
    ):
        raise ValueError(f"the tolerance of {column.name} has more digits than its values")
    elif not (pa.types.is_float64(field.type) or pa.types.is_decimal(field.type)):
        raise ValueError(f"the column {column.name} is not numeric")
