"""Auctions that cannot be decided as planned, and one with as many bids as there may be."""

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import httpx
import pytest

from contracts import invoicing
from market.auctions.jobs import decide_auctions
from market.auctions.models import BIDS_MAX
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, parse
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Hold, Transfer
from settlement.jobs import expire_holds
from tests.conftest import TestDatabase
from tests.contracts.factories import make_agreement
from tests.market.auctions.factories import Scene, open_scene
from tests.market.demand.factories import got, posted, refused
from tests.market.matching.factories import money, scalar
from tests.settlement.factories import move_clock, now, verified


@pytest.fixture
async def scene(kernel: Kernel, client: httpx.AsyncClient) -> AsyncIterator[Scene]:
    made = await open_scene(kernel, client)
    yield made
    await made.close()


async def test_what_was_sold_while_it_began_is_not_sold_exclusively(
    kernel: Kernel, scene: Scene
) -> None:
    """An order that the engine had admitted before the auction was there."""
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    rival = await scene.buyer()
    await make_agreement(kernel, rival, scene.seller, scene.plan)
    await scene.close()
    result = await scene.show(auction)
    assert result["status"] == "cancelled"
    assert result["reason"] == "the data was sold otherwise when the auction began"
    assert (await scene.mine(who, bid))["status"] == "void"
    assert await money(kernel, who.party_id) == (10_000, 0)


async def test_what_waits_for_thirty_days_is_cancelled_after_its_holds_have_ended(
    kernel: Kernel, scene: Scene
) -> None:
    auction = await scene.auction()
    who, bid = await scene.bid(auction, 900)
    await move_clock(kernel, timedelta(days=30, hours=2))
    while await expire_holds(kernel):
        continue
    assert await money(kernel, who.party_id) == (10_000, 0)
    assert await decide_auctions(kernel) == 1
    assert (await scene.show(auction))["reason"] == "the auction was not decided in time"
    assert (await scene.mine(who, bid))["status"] == "void"
    await verified(kernel)


async def test_affiliates_count_as_one_bidder_at_the_decision(
    kernel: Kernel, scene: Scene, database: TestDatabase
) -> None:
    """They were declared after they had bid: the sister's bid may not raise the price."""
    auction = await scene.auction()
    mother, high = await scene.bid(auction, 900)
    sister, near = await scene.bid(auction, 800)
    twin, own = await scene.bid(auction, 700)
    other, low = await scene.bid(auction, 100)
    owner = await asyncpg.connect(database.owner_url)
    for members in ((mother, sister), (scene.seller, twin)):
        await owner.execute(
            "UPDATE parties.party SET affiliate_group = $1 WHERE id = ANY($2::uuid[])",
            uuid.uuid4(),
            [member.party_id for member in members],
        )
    await owner.close()
    await scene.close()
    won = await scene.mine(mother, high)
    assert (won["status"], won["price_minor"]) == ("won", 100)
    assert (await scene.mine(sister, near))["status"] == "void"
    assert (await scene.mine(twin, own))["status"] == "void"
    assert (await scene.mine(other, low))["status"] == "lost"
    assert (await scene.show(auction))["bid_count"] == 2


async def test_a_won_license_is_invoiced(kernel: Kernel, scene: Scene) -> None:
    auction = await scene.auction("first_price")
    who, bid = await scene.bid(auction, 9_000)
    await scene.close()
    winner = who.with_fresh_token(kernel)
    agreement = (await scene.mine(who, bid))["agreement_id"]
    await posted(scene.client, winner, f"/v1/agreements/{agreement}/accept", None)
    await move_clock(kernel, timedelta(days=32))
    while await invoicing.issue_invoices(kernel):
        continue
    # The clock of the process follows with the next unit of work.
    await now(kernel)
    invoices = await got(scene.client, who.with_fresh_token(kernel), "/v1/invoices")
    assert [invoice["total_minor"] for invoice in invoices["items"]] == [9_000]


async def test_a_thousand_bids_are_decided_at_once_and_no_more_are_taken(
    kernel: Kernel, scene: Scene
) -> None:
    auction = await scene.auction(licenses=600, reserve_minor=1)
    identity = parse("auc", auction["id"])
    async with kernel.unit_of_work() as uow:
        await many_bids(uow, identity)
    late = await scene.buyer()
    path = f"/v1/auctions/{auction['id']}/bids"
    assert await refused(scene.client, late, path, {"amount_minor": 5_000}) == (
        409,
        "too_many_bids",
    )
    await scene.close()
    result = await scene.show(auction)
    assert (result["status"], result["winner_count"], result["bid_count"]) == (
        "awarded",
        600,
        BIDS_MAX,
    )
    # Amounts are 1 to 1,000: the 600 highest pay the 601st, which is 400.
    assert (result["price_low_minor"], result["price_high_minor"]) == (400, 400)
    paid = await scalar(
        kernel,
        "SELECT sum(a.posted) FROM settlement.account a JOIN auctions.award w "
        "ON a.owner = w.agreement_id AND a.kind = 'escrow' WHERE w.auction_id = $1",
        identity,
    )
    assert paid == 600 * 400
    held = (
        "SELECT sum(a.held) FROM settlement.account a JOIN auctions.bid b "
        "ON a.owner = b.bidder_id WHERE b.auction_id = $1"
    )
    assert await scalar(kernel, held, identity) == 0
    await verified(kernel)


async def many_bids(uow: UnitOfWork, auction_id: uuid.UUID) -> None:
    """1,000 verified parties with a bid each, of 1 to 1,000; copied, because sign-ups are slow."""
    raw = await uow.raw()
    bidders = [new_id() for _ in range(BIDS_MAX)]
    holds = [new_id() for _ in range(BIDS_MAX)]
    await raw.execute(
        "INSERT INTO parties.party (id, name, kind, jurisdiction, roles, status, version, "
        "created_at, updated_at, verified_at) SELECT b.id, 'Bidder ' || b.n, 'company', 'CN', "
        "ARRAY['buyer'], 'verified', 1, $2, $2, $2 "
        "FROM unnest($1::uuid[]) WITH ORDINALITY AS b(id, n)",
        bidders,
        uow.now,
    )
    accounts = [AccountRef(AccountKind.AVAILABLE, bidder, "CNY") for bidder in bidders]
    clearing = AccountRef(AccountKind.CLEARING, None, "CNY")
    funds = [
        Transfer(f"test:{new_id().hex}", "top_up", ((clearing, -1_000), (account, 1_000)))
        for account in accounts
    ]
    until = uow.now + timedelta(days=31)
    held = [
        Hold(f"bid-hold:{hold.hex}", hold, account, amount, until)
        for amount, (hold, account) in enumerate(zip(holds, accounts, strict=True), start=1)
    ]
    await ledger.post_strict(uow, [*funds, *held])
    await raw.execute(
        "UPDATE auctions.auction SET bid_count = $2::int, bid_seq = $2::int WHERE id = $1",
        auction_id,
        BIDS_MAX,
    )
    await raw.execute(
        "INSERT INTO auctions.bid (id, auction_id, bidder_id, ref, amount_minor, hold_id, status, "
        "created_at, updated_at) SELECT gen_random_uuid(), $1, b.bidder, b.n, b.n, b.hold, "
        "'living', $4, $4 "
        "FROM unnest($2::uuid[], $3::uuid[]) WITH ORDINALITY AS b(bidder, hold, n)",
        auction_id,
        bidders,
        holds,
        uow.now,
    )
