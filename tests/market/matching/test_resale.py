"""Resale orders: what they reserve, what a fill moves, who is refused, what a restart keeps."""

from datetime import timedelta

import httpx
import pytest

from contracts import grants as grant_service
from contracts.errors import QuotaExhausted
from contracts.metering import Hold, meter_of
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from market.matching.engine import MatchingEngine
from tests.market.matching.factories import (
    Scene,
    cancel,
    footprint,
    money,
    one_row,
    place,
    placed,
    scalar,
    show_order,
    together,
)
from tests.market.matching.resale_factories import (
    Holder,
    bought,
    counts,
    holder_by_agreement,
    holder_of,
    offer,
    open_resale_scene,
)
from tests.market.parties.factories import make_party
from tests.settlement.factories import fund, now, verified


@pytest.fixture
async def scene(kernel: Kernel) -> Scene:
    return await open_resale_scene(kernel)


async def offered_resold(kernel: Kernel, holder: Holder) -> tuple[int, int]:
    found = await counts(kernel, holder)
    return found["offered"], found["resold"]


async def test_an_offer_reserves_units_and_a_cancel_frees_them(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 10)
    order = await placed(client, holder.member, offer(scene, holder, 6, 1_100))
    assert (order["status"], order["grant_id"]) == ("open", holder.grant)
    assert await offered_resold(kernel, holder) == (600, 0)
    short = await place(client, holder.member, offer(scene, holder, 5, 1_100))
    assert (short.status_code, short.json()["code"]) == (409, "resale_units_short")
    assert short.json()["free_units"] == 400
    answer = await cancel(client, holder.member, order["id"])
    assert (answer.json()["status"], answer.json()["grant_id"]) == ("cancelled", holder.grant)
    assert await offered_resold(kernel, holder) == (0, 0)
    await placed(client, holder.member, offer(scene, holder, 10, 1_100))


async def test_a_fill_moves_units_to_a_new_agreement_with_the_reseller(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 10)
    resting = await placed(client, holder.member, offer(scene, holder, 6, 1_100))
    buyer = await scene.buyer(10_000)
    second = await bought(client, scene, buyer, 4, 1_500)
    assert await offered_resold(kernel, holder) == (200, 400)
    assert (await counts(kernel, second))["granted"] == 400
    agreement = await one_row(
        kernel,
        "SELECT a.*, g.resold_from, g.expires_at AS grant_end FROM contracts.agreement a "
        "JOIN contracts.access_grant g ON g.agreement_id = a.id WHERE a.id = $1",
        second.agreement_id,
    )
    assert agreement["seller_id"] == holder.member.party_id
    assert agreement["total_minor"] == 4_400
    assert agreement["resold_from"] == holder.agreement_id
    end = "SELECT expires_at FROM contracts.agreement WHERE id = $1"
    assert agreement["grant_end"] == await scalar(kernel, end, holder.agreement_id)
    move = await one_row(
        kernel, "SELECT * FROM contracts.resale WHERE to_grant_id = $1", second.grant_id
    )
    assert (move["units"], move["from_grant_id"]) == (400, holder.grant_id)
    view = await show_order(client, holder.member, resting["id"])
    assert (view["status"], view["filled_lots"]) == ("partially_filled", 4)
    event = await one_row(
        kernel,
        "SELECT parties, data FROM kernel.outbox WHERE type = 'grant.resold' AND object_id = $1",
        holder.grant_id,
    )
    assert set(event["parties"]) == {holder.member.party_id, scene.seller.party_id}
    await verified(kernel)


async def test_an_incoming_offer_takes_bids_and_frees_what_is_left(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 5)
    buyer = await scene.buyer(10_000)
    await placed(client, buyer, scene.body("buy", 2, 900))
    order = await placed(client, holder.member, offer(scene, holder, 5, 900, time_in_force="ioc"))
    assert (order["status"], order["filled_lots"]) == ("cancelled", 2)
    assert await offered_resold(kernel, holder) == (0, 200)
    killed = await placed(client, holder.member, offer(scene, holder, 3, 900, time_in_force="fok"))
    assert killed["reason"] == "fok_unfillable"
    assert await offered_resold(kernel, holder) == (0, 200)


async def test_sellers_and_resellers_share_one_book_by_price(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 3)
    await placed(client, scene.seller, scene.body("sell", None, 1_000))
    await placed(client, holder.member, offer(scene, holder, 2, 800))
    buyer = await scene.buyer(10_000)
    order = await placed(client, buyer, scene.body("buy", 5, 1_000))
    assert [(t["lots"], t["price_minor"]) for t in order["trades"]] == [(2, 800), (3, 1_000)]
    from_reseller, from_seller = [
        await holder_by_agreement(kernel, buyer, trade["agreement_id"]) for trade in order["trades"]
    ]
    query = "SELECT resold_from FROM contracts.access_grant WHERE id = $1"
    assert await scalar(kernel, query, from_reseller.grant_id) == holder.agreement_id
    assert await scalar(kernel, query, from_seller.grant_id) is None


async def test_refusals_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 3)
    plain = await open_resale_scene(kernel, resale=None)
    kept = await holder_of(client, plain, 2)
    stranger = await make_party(kernel, Role.BUYER)
    before = await footprint(kernel)
    cases = [
        (stranger, offer(scene, holder, 1, 900), 404, "grant_not_found"),
        (
            holder.member,
            {**offer(scene, holder, 1, 900), "grant_id": show("grt", new_id())},
            404,
            "grant_not_found",
        ),
        (holder.member, offer(plain, holder, 1, 900), 422, "resale_plan_mismatch"),
        (kept.member, offer(plain, kept, 1, 900), 403, "resale_not_allowed"),
        (holder.member, offer(scene, holder, 4, 900), 409, "resale_units_short"),
        (scene.seller, offer(scene, holder, 1, 900), 403, "role_required"),
        (holder.member, {**offer(scene, holder, 1, 900), "lots": None}, 422, "validation_failed"),
        (holder.member, {**offer(scene, holder, 1, 900), "side": "buy"}, 422, "validation_failed"),
    ]
    for member, body, status, code in cases:
        answer = await place(client, member, body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert await footprint(kernel) == before


async def test_an_offer_ends_before_the_units_are_too_old_to_sell(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    scene = await open_resale_scene(kernel, resale={"min_remaining_days": 360})
    holder = await holder_of(client, scene, 3)
    end = await scalar(
        kernel, "SELECT expires_at FROM contracts.access_grant WHERE id = $1", holder.grant_id
    ) - timedelta(days=360)
    order = await placed(client, holder.member, offer(scene, holder, 1, 900))
    assert order["expires_at"] == end.isoformat().replace("+00:00", "Z")
    later = (end + timedelta(hours=1)).isoformat()
    answer = await place(client, holder.member, offer(scene, holder, 1, 900, expires_at=later))
    assert (answer.status_code, answer.json()["code"]) == (422, "expiry_out_of_range")
    soon = (await now(kernel) + timedelta(hours=1)).isoformat()
    await placed(client, holder.member, offer(scene, holder, 1, 900, expires_at=soon))


async def test_an_offer_of_a_suspended_grant_does_not_trade(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 3)
    order = await placed(client, holder.member, offer(scene, holder, 3, 800))
    async with kernel.unit_of_work() as uow:
        await grant_service.suspend(uow, kernel, holder.agreement_id)
    buyer = await scene.buyer(5_000)
    missed = await placed(client, buyer, scene.body("buy", 1, 900, time_in_force="ioc"))
    assert missed["filled_lots"] == 0
    view = await show_order(client, holder.member, order["id"])
    assert (view["status"], view["reason"]) == ("cancelled", "grant_ended")
    assert await offered_resold(kernel, holder) == (0, 0)
    again = await place(client, holder.member, offer(scene, holder, 1, 800))
    assert (again.status_code, again.json()["code"]) == (409, "resale_grant_inactive")
    assert await money(kernel, buyer.party_id) == (5_000, 0)


async def test_a_reseller_does_not_buy_from_itself(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 3)
    await placed(client, holder.member, offer(scene, holder, 3, 800))
    await fund(kernel, holder.member.party_id, 5_000)
    order = await placed(client, holder.member, scene.body("buy", 1, 900))
    assert (order["status"], order["reason"]) == ("cancelled", "self_trade")
    assert await offered_resold(kernel, holder) == (300, 0)


async def test_offers_race_with_metered_use_and_no_unit_is_had_twice(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 10)
    await placed(client, holder.member, offer(scene, holder, 5, 900))
    buyers = [await scene.buyer(10_000) for _ in range(3)]
    meter, token = meter_of(kernel), new_id()

    async def use() -> int:
        try:
            held = await meter.reserve(holder.grant_id, token, key=new_id().hex, units=40)
        except QuotaExhausted:
            return 0
        assert isinstance(held, Hold)
        return held.units

    async def sell() -> int:
        answer = await place(client, holder.member, offer(scene, holder, 1, 900))
        assert answer.status_code in (201, 409), answer.text
        return 100 if answer.status_code == 201 else 0

    async def buy(index: int) -> int:
        body = scene.body("buy", 1, 900, time_in_force="ioc")
        await placed(client, buyers[index % 3], body)
        return 0

    work = [attempt() for _ in range(10) for attempt in (use, sell)]
    work += [buy(index) for index in range(12)]
    taken = await together(*work)
    used, sold = sum(taken[0:20:2]), sum(taken[1:20:2])
    found = await counts(kernel, holder)
    assert found["offered"] + found["resold"] == 500 + sold
    assert used <= found["reserved"]
    assert found["reserved"] + found["offered"] + found["resold"] <= 1_000
    granted = await scalar(
        kernel,
        "SELECT coalesce(sum(granted_units), 0)::bigint FROM contracts.access_grant "
        "WHERE resold_from = $1",
        holder.agreement_id,
    )
    assert granted == found["resold"]
    await verified(kernel)


async def test_a_book_that_is_read_again_still_knows_which_units_stand_for_sale(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene, app: object
) -> None:
    holder = await holder_of(client, scene, 4)
    order = await placed(client, holder.member, offer(scene, holder, 4, 900))
    engine = app.state.matching_engine  # type: ignore[attr-defined]
    assert isinstance(engine, MatchingEngine)
    engine.shard.drop([scene.plan_id])
    buyer = await scene.buyer(5_000)
    await bought(client, scene, buyer, 3, 900)
    assert await offered_resold(kernel, holder) == (100, 300)
    await cancel(client, holder.member, order["id"])
    assert await offered_resold(kernel, holder) == (0, 300)


async def test_an_amended_offer_reserves_what_it_then_needs(
    client: httpx.AsyncClient, kernel: Kernel, scene: Scene
) -> None:
    holder = await holder_of(client, scene, 5)
    order = await placed(client, holder.member, offer(scene, holder, 3, 900))

    async def amend(**terms: object) -> httpx.Response:
        headers = holder.member.headers()
        return await client.patch(f"/v1/orders/{order['id']}", json=terms, headers=headers)

    for lots, offered in ((5, 500), (2, 200)):
        answer = await amend(lots=lots)
        assert (answer.status_code, answer.json()["lots"]) == (200, lots), answer.text
        assert await offered_resold(kernel, holder) == (offered, 0)
    short = await amend(lots=6, price_minor=950)
    assert (short.status_code, short.json()["code"]) == (409, "resale_units_short")
    assert await offered_resold(kernel, holder) == (200, 0)
    buyer = await scene.buyer(5_000)
    await placed(client, buyer, scene.body("buy", 1, 800))
    answer = await amend(price_minor=800)
    assert answer.json()["filled_lots"] == 1
    assert await offered_resold(kernel, holder) == (100, 100)
