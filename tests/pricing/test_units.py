"""From the units of plans to those of the meter: nothing is made or lost."""

from itertools import pairwise
from typing import Any

from hypothesis import given, strategies as st

from contracts.accrual import used_value_minor
from contracts.models import Agreement, Unit as CountedUnit
from pricing.models import Unit
from pricing.schemas import LOT_UNITS_MAX
from pricing.units import counted, counted_units

UNITS = st.sampled_from(list(Unit))
LOT_UNITS = st.integers(1, LOT_UNITS_MAX)


def test_every_unit_of_a_plan_is_one_that_grants_count() -> None:
    scales = {unit: counted(unit) for unit in Unit}
    assert {CountedUnit(each.unit) for each in scales.values()} == set(CountedUnit)
    assert scales[Unit.MIB] == ("byte", 1_048_576)
    assert scales[Unit.COMPUTE_SECOND] == ("millisecond", 1_000)
    assert {unit for unit, each in scales.items() if each.per_unit == 1} == {
        *(Unit.ROW, Unit.CALL, Unit.QUERY, Unit.LICENSE)
    }


@given(unit=UNITS, parts=st.lists(st.integers(0, 10**12), max_size=8))
def test_scaling_parts_is_scaling_their_sum(unit: Unit, parts: list[int]) -> None:
    assert sum(counted_units(unit, part) for part in parts) == counted_units(unit, sum(parts))
    assert counted_units(unit, sum(parts)) % counted(unit).per_unit == 0


@given(
    unit=UNITS,
    lot_units=LOT_UNITS,
    lots=st.integers(1, 1_000),
    price_minor=st.integers(1, 10**9),
    cuts=st.lists(st.integers(0, 10**6), max_size=8),
)
def test_lots_are_worth_their_price_however_they_are_used_up(
    unit: Unit, lot_units: int, lots: int, price_minor: int, cuts: list[int]
) -> None:
    scaled = counted_units(unit, lot_units)
    granted = lots * scaled
    terms: dict[str, Any] = {
        "price_minor": price_minor,
        "total_minor": lots * price_minor,
        "lot_units": scaled,
    }
    agreement = Agreement.model_construct(**terms)
    for lot in {1, lots // 2, lots}:
        assert used_value_minor(agreement, lot * scaled) == lot * price_minor
    marks = sorted({granted * cut // 10**6 for cut in cuts} | {0, granted})
    values = [used_value_minor(agreement, mark) for mark in marks]
    assert values == sorted(values)
    assert sum(b - a for a, b in pairwise(values)) == lots * price_minor
    # A delivery is worth no more than its share: no answer costs a whole MiB or second.
    assert used_value_minor(agreement, 3_000) <= 3_000 * price_minor // scaled + 1
