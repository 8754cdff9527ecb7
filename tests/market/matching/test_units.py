"""Plans by MiB and compute second from the offer to the grant, over HTTP."""

from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from tests.market.matching.factories import Scene, place, placed
from tests.settlement.factories import verified


async def offered(client: httpx.AsyncClient, scene: Scene, **terms: Any) -> dict[str, Any]:
    """A further plan of the listing, on sale without end at its price."""
    body = {"kind": "metered", "currency": "CNY", "price_minor": 100, "term_days": 30, **terms}
    path = f"/v1/listings/{show('lst', scene.listing_id)}/plans"
    answer = await client.post(path, json=body, headers=scene.seller.headers())
    assert answer.status_code == 201, answer.text
    plan: dict[str, Any] = answer.json()
    ask = scene.body("sell", None, body["price_minor"], plan_id=plan["id"])
    await placed(client, scene.seller, ask)
    return plan


@pytest.mark.parametrize(
    ("unit", "counted", "lot", "ways_out"),
    [
        ("mib", "byte", 5 << 20, ["rows", "sharing", "bulk", "proxy"]),
        ("query", "query", 5, ["rows", "sharing"]),
        ("compute_second", "millisecond", 5_000, ["rows", "proxy"]),
    ],
)
async def test_lots_become_what_the_meter_counts(
    client: httpx.AsyncClient,
    kernel: Kernel,
    scene: Scene,
    unit: str,
    counted: str,
    lot: int,
    ways_out: list[str],
) -> None:
    plan = await offered(client, scene, unit=unit, lot_units=5)
    shown = (plan["unit"], plan["lot_units"], plan["counted_unit"], plan["counted_lot_units"])
    assert (shown, plan["ways_out"]) == ((unit, 5, counted, lot), ways_out)
    buyer = await scene.buyer(300)
    order = await placed(client, buyer, scene.body("buy", 3, 100, plan_id=plan["id"]))
    agreement = order["trades"][0]["agreement_id"]
    answer = await client.get(f"/v1/agreements/{agreement}", headers=buyer.headers())
    seen = answer.json()
    assert (seen["unit"], seen["lot_units"], seen["granted_units"]) == (counted, lot, 3 * lot)
    answer = await client.get(f"/v1/grants/{seen['grant_id']}", headers=buyer.headers())
    grant = answer.json()
    assert (grant["unit"], grant["remaining_units"]) == (counted, 3 * lot)
    await verified(kernel)


async def test_an_order_has_no_more_than_a_grant_can_count(
    client: httpx.AsyncClient, scene: Scene
) -> None:
    plan = await offered(client, scene, unit="mib", lot_units=10**9, price_minor=1)
    fits = (1 << 62) // plan["counted_lot_units"]
    buyer = await scene.buyer(fits + 1)
    over = await place(client, buyer, scene.body("buy", fits + 1, 1, plan_id=plan["id"]))
    assert (over.status_code, over.json()["code"]) == (422, "order_too_large")
    order = await placed(client, buyer, scene.body("buy", fits, 1, plan_id=plan["id"]))
    assert (order["status"], order["filled_lots"]) == ("filled", fits)
