"""Random stories of auctions over HTTP against a naive model: money, holds, results."""

import random
from dataclasses import dataclass, field

import httpx
import pytest

from market.auctions.digital_goods import commitment
from market.kernel.context import Kernel
from market.kernel.ids import parse
from tests.market.auctions.factories import Scene, open_scene
from tests.market.auctions.test_proofs import naive_prices
from tests.market.demand.factories import got
from tests.market.matching.factories import money, scalar
from tests.market.parties.factories import Member
from tests.settlement.factories import verified

BUYERS = 6
STEPS = 50
MONEY = 1_000


@dataclass
class Model:
    """Living bids by buyer: id, amount, place in time. ``log`` counts what was accepted."""

    reserve: int
    living: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    clock: int = 0

    def allows(self, action: str, buyer: int, amount: int) -> bool:
        mine = self.living.get(buyer)
        if action == "place":
            return mine is None and self.reserve <= amount <= MONEY
        if action == "raise":
            return mine is not None and mine[1] < amount <= MONEY
        return mine is not None

    def apply(self, action: str, buyer: int, amount: int, bid_id: str) -> None:
        if action == "withdraw":
            del self.living[buyer]
            return
        self.clock += 1
        self.living[buyer] = (bid_id, amount, self.clock)

    def prices(self, rule: str, licenses: int, seed: bytes | None) -> dict[str, int]:
        """What each winner pays, by bid id."""
        bids = sorted(self.living.values(), key=lambda bid: (-bid[1], bid[2]))
        if seed is not None:
            numbers = {name: parse("bid", name).int for name, _, _ in bids}
            paid = naive_prices([(numbers[bid[0]], bid[1]) for bid in bids], seed, self.reserve)
            return {name: paid[number] for name, number in numbers.items() if number in paid}
        losing = bids[licenses][1] if len(bids) > licenses else self.reserve
        return {
            name: amount if rule == "first_price" else losing for name, amount, _ in bids[:licenses]
        }


async def act(
    client: httpx.AsyncClient, auction: str, who: Member, action: str, amount: int, bid_id: str
) -> httpx.Response:
    body = {"amount_minor": amount}
    path = f"/v1/auctions/{auction}/bids" if action == "place" else f"/v1/bids/{bid_id}/{action}"
    return await client.post(
        path, json=None if action == "withdraw" else body, headers=who.headers()
    )


@pytest.mark.parametrize("rule", ["first_price", "second_price", "random_sampling"])
async def test_a_random_story_equals_the_model_and_conserves_money(
    kernel: Kernel, client: httpx.AsyncClient, rule: str
) -> None:
    dice = random.Random(rule)
    scene = await open_scene(kernel, client)
    licenses = 2
    more = {} if rule == "random_sampling" else {"licenses": licenses}
    auction = await scene.auction(rule, reserve_minor=50, **more)
    buyers = [await scene.buyer(MONEY) for _ in range(BUYERS)]
    model = Model(reserve=50)
    for _ in range(STEPS):
        buyer = dice.randrange(BUYERS)
        # Most steps bid; amounts repeat, so that ties happen.
        action = dice.choice(["place"] * 4 + ["raise"] * 3 + ["withdraw"])
        amount = dice.choice([40, 50, 100, 200, 300, 300, 999, 1_001])
        mine = model.living.get(buyer, (f"bid_{'0' * 32}", 0, 0))
        allowed = model.allows(action, buyer, amount)
        answer = await act(client, auction["id"], buyers[buyer], action, amount, mine[0])
        assert answer.is_success is allowed, (action, amount, answer.text)
        if allowed:
            model.apply(action, buyer, amount, answer.json()["id"])
        held = model.living[buyer][1] if buyer in model.living else 0
        assert await money(kernel, buyers[buyer].party_id) == (MONEY, held)
    assert len(model.living) >= 3
    await scene.close()
    await _compare(kernel, scene, auction, model, buyers, licenses)
    await verified(kernel)


async def _compare(
    kernel: Kernel,
    scene: Scene,
    auction: dict[str, str],
    model: Model,
    buyers: list[Member],
    licenses: int,
) -> None:
    seed = await scalar(
        kernel, "SELECT seed FROM auctions.auction WHERE id = $1", parse("auc", auction["id"])
    )
    if seed is not None:
        assert commitment(seed) == auction["commitment"]
    expected = model.prices(auction["rule"], licenses, seed)
    spent = 0
    for buyer, who in enumerate(buyers):
        living = model.living.get(buyer)
        paid = 0
        if living is not None:
            found = await scene.mine(who, {"id": living[0]})
            assert found["price_minor"] == expected.get(living[0])
            paid = expected.get(living[0], 0)
        assert await money(kernel, who.party_id) == (MONEY - paid, 0)
        spent += paid
    assert spent == sum(expected.values())
    escrow = await scalar(
        kernel,
        "SELECT coalesce(sum(a.posted), 0) FROM settlement.account a JOIN auctions.award w "
        "ON a.owner = w.agreement_id AND a.kind = 'escrow' WHERE w.auction_id = $1",
        parse("auc", auction["id"]),
    )
    assert escrow == spent
    result = await got(
        scene.client,
        scene.seller.with_fresh_token(kernel),
        f"/v1/auctions/{auction['id']}",
    )
    assert result["winner_count"] == len(expected)
    assert result["bid_count"] == len(model.living)
