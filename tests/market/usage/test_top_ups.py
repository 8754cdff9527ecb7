"""Automatic top-ups: one order per occasion, under the buyer's limits, whatever runs twice."""

from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import httpx
import pytest

from contracts.metering import meter_of
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.usage import top_up_job
from market.usage.top_up_job import run_top_ups
from tests.contracts.factories import bearer
from tests.contracts.test_invoicing import to_next_month
from tests.market.matching.factories import (
    Scene,
    money,
    open_scene,
    placed,
    scalar,
    show_order,
    together,
)
from tests.market.matching.resale_factories import Holder, bought, holder_by_agreement
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import fund, verified


@dataclass(frozen=True)
class Buying:
    """A buyer with 1 lot of 100 rows at 1,000, and a posted price for more."""

    client: httpx.AsyncClient
    scene: Scene
    holder: Holder

    @property
    def path(self) -> str:
        return f"/v1/agreements/{show('agr', self.holder.agreement_id)}/auto-top-up"

    async def rule(self, **changes: Any) -> httpx.Response:
        body = {"at_percent": 20, "lots": 2, "limit_price_minor": 1_100, **changes}
        return await self.client.put(self.path, json=body, headers=self.holder.member.headers())

    async def use(self, rows: int) -> None:
        headers = self.holder.member.headers()
        made = await self.client.post(
            f"/v1/grants/{self.holder.grant}/tokens", json={"label": "t"}, headers=headers
        )
        assert made.status_code == 201, made.text
        answer = await self.client.get(
            "/v1/delivery/rows", params={"limit": rows}, headers=bearer(made.json()["token"])
        )
        assert answer.status_code == 200, answer.text
        await meter_of(self.scene.kernel).flush()

    async def orders(self, *, path: str | None = None) -> list[dict[str, Any]]:
        answer = await self.client.get(
            f"{path or self.path}/orders", headers=self.holder.member.headers()
        )
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def fresh(self) -> "Buying":
        member = self.holder.member.with_fresh_token(self.scene.kernel)
        holder = Holder(member, self.holder.grant_id, self.holder.agreement_id)
        return Buying(self.client, self.scene, holder)


@pytest.fixture
async def buying(client: httpx.AsyncClient, kernel: Kernel) -> Buying:
    scene = await open_scene(kernel)
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    buyer = await make_party(kernel, Role.BUYER)
    return Buying(client, scene, await bought(client, scene, buyer, 1, 1_000))


async def settle(kernel: Kernel) -> None:
    """Until nothing is left to do."""
    for _ in range(5):
        if await run_top_ups(kernel) == 0:
            return
    raise AssertionError("the job always finds something to do")


async def test_a_crossing_orders_once_and_the_rule_moves_on(
    client: httpx.AsyncClient, kernel: Kernel, buying: Buying
) -> None:
    member = buying.holder.member
    await fund(kernel, member.party_id, 10_000)
    assert (await buying.rule()).status_code == 200
    await buying.use(79)
    await settle(kernel)
    assert await buying.orders() == []
    await buying.use(1)
    await together(*(run_top_ups(kernel) for _ in range(3)))
    await settle(kernel)
    (item,) = await buying.orders()
    assert (item["status"], item["lots"], item["code"]) == ("placed", 2, None)
    order = await show_order(client, member, item["order_id"])
    assert (order["status"], order["price_minor"]) == ("filled", 1_100)
    assert order["filled_amount_minor"] == 2_000
    assert await money(kernel, member.party_id) == (8_000, 0)
    # The rule waits at the new agreement now.
    assert (await client.get(buying.path, headers=member.headers())).status_code == 404
    (trade,) = order["trades"]
    path = f"/v1/agreements/{trade['agreement_id']}/auto-top-up"
    moved = (await client.get(path, headers=member.headers())).json()
    assert (moved["revision"], moved["enabled"]) == (2, True)
    new = Buying(
        client, buying.scene, await holder_by_agreement(kernel, member, trade["agreement_id"])
    )
    # One order a month: the second occasion waits for the next.
    await new.use(200)
    await settle(kernel)
    assert await new.orders() == []
    await to_next_month(kernel)
    new = await new.fresh()
    await settle(kernel)
    (second,) = await new.orders()
    assert (second["status"], second["revision"]) == ("placed", 2)
    await verified(kernel)


async def test_a_run_that_dies_before_noting_the_answer_orders_once(
    kernel: Kernel, buying: Buying, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = buying.holder.member
    await fund(kernel, member.party_id, 10_000)
    await buying.rule()
    await buying.use(90)

    async def power_cut(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(top_up_job, "_note", power_cut)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="power cut"):
                await run_top_ups(kernel)
    (item,) = await buying.orders()
    assert (item["status"], item["order_id"]) == ("pending", None)
    await settle(kernel)
    placed_orders = "SELECT count(*) FROM matching.order WHERE party_id = $1"
    assert await scalar(kernel, placed_orders, member.party_id) == 2
    assert await money(kernel, member.party_id) == (8_000, 0)


async def test_a_forgotten_key_does_not_order_again(
    kernel: Kernel, buying: Buying, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = buying.holder.member
    await fund(kernel, member.party_id, 10_000)
    await buying.rule(limit_price_minor=500)
    await buying.use(90)
    plain = top_up_job._command

    async def power_cut(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(top_up_job, "_note", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            await run_top_ups(kernel)

    def other_key(item: Any) -> Any:
        return replace(plain(item), key=f"another-{item.id.hex}")

    monkeypatch.setattr(top_up_job, "_command", other_key)
    await settle(kernel)
    (item,) = await buying.orders()
    assert item["status"] == "placed"
    resting = "SELECT count(*) FROM matching.order WHERE party_id = $1 AND status = 'open'"
    assert await scalar(kernel, resting, member.party_id) == 1
    # A rest at a lower limit holds the money until it fills or is cancelled.
    assert await money(kernel, member.party_id) == (10_000, 1_000)


async def test_a_refused_order_says_why_and_waits_for_the_buyer(
    client: httpx.AsyncClient, kernel: Kernel, buying: Buying
) -> None:
    await buying.rule()
    await buying.use(100)
    await settle(kernel)
    (item,) = await buying.orders()
    assert (item["status"], item["order_id"]) == ("refused", None)
    assert item["code"] == "insufficient_funds"
    await settle(kernel)
    assert len(await buying.orders()) == 1
    await fund(kernel, buying.holder.member.party_id, 2_200)
    assert (await buying.rule()).json()["revision"] == 2
    await settle(kernel)
    assert [item["status"] for item in await buying.orders()] == ["placed", "refused"]


async def test_a_rule_that_is_off_orders_nothing(kernel: Kernel, buying: Buying) -> None:
    await fund(kernel, buying.holder.member.party_id, 10_000)
    await buying.rule()
    await buying.rule(enabled=False)
    await buying.use(100)
    await settle(kernel)
    assert await buying.orders() == []


async def test_only_the_buyer_has_a_rule(
    client: httpx.AsyncClient, kernel: Kernel, buying: Buying
) -> None:
    body = {"lots": 1, "limit_price_minor": 1}
    stranger = await make_party(kernel, Role.BUYER)
    no: list[tuple[Member, int]] = [(buying.scene.seller, 403), (stranger, 404)]
    for member, status in no:
        answer = await client.put(buying.path, json=body, headers=member.headers())
        assert answer.status_code == status
    await buying.rule()
    for member in (buying.scene.seller, stranger):
        for path in (buying.path, f"{buying.path}/orders"):
            assert (await client.get(path, headers=member.headers())).status_code == 404
    operator = await make_party(kernel, Role.OPERATOR)
    assert (await client.get(buying.path, headers=operator.headers())).status_code == 200
    for wrong in ({"at_percent": 100}, {"lots": 0}, {"lots": 10**9, "limit_price_minor": 10**15}):
        assert (await buying.rule(**wrong)).status_code == 422
    ended = "UPDATE contracts.access_grant SET status = 'revoked', ended_at = now() WHERE id = $1"
    await scalar(kernel, ended, UUID(int=buying.holder.grant_id.int))
    answer = await buying.rule()
    assert (answer.status_code, answer.json()["code"]) == (409, "auto_top_up_impossible")
