"""Random-sampling auctions: the seed is committed to first, and anybody can repeat the result."""

import hmac
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given, strategies as st

from market.auctions.digital_goods import commitment
from market.auctions.models import Rule
from market.auctions.outcome import Sealed, exclusive_prices, sampled
from market.auctions.proof_check import ProofInvalid, check_proof
from market.auctions.schemas import AuctionProof, ProofBid
from market.kernel.context import Kernel
from market.kernel.ids import parse, show
from tests.market.auctions.factories import open_scene
from tests.market.demand.factories import got
from tests.settlement.factories import verified

SEED = bytes(range(32))
amounts = st.lists(st.integers(1, 30), max_size=12)


def sealed(prices: list[int]) -> list[Sealed]:
    return [Sealed(UUID(int=7 * at), at, price) for at, price in enumerate(prices, start=1)]


def naive_prices(bids: list[tuple[int, int]], seed: bytes, reserve: int) -> dict[int, int]:
    """Pairs of (identity, amount) → what each winner pays; straight from the definition."""
    halves: dict[int, list[int]] = {0: [], 1: []}
    where = {}
    for identity, amount in bids:
        digest = hmac.new(seed, str(identity).encode(), "sha256").digest()
        where[identity] = digest[0] % 2
        halves[where[identity]].append(amount)
    offered = {}
    for part, others in ((0, halves[1]), (1, halves[0])):
        tried = [(p * sum(a >= p for a in others), p) for p in others if p >= reserve]
        offered[part] = max(tried)[1] if tried else reserve
    return {
        identity: offered[where[identity]]
        for identity, amount in bids
        if amount >= offered[where[identity]]
    }


@given(amounts, st.integers(1, 15), st.binary(min_size=16, max_size=32))
def test_sampling_equals_its_definition(prices: list[int], reserve: int, seed: bytes) -> None:
    bids = sealed(prices)
    _, paid = sampled(bids, seed, commitment(seed), reserve=reserve)
    pairs = [(bid.bid_id.int, bid.amount) for bid in bids]
    expected = naive_prices(pairs, seed, reserve)
    assert {name.int: price for name, price in paid.items()} == expected


@given(amounts, st.integers(1, 15), st.integers(1, 4), st.sampled_from(Rule))
def test_exclusive_prices_equal_a_sort(
    prices: list[int], reserve: int, licenses: int, rule: Rule
) -> None:
    if not rule.exclusive:
        return
    bids = sealed(prices)
    ranked = sorted((b for b in bids if b.amount >= reserve), key=lambda b: (-b.amount, b.ref))
    next_best = ranked[licenses].amount if len(ranked) > licenses else reserve
    expected = {
        bid.bid_id: bid.amount if rule is Rule.FIRST_PRICE else next_best
        for bid in ranked[:licenses]
    }
    assert exclusive_prices(bids, rule, reserve=reserve, licenses=licenses) == expected


@given(amounts, st.integers(1, 15), st.integers(1, 4), st.integers(1, 30), st.integers(1, 30))
def test_no_lie_earns_more_than_the_truth(
    prices: list[int], reserve: int, licenses: int, worth: int, lie: int
) -> None:
    me = UUID(int=1)

    def gain(amount: int, rule: Rule) -> int:
        bids = [*sealed(prices), Sealed(me, 99, amount)]
        if rule.exclusive:
            paid = exclusive_prices(bids, rule, reserve=reserve, licenses=licenses)
        else:
            paid = sampled(bids, SEED, commitment(SEED), reserve=reserve)[1]
        return worth - paid[me] if me in paid else 0

    for rule in (Rule.SECOND_PRICE, Rule.RANDOM_SAMPLING):
        assert gain(worth, rule) >= gain(lie, rule)


def proof_of(prices: list[int]) -> dict[str, Any]:
    bids = sealed(prices)
    offer, paid = sampled(bids, SEED, commitment(SEED), reserve=5)
    proof = AuctionProof(
        auction_id=UUID(int=1),
        currency="CNY",
        reserve_minor=5,
        commitment=commitment(SEED),
        seed=SEED.hex(),
        prices=list(offer.prices),
        bids=[
            ProofBid(
                bid_id=b.bid_id, ref=b.ref, amount_minor=b.amount, price_minor=paid.get(b.bid_id)
            )
            for b in bids
        ],
    )
    made: dict[str, Any] = json.loads(proof.model_dump_json())
    return made


def test_a_proof_that_was_touched_anywhere_is_refused() -> None:
    proof = proof_of([10, 20, 30, 40, 50, 60])
    proven = check_proof(json.dumps(proof).encode(), commitment=proof["commitment"])
    paid = [bid["price_minor"] for bid in proof["bids"] if bid["price_minor"] is not None]
    assert (proven.bids, proven.winners, proven.revenue_minor) == (6, len(paid), sum(paid))
    winner = next(at for at, bid in enumerate(proof["bids"]) if bid["price_minor"] is not None)
    loser = {**proof["bids"][winner], "price_minor": None}
    dearer = {**proof["bids"][winner], "amount_minor": 1_000}
    without = proof["bids"][:winner] + proof["bids"][winner + 1 :]
    changes: list[dict[str, Any]] = [
        {"seed": "00" * 32},
        {"prices": [None, None]},
        {"reserve_minor": 61},
        {"bids": [*without, loser]},
        {"bids": [*proof["bids"], proof["bids"][0]]},
        {"bids": [*without, {**dearer, "price_minor": 1_000}]},
        {"extra": 1},
    ]
    for change in changes:
        with pytest.raises(ProofInvalid):
            check_proof(json.dumps({**proof, **change}).encode())
    with pytest.raises(ProofInvalid, match="published"):
        check_proof(json.dumps(proof).encode(), commitment="0" * 64)
    with pytest.raises(ProofInvalid, match="at most"):
        check_proof(b" " * (2**20 + 1))


async def test_the_proof_of_a_played_auction_verifies_offline(
    kernel: Kernel, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    scene = await open_scene(kernel, client)
    auction = await scene.auction("random_sampling", reserve_minor=150)
    published = auction["commitment"]
    assert len(published) == 64
    bids = [await scene.bid(auction, amount) for amount in (200, 300, 300, 450, 700, 149 + 1)]
    reader = bids[0][0]
    path = f"/v1/auctions/{auction['id']}/proof"
    early = await client.get(path, headers=reader.headers())
    assert (early.status_code, early.json()["code"]) == (409, "proof_not_ready")
    await scene.close()
    reader = reader.with_fresh_token(kernel)
    proof = await got(client, reader, path)
    assert sha256(bytes.fromhex(proof["seed"])).hexdigest() == published
    assert not any(who.id in json.dumps(proof) for who, _ in bids)
    pairs = [(parse("bid", bid["id"]).int, bid["amount_minor"]) for _, bid in bids]
    expected = naive_prices(pairs, bytes.fromhex(proof["seed"]), 150)
    shown = {bid["bid_id"]: bid["price_minor"] for bid in proof["bids"]}
    for who, bid in bids:
        paid = expected.get(parse("bid", bid["id"]).int)
        assert shown[bid["id"]] == paid
        mine = await scene.mine(who, bid)
        assert (mine["status"], mine["price_minor"]) == ("won" if paid else "lost", paid)
    result = await scene.show(auction)
    assert result["winner_count"] == len(expected)
    file = tmp_path / "proof.json"
    file.write_text(json.dumps(proof))
    assert verify(file, published).stdout.count(show("auc", parse("auc", auction["id"]))) == 1
    file.write_text(json.dumps({**proof, "reserve_minor": 1}))
    assert verify(file, "0" * 64).returncode == 1
    await verified(kernel)


def verify(file: Path, published: str) -> "subprocess.CompletedProcess[str]":
    """``market auction verify`` as a process of its own."""
    command = [sys.executable, "-m", "market.cli", "auction", "verify", str(file)]
    return subprocess.run(
        [*command, "--commitment", published],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_exclusive_auctions_have_no_proof(kernel: Kernel, client: httpx.AsyncClient) -> None:
    scene = await open_scene(kernel, client)
    auction = await scene.auction()
    assert auction["commitment"] is None
    await scene.close()
    seller = scene.seller.with_fresh_token(kernel)
    response = await client.get(f"/v1/auctions/{auction['id']}/proof", headers=seller.headers())
    assert (response.status_code, response.json()["code"]) == (409, "proof_not_ready")
