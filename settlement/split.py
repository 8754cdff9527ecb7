"""Who gets what of a sale, exactly, over any number of partial releases. Pure.

Each part is a function of the *cumulative* amount released, and a release pays the difference
``part(before + amount) - part(before)``; so the parts of every release sum to it, and the parts
of all releases equal those of one release of the total.

That needs parts which never shrink as the amount grows. The largest-remainder method over three
or more parts does not have this property (the Alabama paradox: weights 5 %, 28.5 %, 66.5 % split
8 as 1, 2, 5 but 9 as 0, 3, 6), so a later release would *take back* a unit already paid.
Between two parts it has it. So the sum is cut in two repeatedly, by
largest remainder, in a fixed order: fee against net, then each contributor against the rest, the
seller keeps what is left. Each cut rounds by at most half a minor unit over the whole life of
the deal, however many releases there are.

A fee with a minimum and a cap keeps the property: of the cumulative amount it is the rounded
percentage, raised to the minimum, lowered to the cap and never above the amount itself. Each of
these grows by 0 or 1 when the amount grows by 1, and so do their larger and their smaller; so
neither the fee nor the rest is ever taken back. It also means that the first releases pay the
minimum, and that releases after the cap cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from market.kernel.money import PPM, split


@dataclass(frozen=True, slots=True)
class SplitTerms:
    """``fee_ppm`` of the gross amount; ``shares`` (party, ppm) of the seller's net, in order.

    ``fee_minimum`` and ``fee_cap`` (None: none) are minor units over the life of the deal. An
    intermediary's commission is the first of the shares. Raises ValueError when a rate is outside
    0..1,000,000 ppm, shares leave the seller nothing, or the minimum is above the cap.
    """

    fee_ppm: int
    shares: tuple[tuple[UUID, int], ...] = ()
    fee_minimum: int = 0
    fee_cap: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.fee_ppm < PPM:
            raise ValueError(f"fee_ppm must be 0 to {PPM - 1}, not {self.fee_ppm}")
        if any(ppm <= 0 for _, ppm in self.shares) or sum(p for _, p in self.shares) >= PPM:
            raise ValueError("shares are positive and leave the seller something")
        if self.fee_minimum < 0 or (self.fee_cap is not None and self.fee_cap < self.fee_minimum):
            raise ValueError("the fee's minimum is not negative and not above its cap")


@dataclass(frozen=True, slots=True)
class Parts:
    """Minor units for the platform, each contributor (in the terms' order) and the seller."""

    fee: int
    shares: tuple[int, ...]
    seller: int

    @property
    def total(self) -> int:
        return self.fee + sum(self.shares) + self.seller


def fee_of(total: int, terms: SplitTerms) -> int:
    """The platform's minor units of ``total`` released so far: within [minimum, cap], ≤ total."""
    fee = max(split(total, (terms.fee_ppm, PPM - terms.fee_ppm))[0], terms.fee_minimum)
    if terms.fee_cap is not None:
        fee = min(fee, terms.fee_cap)
    return min(fee, total)


def cumulative(total: int, terms: SplitTerms) -> Parts:
    """The parts of ``total`` minor units released so far. Each part grows with ``total``."""
    fee = fee_of(total, terms)
    rest = total - fee
    rest_ppm = PPM
    shares = []
    for _, ppm in terms.shares:
        share, rest = split(rest, (ppm, rest_ppm - ppm))
        rest_ppm -= ppm
        shares.append(share)
    return Parts(fee, tuple(shares), rest)


def increment(before: int, amount: int, terms: SplitTerms) -> Parts:
    """The parts of releasing ``amount`` after ``before``; all are >= 0 and sum to ``amount``.

    Raises ValueError for negative amounts.
    """
    if before < 0 or amount < 0:
        raise ValueError("released amounts are not negative")
    earlier, later = cumulative(before, terms), cumulative(before + amount, terms)
    return Parts(
        later.fee - earlier.fee,
        tuple(new - old for new, old in zip(later.shares, earlier.shares, strict=True)),
        later.seller - earlier.seller,
    )


def by_party(parts: Parts, terms: SplitTerms, seller_id: UUID) -> dict[UUID, int]:
    """Positive amounts per party; a seller who is also a contributor appears once."""
    paid: dict[UUID, int] = {}
    named: Iterable[UUID] = [*(party for party, _ in terms.shares), seller_id]
    for party, amount in zip(named, [*parts.shares, parts.seller], strict=True):
        if amount:
            paid[party] = paid.get(party, 0) + amount
    return paid
