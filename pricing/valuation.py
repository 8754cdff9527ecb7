"""Valuation of a data asset by the cost, income and market approach (pure).

After 数据资产评估指导意见 (中评协〔2023〕17号) and 专家指引第9号, see reference/pricing.md A1.
Amounts are integer minor units, ratios integer parts per million; inside, decimals of 50 digits
without float. The only other rounding is at the end: half up to a whole minor unit, and a range
end below zero becomes zero. The range is the smallest and largest result over all combinations
of the stated low and high inputs. That is exact where the result is linear in each input; the
discount rate, in which it is not, also takes its central number.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, localcontext
from enum import StrEnum

from market.kernel.money import MAX_MINOR, PPM
from pricing.errors import ValuationImpossible

METHOD_VERSION = "valuation/1"
_CONTEXT = Context(prec=50, rounding=ROUND_HALF_EVEN)
_TRACE_PLACES = Decimal("1e-10")


class Approach(StrEnum):
    COST = "cost"
    INCOME = "income"
    MARKET = "market"


class IncomeMethod(StrEnum):
    """How a term's flow is found from its amounts (reference/pricing.md A1)."""

    DIRECT = "direct"
    EXCESS = "excess"
    INCREMENTAL = "incremental"
    SHARE = "share"


class TraceUnit(StrEnum):
    """What a traced number counts: minor units of the currency, or a plain ratio or count."""

    MINOR = "minor"
    RATIO = "ratio"


class End(StrEnum):
    """Which of an estimate's three numbers a calculation uses."""

    CENTRAL = "central"
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A stated input (minor units or ppm) with the range its author believes in.

    Raises ValueError unless ``low`` ≤ ``central`` ≤ ``high``.
    """

    central: int
    low: int
    high: int

    def __post_init__(self) -> None:
        if not self.low <= self.central <= self.high:
            raise ValueError("an estimate needs low <= central <= high")

    @classmethod
    def exact(cls, value: int) -> Estimate:
        """An input without a range."""
        return cls(value, value, value)

    def at(self, end: End) -> int:
        """The number at one end, or the central one."""
        return {End.CENTRAL: self.central, End.LOW: self.low, End.HIGH: self.high}[end]

    @property
    def varies(self) -> bool:
        return self.low != self.high


@dataclass(frozen=True, slots=True)
class CostInputs:
    """Cost lines and factors of P = TC·(1+R)·U; all but ``lines`` in ppm."""

    lines: Sequence[Estimate]
    return_rate: Estimate
    quality: Estimate
    circulation: Estimate
    monopoly: Estimate
    risk: Estimate


@dataclass(frozen=True, slots=True)
class Term:
    """One period's revenue and what its method subtracts (minor units) or takes (ppm).

    ``other``: contributory charges for excess, revenue without the data for incremental, the
    data's part in ppm for share; unused for direct.
    """

    revenue: Estimate
    other: Estimate


@dataclass(frozen=True, slots=True)
class IncomeInputs:
    """Terms in order, the first ends after one period; the discount rate is ppm per period."""

    method: IncomeMethod
    terms: Sequence[Term]
    discount_rate: Estimate


@dataclass(frozen=True, slots=True)
class Comparable:
    """What one other listing's unit was last worth: median trade price, minor units per unit."""

    label: str
    unit_price: Decimal
    trades: int


@dataclass(frozen=True, slots=True)
class MarketInputs:
    """A stated reference price for the whole quantity, our own comparables, five factors in ppm."""

    quantity: int
    reference: Estimate | None
    comparables: Sequence[Comparable]
    factors: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the calculation: formula, the numbers put in, the number that came out."""

    name: str
    formula: str
    inputs: dict[str, str]
    result: str
    unit: TraceUnit


@dataclass(frozen=True, slots=True)
class Swing:
    """The value, in minor units, when this one input alone moves to its low and high end."""

    input: str
    at_low_minor: int
    at_high_minor: int


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Result of one approach. ``exact`` is the central value before rounding, in minor units."""

    approach: Approach
    value_minor: int
    low_minor: int
    high_minor: int
    exact: Decimal
    trace: tuple[Step, ...]
    sensitivity: tuple[Swing, ...]


@dataclass(frozen=True, slots=True)
class Combined:
    """Weighted mean of several appraisals, in minor units, with its step."""

    value_minor: int
    low_minor: int
    high_minor: int
    step: Step


Ends = Mapping[str, End]
_LINEAR = (End.LOW, End.HIGH)
_CURVED = (End.LOW, End.CENTRAL, End.HIGH)
Calculation = Callable[[Ends, "_Trace | None"], Decimal]


class _Trace:
    """Collects the steps of the central calculation."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(
        self,
        name: str,
        formula: str,
        inputs: Mapping[str, Decimal],
        result: Decimal,
        *,
        unit: TraceUnit,
    ) -> None:
        shown = {key: _text(value) for key, value in inputs.items()}
        self.steps.append(Step(name, formula, shown, _text(result), unit))


def cost(inputs: CostInputs) -> Appraisal:
    """Cost approach: P = TC·(1+R)·U with U = α·β·(1+l)·(1−r) (专家指引第9号).

    TC adds the cost lines, whose ranges move together; R is the return, α quality, β circulation,
    l monopoly, r realization risk. Raises ValuationImpossible when the value is below one minor
    unit or above MAX_MINOR.
    """
    ratios = {
        "R": inputs.return_rate,
        "α": inputs.quality,
        "β": inputs.circulation,
        "l": inputs.monopoly,
        "r": inputs.risk,
    }
    varying = {"TC": _LINEAR} if any(line.varies for line in inputs.lines) else {}
    varying |= {name: _LINEAR for name, estimate in ratios.items() if estimate.varies}

    def calculate(ends: Ends, trace: _Trace | None) -> Decimal:
        lines = [Decimal(line.at(ends["TC"])) for line in inputs.lines]
        total = sum(lines, Decimal(0))
        at = {name: _ratio(estimate.at(ends[name])) for name, estimate in ratios.items()}
        utility = at["α"] * at["β"] * (1 + at["l"]) * (1 - at["r"])
        price = total * (1 + at["R"]) * utility
        if trace is not None:
            named = {f"C_{number}": line for number, line in enumerate(lines, 1)}
            trace.add("TC", "TC = Σ C_k", named, total, unit=TraceUnit.MINOR)
            used = {name: at[name] for name in ("α", "β", "l", "r")}
            trace.add("U", "U = α·β·(1+l)·(1−r)", used, utility, unit=TraceUnit.RATIO)
            put_in = {"TC": total, "R": at["R"], "U": utility}
            trace.add("P", "P = TC·(1+R)·U", put_in, price, unit=TraceUnit.MINOR)
        return price

    return _appraise(Approach.COST, varying, calculate)


# Names of a term's two numbers, and the formula of its flow.
_FLOWS = {
    IncomeMethod.DIRECT: ("R_t", None, "F_t = R_t"),
    IncomeMethod.EXCESS: ("R_t", "C_t", "F_t = R_t − C_t"),
    IncomeMethod.INCREMENTAL: ("RY_t", "RN_t", "F_t = RY_t − RN_t"),
    IncomeMethod.SHARE: ("R_t", "K_t", "F_t = R_t·K_t"),
}


def income(inputs: IncomeInputs) -> Appraisal:
    """Income approach: V = Σ F_t/(1+i)^t, t = 1 … n, flows at the end of each period.

    ``inputs.method`` says how F_t is found. A range moves over all terms together: all revenues
    at their low numbers, or all at their high ones. Raises ValuationImpossible as :func:`cost`.
    """
    first, second, formula = _FLOWS[inputs.method]
    varying: dict[str, tuple[End, ...]] = {}
    if any(term.revenue.varies for term in inputs.terms):
        varying[first] = _LINEAR
    if second is not None and any(term.other.varies for term in inputs.terms):
        varying[second] = _LINEAR
    if inputs.discount_rate.varies:
        varying["i"] = _CURVED

    def calculate(ends: Ends, trace: _Trace | None) -> Decimal:
        rate = _ratio(inputs.discount_rate.at(ends["i"]))
        present, growth = Decimal(0), Decimal(1)
        for period, term in enumerate(inputs.terms, 1):
            put_in = {first: Decimal(term.revenue.at(ends[first]))}
            if second is not None:
                other = term.other.at(ends[second])
                put_in[second] = (
                    _ratio(other) if inputs.method is IncomeMethod.SHARE else Decimal(other)
                )
            flow = _flow(inputs.method, *put_in.values())
            growth *= 1 + rate
            discounted = flow / growth
            present += discounted
            if trace is not None:
                trace.add(f"F_{period}", formula, put_in, flow, unit=TraceUnit.MINOR)
                put_in = {"F_t": flow, "i": rate, "t": Decimal(period)}
                trace.add(
                    f"PV_{period}", "PV_t = F_t/(1+i)^t", put_in, discounted, unit=TraceUnit.MINOR
                )
        if trace is not None:
            count = {"n": Decimal(len(inputs.terms))}
            trace.add("V", "V = Σ PV_t", count, present, unit=TraceUnit.MINOR)
        return present

    return _appraise(Approach.INCOME, varying, calculate)


def market(inputs: MarketInputs) -> Appraisal:
    """Market approach: V = V_ref·X_quality·X_supply_demand·X_date·X_capacity·X_other.

    V_ref is the median of the stated reference and of every comparable's unit price times the
    quantity; its range is the interquartile range (quantiles by linear interpolation, Hyndman &
    Fan type 7), or the stated one when the reference stands alone. Raises ValuationImpossible
    without reference and comparables, and as :func:`cost`.
    """
    points = [item.unit_price * inputs.quantity for item in inputs.comparables]
    if inputs.reference is not None:
        points.append(Decimal(inputs.reference.central))
    if not points:
        raise ValuationImpossible(
            "There are no comparable trades and no reference price.",
            param="market.reference",
            hint="State a reference price with its source.",
        )
    reference = _reference_price(points, inputs.reference)
    varying = {"V_ref": _LINEAR} if reference[End.LOW] != reference[End.HIGH] else {}
    varying |= {name: _LINEAR for name, item in inputs.factors.items() if item.varies}

    def calculate(ends: Ends, trace: _Trace | None) -> Decimal:
        value = reference[ends["V_ref"]]
        at = {name: _ratio(item.at(ends[name])) for name, item in inputs.factors.items()}
        for factor in at.values():
            value *= factor
        if trace is not None:
            _trace_reference(trace, inputs, reference)
            formula = "V = " + "·".join(["V_ref", *at])
            put_in = {"V_ref": reference[End.CENTRAL], **at}
            trace.add("V", formula, put_in, value, unit=TraceUnit.MINOR)
        return value

    return _appraise(Approach.MARKET, varying, calculate)


def combine(appraisals: Sequence[Appraisal], weights: Mapping[Approach, int]) -> Combined:
    """Weighted mean of values and of range ends: V = Σ w·V_a / Σ w, half up to a minor unit.

    Raises ValuationImpossible when no appraisal has a positive weight.
    """
    whole = sum(weights[item.approach] for item in appraisals)
    if whole <= 0 or any(weights[item.approach] < 0 for item in appraisals):
        raise ValuationImpossible("No approach has a positive weight.", param="weights")

    with localcontext(_CONTEXT):

        def mean(values: Mapping[Approach, int]) -> Decimal:
            total = sum(weights[approach] * value for approach, value in values.items())
            return Decimal(total) / whole

        central = mean({item.approach: item.value_minor for item in appraisals})
        low = mean({item.approach: item.low_minor for item in appraisals})
        high = mean({item.approach: item.high_minor for item in appraisals})
        shown: dict[str, Decimal] = {}
        for item in appraisals:
            shown[f"V_{item.approach}"] = Decimal(item.value_minor)
            shown[f"w_{item.approach}"] = Decimal(weights[item.approach])
        trace = _Trace()
        trace.add("V", "V = Σ w_a·V_a / Σ w_a", shown, central, unit=TraceUnit.MINOR)
        return Combined(_whole(central), _whole(low), _whole(high), trace.steps[0])


def per_lot(total_minor: int, lots: int) -> int:
    """Price per lot, minor units: the total over ``lots``, half up, at least 1.

    Raises ValueError unless ``lots`` ≥ 1 and the total is not negative.
    """
    if lots < 1 or total_minor < 0:
        raise ValueError("a lot price needs at least one lot and no negative total")
    return max(1, (2 * total_minor + lots) // (2 * lots))


def quantile(points: Sequence[Decimal], fraction: Decimal) -> Decimal:
    """Quantile by linear interpolation (Hyndman & Fan type 7). Raises ValueError when empty."""
    if not points:
        raise ValueError("a quantile needs a point")
    ordered = sorted(points)
    place = fraction * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _reference_price(points: Sequence[Decimal], stated: Estimate | None) -> dict[End, Decimal]:
    if len(points) == 1 and stated is not None:
        return {end: Decimal(stated.at(end)) for end in End}
    with localcontext(_CONTEXT):
        return {
            End.CENTRAL: quantile(points, Decimal("0.5")),
            End.LOW: quantile(points, Decimal("0.25")),
            End.HIGH: quantile(points, Decimal("0.75")),
        }


def _trace_reference(trace: _Trace, inputs: MarketInputs, reference: Mapping[End, Decimal]) -> None:
    shown: dict[str, Decimal] = {}
    quantity = Decimal(inputs.quantity)
    for number, item in enumerate(inputs.comparables, 1):
        shown[f"V_{number}"] = item.unit_price * inputs.quantity
        put_in = {"p": item.unit_price, "Q": quantity, "trades": Decimal(item.trades)}
        trace.add(
            f"V_{number} ({item.label})",
            "V_k = p·Q",
            put_in,
            item.unit_price * inputs.quantity,
            unit=TraceUnit.MINOR,
        )
    if inputs.reference is not None:
        shown["V_stated"] = Decimal(inputs.reference.central)
    for name, formula, end in (
        ("Q1", "Q1 = first quartile", End.LOW),
        ("Q3", "Q3 = third quartile", End.HIGH),
        ("V_ref", "V_ref = median", End.CENTRAL),
    ):
        if end is End.CENTRAL or inputs.comparables:
            trace.add(name, formula, shown, reference[end], unit=TraceUnit.MINOR)


def _flow(method: IncomeMethod, revenue: Decimal, other: Decimal = Decimal(0)) -> Decimal:
    if method is IncomeMethod.SHARE:
        return revenue * other
    return revenue - other


def _appraise(
    approach: Approach, varying: Mapping[str, tuple[End, ...]], calculate: Calculation
) -> Appraisal:
    """Run the central case with its trace, every combination of ends, and one input at a time.

    At most 2**6 combinations, because no approach has more than six inputs.
    """
    with localcontext(_CONTEXT):
        trace = _Trace()
        central = calculate(_ends(), trace)
        if not 1 <= _whole(central) <= MAX_MINOR:
            raise ValuationImpossible(
                f"The {approach} approach gives {_text(central)} minor units; a price lies "
                f"between 1 and {MAX_MINOR}.",
                param=approach.value,
            )
        results = [
            calculate(_ends(dict(zip(varying, ends, strict=True))), None)
            for ends in itertools.product(*varying.values())
        ]
        swings = tuple(
            Swing(
                name,
                _bounded(calculate(_ends({name: End.LOW}), None)),
                _bounded(calculate(_ends({name: End.HIGH}), None)),
            )
            for name in varying
        )
        return Appraisal(
            approach,
            _whole(central),
            _bounded(min(results)),
            _bounded(max(results)),
            central,
            tuple(trace.steps),
            swings,
        )


def _ends(moved: Mapping[str, End] | None = None) -> Ends:
    return defaultdict(lambda: End.CENTRAL, moved or {})


def _ratio(ppm: int) -> Decimal:
    return Decimal(ppm) / PPM


def _whole(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _bounded(value: Decimal) -> int:
    return min(max(_whole(value), 0), MAX_MINOR)


def _text(value: Decimal) -> str:
    rounded = value.quantize(_TRACE_PLACES, rounding=ROUND_HALF_UP)
    # Adding zero turns a rounded -0 into 0.
    return format(rounded + 0, "f").rstrip("0").rstrip(".")
