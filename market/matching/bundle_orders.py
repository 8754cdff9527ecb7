"""The bundles of one batch: each is admitted, quoted and matched as a whole, or leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.ids import show
from market.matching import bundle_sql
from market.matching.admission import Admitted, BundleShare, Facts, consider, take_money
from market.matching.bundle import Leg, Quote, cost, quote, short
from market.matching.commands import Command, Place, PlaceBundle
from market.matching.errors import (
    BundleCurrencies,
    BundleTooExpensive,
    BundleUnfillable,
    ClientOrderIdTaken,
    InstrumentClosed,
)
from market.matching.gate import Gate
from market.matching.matcher import SIDES, Matcher
from market.matching.models import OrderStatus
from market.matching.shard import MODES, Shard
from market.matching.terms import Phase
from market.matching.touched import Touched

if TYPE_CHECKING:
    from market.matching.sql import Connection


class FilledBundle(NamedTuple):
    """A bundle whose legs have all been filled, in their order; ``cost`` in minor units."""

    command: PlaceBundle
    seq: int
    currency: str
    cost: int
    legs: list[Touched]


class Bundler:
    """Carries out the bundles of one batch."""

    def __init__(
        self,
        uow: UnitOfWork,
        shard: Shard,
        matcher: Matcher,
        gate: Gate,
        facts: Facts,
        next_seq: Callable[[], int],
    ) -> None:
        self._uow = uow
        self._shard = shard
        self._matcher = matcher
        self._gate = gate
        self._facts = facts
        self._next_seq = next_seq
        self._names: set[tuple[UUID, str]] = set()
        self._filled: list[FilledBundle] = []

    async def look_up(self, connection: Connection, commands: Sequence[Command]) -> None:
        """Read which client order ids are taken; no query when no bundle has one."""
        names = [
            (command.party_id, command.body.client_order_id)
            for command in commands
            if isinstance(command, PlaceBundle) and command.body.client_order_id is not None
        ]
        if names:
            self._names = await bundle_sql.taken_names(connection, names)

    def carry_out(self, command: PlaceBundle, refused: Mapping[UUID, MarketError]) -> FilledBundle:
        """Fill all legs at their best prices. ``refused``: orders that may not enter, by id.

        Raises the MarketError that refuses the bundle, with the place of the leg in ``param``;
        no book, balance or holding has then changed.
        """
        body = command.body
        name = (command.party_id, body.client_order_id or "")
        if name in self._names:
            raise ClientOrderIdTaken("It belongs to another bundle.", param="client_order_id")
        admitted = [
            self._admit(number, place, refused) for number, place in enumerate(command.places)
        ]
        currencies = sorted({each.plan.currency for each in admitted})
        if len(currencies) > 1:
            raise BundleCurrencies(f"The plans are in {', '.join(currencies)}.", param="legs")
        legs, quotes = self._quote(command, admitted)
        total = cost(legs, quotes)
        if body.cost_max_minor is not None and total > body.cost_max_minor:
            raise BundleTooExpensive(
                f"The legs cost {total} minor units.", param="cost_max_minor", cost_minor=total
            )
        shares = [
            each._replace(leg=BundleShare(command.bundle_id, found.amount))
            for each, found in zip(admitted, quotes, strict=True)
        ]
        self._fund(shares)
        if body.client_order_id is not None:
            self._names.add(name)
        filled = FilledBundle(command, self._next_seq(), currencies[0], total, self._place(shares))
        self._filled.append(filled)
        return filled

    async def write(self, connection: Connection) -> None:
        """Write the bundles and tell their parties: event ``bundle.filled`` each."""
        await bundle_sql.insert(connection, [_row(each, self._uow) for each in self._filled])
        for each in self._filled:
            self._uow.emit(
                "bundle.filled",
                each.command.bundle_id,
                {
                    "bundle_id": show("bnd", each.command.bundle_id),
                    "order_ids": [show("ord", leg.order.id) for leg in each.legs],
                    "cost_minor": each.cost,
                    "currency": each.currency,
                },
                parties=[each.command.party_id],
            )

    def _admit(self, number: int, place: Place, refused: Mapping[UUID, MarketError]) -> Admitted:
        with _of_leg(number):
            if place.order_id in refused:
                raise refused[place.order_id]
            plan = self._facts.plans.get(place.body.plan_id)
            if plan is not None:
                self._gate.check(place, plan)
            return consider(place, self._facts, now=self._uow.now)

    def _quote(
        self, command: PlaceBundle, admitted: Sequence[Admitted]
    ) -> tuple[list[Leg], list[Quote]]:
        """What each leg meets in its book; all of them fill. Raises BundleUnfillable and others."""
        legs: list[Leg] = []
        for number, leg in enumerate(command.body.legs):
            with _of_leg(number):
                book = self._shard.instrument(leg.plan_id).book
                if book.phase is not Phase.CONTINUOUS:
                    raise InstrumentClosed(param="plan_id")
            legs.append(Leg(book, SIDES[leg.side], leg.price_minor, leg.lots))
        owner = self._shard.owner(admitted[0].group)
        quotes = quote(legs, owner, MODES[command.body.self_trade_prevention])
        missing = short(legs, quotes)
        if missing is not None:
            found = quotes[missing].lots
            raise BundleUnfillable(
                f"Leg {missing} can trade {found} of {legs[missing].lots} lots.",
                param=f"legs.{missing}.lots",
                tradable_lots=found,
            )
        return legs, quotes

    def _fund(self, admitted: Sequence[Admitted]) -> None:
        """Take the units and the money of all legs off what later commands of the batch see."""
        holdings = self._facts.holdings
        taken: list[Place] = []
        try:
            for number, each in enumerate(admitted):
                if each.place.body.grant_id is not None:
                    with _of_leg(number):
                        holdings.take(each.place)
                    taken.append(each.place)
            money = sum(each.reserve_minor for each in admitted)
            if money:
                take_money(self._facts, admitted[0].account, money)
        except MarketError:
            for place in taken:
                holdings.give_back(place)
            raise

    def _place(self, admitted: Sequence[Admitted]) -> list[Touched]:
        placed: list[Touched] = []
        for each in admitted:
            leg = self._matcher.place(each, seq=self._next_seq())
            assert leg.status is OrderStatus.FILLED, "a quote holds until the book changes"
            assert each.leg is not None
            assert leg.amount == each.leg.amount_minor, "the amount was quoted"
            self._gate.traded(leg)
            placed.append(leg)
        return placed


@contextmanager
def _of_leg(number: int) -> Iterator[None]:
    """Name the leg in what refuses it: in a copy, because orders of the batch may share it."""
    try:
        yield
    except MarketError as error:
        named = copy(error)
        named.param = f"legs.{number}" if error.param is None else f"legs.{number}.{error.param}"
        raise named from error


def _row(filled: FilledBundle, uow: UnitOfWork) -> bundle_sql.BundleRow:
    body = filled.command.body
    return bundle_sql.BundleRow(
        id=filled.command.bundle_id,
        seq=filled.seq,
        party_id=filled.command.party_id,
        currency=filled.currency,
        cost_minor=filled.cost,
        cost_max_minor=body.cost_max_minor,
        self_trade_mode=body.self_trade_prevention,
        client_order_id=body.client_order_id,
        created_at=uow.now,
    )
