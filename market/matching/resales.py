"""Orders that sell bought units on: what they may offer, and what a batch moves between grants."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from contracts import resale
from contracts.errors import ResaleUnitsShort
from contracts.resale import Change, Source
from contracts.resale_terms import last_offer
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.matching.commands import Place
from market.matching.errors import ExpiryOutOfRange
from market.matching.models import CloseReason

if TYPE_CHECKING:
    from market.matching.shard import LiveOrder
    from market.matching.touched import Touched


@dataclass(slots=True)
class Holdings:
    """The grants that a batch's new orders offer units of; ``free`` shrinks as they are admitted.

    An opinion, like a balance: :func:`move_units` has the last word, with the rows locked.
    """

    sources: Mapping[UUID, Source]
    free: dict[UUID, int]

    def check(self, place: Place, now: datetime) -> datetime | None:
        """May the order offer its grant's units? When it must end; None: at once, by itself.

        Raises GrantNotFound (404), ResalePlanMismatch (422), ResaleNotAllowed (403),
        ResaleGrantInactive (409) and ExpiryOutOfRange (422).
        """
        body = place.body
        assert body.grant_id is not None
        source = resale.check_offer(
            self.sources.get(body.grant_id), holder_id=place.party_id, plan_id=body.plan_id
        )
        end = self.check_end(source.grant_id, body.expires_at, now)
        return end if body.rests else None

    def check_end(self, grant_id: UUID, expires_at: datetime | None, now: datetime) -> datetime:
        """When an offer of the grant's units ends, wished at ``expires_at``.

        Raises ResaleGrantInactive (409) and ExpiryOutOfRange (422).
        """
        source = self.sources[grant_id]
        refusal = resale.inactive(source, now)
        if refusal is not None:
            raise refusal
        end = last_offer(source.terms)
        if expires_at is not None and expires_at > end:
            detail = f"These units are sold on until {end.isoformat()}."
            raise ExpiryOutOfRange(detail, param="expires_at")
        return expires_at or end

    def take(self, place: Place) -> None:
        """Take the order's units off what later orders find. Raises ResaleUnitsShort (409)."""
        grant_id, needed = self._units(place)
        free = self.free[grant_id]
        if needed > free:
            raise _short(needed, free)
        self.free[grant_id] = free - needed

    def give_back(self, place: Place) -> None:
        """Undo :meth:`take`."""
        grant_id, units = self._units(place)
        self.free[grant_id] += units

    def _units(self, place: Place) -> tuple[UUID, int]:
        body = place.body
        assert body.grant_id is not None
        assert body.lots is not None
        return body.grant_id, body.lots * self.sources[body.grant_id].lot_units


async def gather(
    uow: UnitOfWork, places: Iterable[Place], amended: Iterable[LiveOrder]
) -> Holdings:
    """Read the grants that new and amended orders offer units of: one query, none without any."""
    wanted = {place.body.grant_id for place in places if place.body.grant_id is not None}
    wanted |= {order.grant_id for order in amended if order.grant_id is not None}
    sources = await resale.read_sources(uow, wanted)
    return Holdings(sources, {grant_id: each.free_units for grant_id, each in sources.items()})


async def move_units(
    uow: UnitOfWork,
    touched: Iterable[Touched],
    *,
    refused: dict[UUID, MarketError],
    ended: dict[UUID, CloseReason],
) -> dict[UUID, Source] | None:
    """Make the grants say what the batch has offered, sold on and taken back; the grants, locked.

    None, and nothing changed, when an order must not trade: ``refused`` (new ones) or ``ended``
    then say which and why. Nothing is read when no order offers a grant's units.
    """
    asks = [order for order in touched if order.order.grant_id is not None]
    if not asks:
        return {}
    wanted = {ask.order.grant_id for ask in asks if ask.order.grant_id is not None}
    sources = await resale.read_sources(uow, wanted, lock=True)
    changes = [(ask, _change(ask, sources)) for ask in asks]
    if not _judge(changes, sources, uow.now, refused, ended):
        return None
    total: dict[UUID, Change] = {}
    for _, change in changes:
        sum_ = total.get(change.grant_id, Change(change.grant_id, 0, 0))
        total[change.grant_id] = Change(
            change.grant_id, sum_.offered + change.offered, sum_.resold + change.resold
        )
    await resale.apply(uow, list(total.values()))
    return sources


def _change(ask: Touched, sources: Mapping[UUID, Source]) -> Change:
    order = ask.order
    assert order.grant_id is not None
    assert order.lots is not None
    units = sources[order.grant_id].lot_units
    before = 0 if ask.admitted is not None else order.lots - order.filled
    after = ask.left if ask.status.is_open else 0
    return Change(order.grant_id, (after - before) * units, (ask.filled - order.filled) * units)


def _judge(
    changes: Collection[tuple[Touched, Change]],
    sources: Mapping[UUID, Source],
    now: datetime,
    refused: dict[UUID, MarketError],
    ended: dict[UUID, CloseReason],
) -> bool:
    """What is given back first, then what new and enlarged orders need, in input order."""
    free = {grant_id: each.free_units for grant_id, each in sources.items()}
    sound = True
    for ask, change in changes:
        trades = ask.admitted is None and ask.matches
        if trades and resale.inactive(sources[change.grant_id], now) is not None:
            ended[ask.order.id] = CloseReason.GRANT_ENDED
            sound = False
        free[change.grant_id] -= min(0, change.needed)
    for ask, change in changes:
        command_id = _asked_by(ask, change)
        if command_id is None:
            continue
        error = resale.inactive(sources[change.grant_id], now)
        if error is None and change.needed > free[change.grant_id]:
            error = _short(change.needed, free[change.grant_id])
        if error is not None:
            refused[command_id] = error
            sound = False
        else:
            free[change.grant_id] -= change.needed
    return sound


def _asked_by(ask: Touched, change: Change) -> UUID | None:
    """The command that a refusal of more units goes to: the order's own, or its amendment's."""
    if ask.admitted is not None:
        return ask.order.id
    if change.needed <= 0:
        return None
    assert ask.revision is not None
    return ask.revision.amended_by


def _short(needed: int, free: int) -> ResaleUnitsShort:
    return ResaleUnitsShort(f"{needed} units are offered, {free} are free.", free_units=free)
