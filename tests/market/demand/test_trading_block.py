"""The kill switch reaches requests for data: no quote, no counter-offer, no award."""

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.market.demand.factories import footprint, open_scene, posted, refused
from tests.market.matching.control_factories import done, party
from tests.market.parties.factories import make_party
from tests.settlement.factories import now


@pytest.mark.parametrize("side", ["buyer", "seller"])
async def test_a_blocked_side_makes_and_closes_no_deal(
    client: httpx.AsyncClient, kernel: Kernel, side: str
) -> None:
    scene = await open_scene(kernel, client, money_minor=10_000)
    operator = await make_party(kernel, Role.OPERATOR)
    quote = await scene.quote(900)
    path = f"/v1/quotes/{quote['id']}"
    blocked = scene.buyer if side == "buyer" else scene.seller
    await done(client, operator, f"{party(blocked)}/block-trading")
    before = await footprint(kernel)
    blocked_403 = (403, "trading_blocked")
    assert await refused(client, scene.buyer, f"{path}/accept", {"round": 1}) == blocked_403
    if side == "buyer":
        terms = {
            "price_minor": 800,
            "lots": 1,
            "valid_until": quote["valid_until"],
        }
        assert await refused(client, scene.buyer, f"{path}/counter", terms) == blocked_403
    else:
        body = {
            "plan_id": show("pln", scene.plan.id),
            "price_minor": 900,
            "lots": 1,
            "valid_until": (await now(kernel)).replace(year=2030).isoformat(),
        }
        answer = await refused(
            client, scene.seller, f"/v1/requests/{scene.request_id}/quotes", body
        )
        assert answer == blocked_403
    assert await footprint(kernel) == before
    await done(client, operator, f"{party(blocked)}/unblock-trading")
    accepted = await posted(client, scene.buyer, f"{path}/accept", {"round": 1})
    assert accepted["status"] == "accepted"
