"""Any sequence of buying, using, offering, selling on and cancelling: no unit made, none lost."""

import random
from dataclasses import dataclass, field

import httpx
import pytest

from contracts import jobs
from contracts.metering import close_meter
from market.kernel.context import Kernel
from tests.contracts.factories import bearer
from tests.market.matching.factories import Scene, cancel, escrow_total, placed, scalar, show_order
from tests.market.matching.resale_factories import (
    LOT_UNITS,
    Holder,
    counts,
    holder_by_agreement,
    offer,
    open_resale_scene,
)
from tests.market.parties.factories import Member
from tests.settlement.factories import verified

STEPS = 60
FIRST_LOTS = 40

_LINEAGE = """
SELECT coalesce(sum(g.granted_units - g.resold_units), 0)::bigint,
       coalesce(sum(g.resold_units), 0)::bigint,
       coalesce(sum(g.granted_units) FILTER (WHERE g.resold_from IS NOT NULL), 0)::bigint,
       bool_and(g.reserved_units + g.settled_units + g.offered_units + g.resold_units
                <= g.granted_units),
       (SELECT coalesce(sum(units), 0)::bigint FROM contracts.resale r
        JOIN contracts.agreement b ON b.id = r.to_agreement_id WHERE b.plan_id = $1),
       coalesce(sum(g.offered_units), 0)::bigint
FROM contracts.access_grant g JOIN contracts.agreement a ON a.id = g.agreement_id
WHERE a.plan_id = $1
"""
_OFFERED = """
SELECT coalesce(sum(lots - filled_lots), 0)::bigint FROM matching."order"
WHERE plan_id = $1 AND closed_at IS NULL AND grant_id IS NOT NULL
"""


@dataclass
class Walk:
    """A random walk over one plan: members, what they hold, what they offer."""

    client: httpx.AsyncClient
    kernel: Kernel
    scene: Scene
    random: random.Random
    members: list[Member]
    holders: list[Holder] = field(default_factory=list)
    offers: list[tuple[Holder, str]] = field(default_factory=list)
    used: int = 0

    async def step(self) -> None:
        act = self.random.choice([self.offer, self.offer, self.buy, self.buy, self.use, self.stop])
        await act()

    async def offer(self) -> None:
        holder = self.random.choice(self.holders)
        lots = self.random.randint(1, 6)
        price = self.random.randint(5, 12) * 100
        body = offer(self.scene, holder, lots, price)
        headers = holder.member.headers()
        answer = await self.client.post("/v1/orders", json=body, headers=headers)
        if answer.status_code == 409:
            found = await counts(self.kernel, holder)
            assert answer.json()["code"] in {"resale_units_short", "resale_grant_inactive"}
            free = found["granted"] - sum(found[name] for name in found if name != "granted")
            assert free < lots * LOT_UNITS
            return
        assert answer.status_code == 201, answer.text
        self.offers.append((holder, answer.json()["id"]))

    async def buy(self) -> None:
        buyer = self.random.choice(self.members)
        lots = self.random.randint(1, 8)
        body = self.scene.body("buy", lots, 1_200, time_in_force="ioc")
        order = await placed(self.client, buyer, body)
        for trade in order["trades"]:
            made = await holder_by_agreement(self.kernel, buyer, trade["agreement_id"])
            assert (await counts(self.kernel, made))["granted"] == trade["lots"] * LOT_UNITS
            self.holders.append(made)

    async def use(self) -> None:
        holder = self.random.choice(self.holders)
        minted = await self.client.post(
            f"/v1/grants/{holder.grant}/tokens",
            json={"ttl_s": 600, "label": "walk"},
            headers=holder.member.headers(),
        )
        if minted.status_code != 201:
            return
        rows = self.random.randint(1, 150)
        answer = await self.client.get(
            "/v1/delivery/rows", params={"limit": rows}, headers=bearer(minted.json()["token"])
        )
        if answer.status_code == 200:
            self.used += rows

    async def stop(self) -> None:
        if not self.offers:
            return
        holder, order_id = self.offers.pop(self.random.randrange(len(self.offers)))
        answer = await cancel(self.client, holder.member, order_id)
        assert answer.status_code in (200, 409), answer.text


async def lineage(kernel: Kernel, scene: Scene) -> tuple[int, ...]:
    async with kernel.unit_of_work() as uow:
        (row,) = await (await uow.raw()).fetch(_LINEAGE, scene.plan_id)
    return tuple(row)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_units_and_money_are_conserved(
    client: httpx.AsyncClient, kernel: Kernel, seed: int
) -> None:
    scene = await open_resale_scene(kernel)
    members = [await scene.buyer(1_000_000) for _ in range(4)]
    walk = Walk(client, kernel, scene, random.Random(seed), members)
    await placed(client, scene.seller, scene.body("sell", FIRST_LOTS, 1_000))
    await walk.buy()
    for _ in range(STEPS):
        await walk.step()
        sold = await lineage(kernel, scene)
        own, resold, received, within, moved, offered = sold
        bought = await scalar(
            kernel,
            "SELECT coalesce(sum(g.granted_units), 0)::bigint FROM contracts.access_grant g "
            "JOIN contracts.agreement a ON a.id = g.agreement_id "
            "WHERE a.plan_id = $1 AND a.seller_id = $2",
            scene.plan_id,
            scene.seller.party_id,
        )
        assert own == bought
        assert resold == received == moved
        assert within
        assert offered == await scalar(kernel, _OFFERED, scene.plan_id) * LOT_UNITS
    assert resold > 0
    await close_meter(kernel)
    settled = (
        "SELECT sum(g.settled_units)::bigint FROM contracts.access_grant g "
        "JOIN contracts.agreement a ON a.id = g.agreement_id WHERE a.plan_id = $1"
    )
    assert await scalar(kernel, settled, scene.plan_id) == walk.used
    for holder, order_id in walk.offers:
        if (await show_order(client, holder.member, order_id))["remaining_lots"]:
            await cancel(client, holder.member, order_id)
    assert (await lineage(kernel, scene))[5] == 0
    for _ in range(5):
        await jobs.accrue(kernel)
    left = await scalar(
        kernel,
        "SELECT coalesce(sum(total_minor - released_minor - refunded_minor - disputed_minor), 0)"
        "::bigint FROM contracts.agreement",
    )
    assert await escrow_total(kernel) == left
    await verified(kernel)
