"""Rules over agreements: money in escrow is released, refunded, frozen, ruled upon and closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeVar
from uuid import UUID

from hypothesis import strategies as st

from market.kernel.db import UnitOfWork
from market.kernel.errors import Unavailable
from market.kernel.money import Money
from settlement import escrow
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Applied, Command, Leg, Transfer
from settlement.errors import InsufficientFunds
from tests.settlement.cutting_proxy import Cut
from tests.settlement.machine.commands import AGREEMENTS, DISPUTES, PARTIES, near_free
from tests.settlement.machine.core import MachineCore, step
from tests.settlement.machine.dice import Dice
from tests.settlement.shadow_split import WHOLE, nearest, pay

T = TypeVar("T")
CURRENCY = "CNY"
CLEARING = AccountRef(AccountKind.CLEARING, None, CURRENCY)
FEES = AccountRef(AccountKind.FEES, None, CURRENCY)
BUYER, SELLER = PARTIES[0], PARTIES[1]
CUTS = (None, None, None, None, Cut.BEFORE, Cut.AFTER)


@dataclass
class Agreement:
    """What the caller of escrow must remember of one agreement and its dispute."""

    id: UUID
    dispute_id: UUID
    fee_ppm: int
    shares: tuple[tuple[UUID, int], ...]
    released: int = 0
    releases: dict[str, escrow.Release] = field(default_factory=dict)

    @property
    def escrow(self) -> AccountRef:
        """Where its money waits."""
        return AccountRef(AccountKind.ESCROW, self.id, CURRENCY)

    @property
    def frozen(self) -> AccountRef:
        """Where its money waits while it is disputed."""
        return AccountRef(AccountKind.FROZEN, self.dispute_id, CURRENCY)


def available(party: UUID) -> AccountRef:
    """A party's money."""
    return AccountRef(AccountKind.AVAILABLE, party, CURRENCY)


class EscrowRules(MachineCore):
    """Three agreements with different terms; the seller and the buyer may be contributors."""

    def __init__(self) -> None:
        super().__init__()
        terms = (
            (50_000, ()),
            (33_333, ((PARTIES[2], 333_333), (BUYER, 123_457))),
            (0, ((SELLER, 500_000), (PARTIES[3], 1))),
        )
        self.agreements = [
            Agreement(agreement, dispute, fee, shares)
            for agreement, dispute, (fee, shares) in zip(AGREEMENTS, DISPUTES, terms, strict=True)
        ]

    def _agreement(self, dice: Dice) -> Agreement:
        deal = dice.one(self.agreements)
        if self.shadow.free(deal.escrow) < 1 and not dice.rarely(4):
            # Or else most steps would have nothing to divide.
            self._pay_in(dice, deal, dice.number(1, 300))
        return deal

    def _work(self, dice: Dice, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """Carry ``work`` out; when the wire is cut at COMMIT, again under the same key."""
        cut = dice.one(CUTS)
        return self.run(self._survive(work, cut))

    async def _survive(self, work: Callable[[UnitOfWork], Awaitable[T]], cut: Cut | None) -> T:
        if cut is not None:
            self.world.proxy.at_commit(cut)
        try:
            return await self._attempt(work)
        except Unavailable:
            assert cut is not None, "unavailable without a fault"
            self.world.tally.unknown += 1
        finally:
            self.world.proxy.disarm()
        return await self._attempt(work)

    async def _attempt(self, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        async with self.world.kernel.unit_of_work() as uow:
            answer = await work(uow)
        return answer

    async def _check(self, key: str, kind: str, legs: tuple[Leg, ...], memo: UUID) -> UUID | None:
        """What was booked under ``key`` is exactly this transfer."""
        row = await self.world.row(key)
        assert row is not None
        command = Transfer(key, kind, legs, memo_id=memo)
        if self.shadow.find(key) is None:
            await self.absorb(command, Applied(key, row.transfer_id), unsure=True)
        else:
            assert self.shadow.find(key) == (command, row.at, None, row.transfer_id)
        return row.transfer_id

    @step(amount=st.integers(1, 300))
    def pay_in(self, dice: Dice, amount: int) -> None:
        """The buyer's money goes into escrow."""
        self.begin("pay_in")
        self._pay_in(dice, dice.one(self.agreements), amount)

    def _pay_in(self, dice: Dice, deal: Agreement, amount: int) -> None:
        legs = ((available(BUYER), -amount), (deal.escrow, amount))
        listed: list[Command] = [Transfer(self.names.key(), "escrow", legs, memo_id=deal.id)]
        if self.shadow.free(available(BUYER)) < amount and not dice.rarely(4):
            funds = ((CLEARING, -amount), (available(BUYER), amount))
            listed.insert(0, Transfer(self.names.key(), "top_up", funds))
        self.run(self.in_order(listed))

    @step()
    def release(self, dice: Dice) -> None:
        """Part by part: every part sums exactly, and all parts to one release of the total."""
        self.begin("release")
        deal = self._agreement(dice)
        if deal.releases and dice.rarely(4):
            again = dice.one(list(deal.releases.values()))
            self._release(dice, deal, again)
            return
        amount = near_free(dice, self.shadow, deal.escrow)
        self._release(dice, deal, self._part(deal, amount))

    def _part(self, deal: Agreement, amount: int) -> escrow.Release:
        key = self.names.key()
        return escrow.Release(
            key, deal.id, CURRENCY, amount, SELLER, deal.fee_ppm, deal.shares, deal.released
        )

    def _release(self, dice: Dice, deal: Agreement, part: escrow.Release) -> None:
        fee, paid = pay(part.released_before, part.amount, deal.fee_ppm, deal.shares, SELLER)
        assert fee + sum(paid.values()) == part.amount
        known = part.key in deal.releases
        covered = known or part.amount <= self.shadow.free(deal.escrow)
        try:
            (done,) = self._work(dice, lambda uow: escrow.release(uow, [part]))
        except InsufficientFunds:
            assert not covered
            assert self.run(self.world.row(part.key)) is None
            return
        assert covered
        assert done.parts.fee == fee
        assert done.parts.total == part.amount
        legs = [(deal.escrow, -part.amount), *((available(p), m) for p, m in paid.items())]
        if fee:
            legs.append((FEES, fee))
        name = self.run(self._check(part.key, "release", tuple(legs), deal.id))
        assert done.transfer_id == name
        if not known:
            deal.releases[part.key] = part
            deal.released += part.amount

    @step()
    def refund(self, dice: Dice) -> None:
        """Back to the buyer."""
        self.begin("refund")
        deal = self._agreement(dice)
        self._refund(dice, deal, near_free(dice, self.shadow, deal.escrow))

    def _refund(self, dice: Dice, deal: Agreement, amount: int) -> None:
        covered = amount <= self.shadow.free(deal.escrow)
        key, money = self.names.key(), Money(amount_minor=amount, currency=CURRENCY)
        try:
            done = self._work(dice, lambda uow: escrow.refund(uow, key, deal.id, BUYER, money))
        except InsufficientFunds:
            assert not covered
            assert self.run(self.world.row(key)) is None
            return
        assert covered
        legs = ((deal.escrow, -amount), (available(BUYER), amount))
        assert self.run(self._check(key, "refund", legs, deal.id)) == done

    @step(back=st.booleans())
    def freeze(self, dice: Dice, back: bool) -> None:
        """A dispute takes all that is left, or gives it back; twice under one key is once."""
        self.begin("freeze")
        deal = self._agreement(dice)
        source, target = (deal.escrow, deal.frozen)
        work, kind, memo = escrow.freeze, "freeze", deal.dispute_id
        if back:
            source, target = target, source
            work, kind = escrow.unfreeze, "unfreeze"
        amount, key = self.shadow.free(source), self.names.key()
        for _ in range(2):
            moved = self._work(dice, lambda uow: work(uow, key, deal.id, deal.dispute_id, CURRENCY))
            assert moved == amount
            if amount == 0:
                assert self.run(self.world.row(key)) is None
                return
            self.run(self._check(key, kind, ((source, -amount), (target, amount)), memo))
        assert self.shadow.posted(source) == 0

    @step(buyer_ppm=st.one_of(st.sampled_from((0, WHOLE)), st.integers(0, WHOLE)))
    def rule_upon(self, dice: Dice, buyer_ppm: int) -> None:
        """A ruling pays out everything that is frozen; the dispute's account ends at zero."""
        self.begin("rule_upon")
        deal = self._agreement(dice)
        amount, key = self.shadow.free(deal.frozen), self.names.key()
        to_buyer = nearest(Fraction(amount * buyer_ppm, WHOLE))
        to_seller = amount - to_buyer
        fee, paid = pay(deal.released, to_seller, deal.fee_ppm, deal.shares, SELLER)
        if to_buyer:
            paid[BUYER] = paid.get(BUYER, 0) + to_buyer
        before = deal.released
        for _ in range(2):
            done = self._work(
                dice,
                lambda uow: escrow.apply_ruling(
                    uow,
                    key,
                    deal.dispute_id,
                    CURRENCY,
                    buyer_id=BUYER,
                    buyer_ppm=buyer_ppm,
                    seller_id=SELLER,
                    fee_ppm=deal.fee_ppm,
                    shares=deal.shares,
                    released_before=before,
                ),
            )
            given = done["buyer"] + done["fee"] + done["seller"] + sum(done["shares"].values())
            assert (done["buyer"], done["fee"], given) == (to_buyer, fee, amount)
            if amount == 0:
                assert done["transfer_id"] is None
                return
            legs = [(deal.frozen, -amount), *((available(p), m) for p, m in paid.items())]
            if fee:
                legs.append((FEES, fee))
            name = self.run(self._check(key, "ruling", tuple(legs), deal.dispute_id))
            assert done["transfer_id"] == name
        deal.released += to_seller
        assert self.shadow.posted(deal.frozen) == 0

    @step(refunded=st.booleans())
    def close(self, dice: Dice, refunded: bool) -> None:
        """A closed agreement leaves nothing behind, in escrow or frozen."""
        self.begin("close")
        deal = self._agreement(dice)
        if self.shadow.posted(deal.frozen):
            key, amount = self.names.key(), self.shadow.posted(deal.frozen)
            self._work(
                dice,
                lambda uow: escrow.unfreeze(uow, key, deal.id, deal.dispute_id, CURRENCY),
            )
            legs = ((deal.frozen, -amount), (deal.escrow, amount))
            self.run(self._check(key, "unfreeze", legs, deal.dispute_id))
        left = self.shadow.free(deal.escrow)
        if left and refunded:
            self._refund(dice, deal, left)
        elif left:
            self._release(dice, deal, self._part(deal, left))
        assert self.shadow.free(deal.escrow) == 0
        assert self.shadow.posted(deal.frozen) == 0
