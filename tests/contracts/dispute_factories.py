"""Disputes for tests, played over HTTP by real parties."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from contracts import dispute_jobs
from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse
from market.kernel.security import Role
from pricing.models import Plan
from settlement.accounts import AccountRef
from settlement.escrow import frozen_of
from tests.contracts.factories import Trade, agreement_of, grant_of, make_agreement
from tests.listings.factories import make_listing
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import available, move_clock, state


@dataclass(frozen=True)
class Court:
    """A trade, four arbiters, an operator, a regulator, and a way to speak as any of them."""

    kernel: Kernel
    client: httpx.AsyncClient
    trade: Trade
    arbiters: tuple[Member, ...]
    operator: Member
    regulator: Member
    seller_before: int
    dispute_id: str = ""

    @property
    def buyer(self) -> Member:
        return self.trade.buyer

    @property
    def seller(self) -> Member:
        return self.trade.seller

    @property
    def uuid(self) -> UUID:
        return parse("dsp", self.dispute_id)

    @property
    def frozen(self) -> AccountRef:
        return frozen_of(self.uuid, self.trade.agreement.currency)

    async def post(
        self, who: Member, path: str, body: Any = None, *, key: str | None = None, expect: int = 0
    ) -> httpx.Response:
        """POST below the dispute (or an absolute path), checking the status if given."""
        target = path if path.startswith("/v1") else f"/v1/disputes/{self.dispute_id}/{path}"
        answer = await self.client.post(target, json=body, headers=who.headers(key))
        if expect:
            assert answer.status_code == expect, answer.text
        return answer

    async def get(self, who: Member, path: str = "", *, expect: int = 200) -> httpx.Response:
        """GET below the dispute (or an absolute path)."""
        target = f"/v1/disputes/{self.dispute_id}/{path}".rstrip("/")
        if path.startswith("/v1"):
            target = path
        answer = await self.client.get(target, headers=who.headers())
        assert answer.status_code == expect, answer.text
        return answer

    async def status(self) -> str:
        """The dispute's status."""
        found: str = (await self.get(self.operator)).json()["status"]
        return found

    async def later(self, **time: float) -> "Court":
        """Move the clock; everybody logs in again."""
        await move_clock(self.kernel, timedelta(**time))
        async with self.kernel.unit_of_work():
            pass
        return replace(
            self,
            trade=replace(
                self.trade,
                buyer=self.buyer.with_fresh_token(self.kernel),
                seller=self.seller.with_fresh_token(self.kernel),
            ),
            arbiters=tuple(a.with_fresh_token(self.kernel) for a in self.arbiters),
            operator=self.operator.with_fresh_token(self.kernel),
            regulator=self.regulator.with_fresh_token(self.kernel),
        )

    async def deadlines(self) -> int:
        """Run the job once."""
        return await dispute_jobs.apply_deadlines(self.kernel)

    async def money(self) -> dict[str, int]:
        """Posted minor units of everybody concerned; of the shared seller, what came since."""
        currency = self.trade.agreement.currency
        refs = {
            "escrow": self.trade.escrow,
            "buyer": available(self.buyer.party_id, currency),
            "seller": available(self.seller.party_id, currency),
        }
        if self.dispute_id:
            refs["frozen"] = self.frozen
        found = {name: (await state(self.kernel, ref))[0] for name, ref in refs.items()}
        return {**found, "seller": found["seller"] - self.seller_before}

    async def agreement_status(self) -> str:
        """The agreement's status in the database."""
        return (await agreement_of(self.kernel, self.trade.agreement.id)).status.value

    async def grant_status(self) -> str:
        """The grant's status in the database."""
        return (await grant_of(self.kernel, self.trade.agreement.id)).status.value

    async def facts(self) -> dict[str, Any]:
        """Everything that a refusal must leave alone."""
        async with self.kernel.unit_of_work() as uow:
            raw = await uow.raw()
            counts = {
                table: await raw.fetchval(
                    f"SELECT count(*) FROM contracts.{table} WHERE dispute_id = $1", self.uuid
                )
                for table in ("evidence", "dispute_step", "dispute_offer", "ruling", "appeal")
            }
            row = await raw.fetchrow("SELECT * FROM contracts.dispute WHERE id = $1", self.uuid)
        assert row is not None
        return {
            "money": await self.money(),
            "agreement": await self.agreement_status(),
            "grant": await self.grant_status(),
            "counts": counts,
            "row": dict(row),
        }


def claim(**changes: Any) -> dict[str, Any]:
    """A claim for everything."""
    made: dict[str, Any] = {
        "statement": "A third of the rows is missing.",
        "buyer_ppm": 1_000_000,
        "access": "revoke",
    }
    return {**made, **changes}


def text(content: str = "See for yourself.", **changes: Any) -> dict[str, Any]:
    """A statement as evidence."""
    made: dict[str, Any] = {"kind": "statement", "title": "What we found", "content": content}
    return {**made, **changes}


def ruling(buyer_ppm: int = 300_000, **changes: Any) -> dict[str, Any]:
    """A ruling that splits."""
    made: dict[str, Any] = {
        "buyer_ppm": buyer_ppm,
        "access": "revoke",
        "reasons": "Part of the rows was missing; the rest was usable.",
        "clauses": ["terms 3.1"],
    }
    return {**made, **changes}


# Registering a product takes a second: tests of one module share sellers and their plans. The
# kernel is kept with them, so that its id is not used again.
_offers: dict[tuple[int, tuple[tuple[str, Any], ...]], tuple[Kernel, Member, Plan]] = {}


async def _offer(kernel: Kernel, fields: dict[str, Any], *, alone: bool) -> tuple[Member, Plan]:
    key = (id(kernel), tuple(sorted(fields.items())))
    if alone or key not in _offers:
        seller = await make_party(kernel, Role.SELLER)
        listing = await make_listing(kernel, seller)
        plan = await make_plan(kernel, seller, listing.listing_id, **fields)
        _offers[key] = (kernel, seller, plan)
    _, seller, plan = _offers[key]
    return seller.with_fresh_token(kernel), plan


async def make_court(
    kernel: Kernel,
    client: httpx.AsyncClient,
    *,
    arbiters: int = 2,
    lots: int = 1,
    alone: bool = False,
    **plan: Any,
) -> Court:
    """A fresh trade (license by default) with staff, nothing disputed yet.

    ``alone`` gives it a seller of its own, whose balance no other case of the module touches.
    """
    fields: dict[str, Any] = {"kind": "license", "price_minor": 10_001, **plan}
    seller, made = await _offer(kernel, fields, alone=alone)
    buyer = await make_party(kernel, Role.BUYER)
    agreement = await make_agreement(kernel, buyer, seller, made, lots=lots)
    grant = await grant_of(kernel, agreement.id)
    return Court(
        kernel=kernel,
        client=client,
        trade=Trade(buyer, seller, made, agreement, grant.id),
        arbiters=tuple([await make_party(kernel, Role.ARBITER) for _ in range(arbiters)]),
        operator=await make_party(kernel, Role.OPERATOR),
        regulator=await make_party(kernel, Role.REGULATOR),
        seller_before=(await state(kernel, available(seller.party_id, made.currency)))[0],
    )


async def opened(
    kernel: Kernel,
    client: httpx.AsyncClient,
    *,
    by_seller: bool = False,
    arbiters: int = 2,
    claimed: dict[str, Any] | None = None,
    **trade: Any,
) -> Court:
    """A dispute in negotiation."""
    court = await make_court(kernel, client, arbiters=arbiters, **trade)
    return await open_dispute(court, by_seller=by_seller, claimed=claimed)


async def open_dispute(
    court: Court, *, by_seller: bool = False, claimed: dict[str, Any] | None = None
) -> Court:
    """Open a dispute on the court's trade."""
    body = {
        "agreement_id": court.trade.id,
        "reason": "incomplete",
        "claim": claimed or claim(),
    }
    who = court.seller if by_seller else court.buyer
    answer = await court.post(who, "/v1/disputes", body, expect=201)
    return replace(court, dispute_id=answer.json()["id"])


async def in_review(
    kernel: Kernel, client: httpx.AsyncClient, *, assigned: bool = True, **fields: Any
) -> Court:
    """A dispute before an arbiter: negotiation and evidence are over."""
    court = await opened(kernel, client, **fields)
    await court.post(court.buyer, "escalate", expect=200)
    await court.post(court.buyer, "evidence", text("rows missing"), expect=201)
    await court.post(court.seller, "evidence", text("all rows sent"), expect=201)
    await court.post(court.seller, "evidence/complete", expect=200)
    await court.post(court.buyer, "evidence/complete", expect=200)
    if assigned:
        await court.post(court.arbiters[0], "assign", {}, expect=200)
    return court


async def ruled(
    kernel: Kernel, client: httpx.AsyncClient, *, buyer_ppm: int = 300_000, **fields: Any
) -> Court:
    """A dispute with a preliminary ruling of one arbiter."""
    court = await in_review(kernel, client, **fields)
    await court.post(court.arbiters[0], "rulings", ruling(buyer_ppm), expect=201)
    return court


async def relate(court: Court, one: UUID, other: UUID) -> None:
    """Put two parties into one affiliate group, as an operator's identity check finds them."""
    async with court.kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = ANY($2)",
            new_id(),
            [one, other],
        )


async def appealed(kernel: Kernel, client: httpx.AsyncClient, **fields: Any) -> Court:
    """A ruling that the seller appealed against."""
    court = await ruled(kernel, client, **fields)
    body = {"reasons": "The log was overlooked.", "evidence": text(f"log {new_id().hex}")}
    await court.post(court.seller, "appeals", body, expect=201)
    return court
