"""Rebuilding books from the journal: equal after any sequence, and a change anywhere is found."""

import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from market.kernel.context import Kernel, open_kernel
from market.kernel.security import Role
from market.kernel.settings import Settings
from market.matching.book_proof import BookReport, BookUnknown, heads, prove_book
from market.matching.commands import Cancel, Place
from market.matching.engine import MatchingEngine
from tests.conftest import TestDatabase
from tests.market.matching.factories import (
    Scene,
    cancel_command,
    open_scene,
    order_of,
    scalar,
    together,
)
from tests.market.matching.test_call_restarts import SPAN, collect, reached
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import move_clock

MODES = ("cancel_newest", "cancel_oldest", "cancel_both", "decrement")


@pytest.fixture(scope="module")
async def kernel(settings: Settings) -> AsyncIterator[Kernel]:
    """A kernel without the app, so that each test runs the engines it wants."""
    made = open_kernel(settings)
    yield made
    await made.close()


async def play(kernel: Kernel, scene: Scene, buyers: list[Member], seed: int, rounds: int) -> None:
    """Random orders and cancels in batches, by an engine that begins with what rests."""
    draw = random.Random(seed)
    rest: list[tuple[Member, dict[str, Any]]] = []
    async with MatchingEngine(kernel) as engine:
        for _ in range(rounds):
            commands: list[tuple[Member, Place | Cancel]] = []
            for _ in range(draw.randint(1, 8)):
                if rest and draw.random() < 0.3:
                    member, order = rest.pop(draw.randrange(len(rest)))
                    commands.append((member, cancel_command(member, order)))
                    continue
                sells = draw.random() < 0.5
                member = scene.seller if sells else draw.choice(buyers)
                lots = None if sells and draw.random() < 0.05 else draw.randint(1, 9)
                more: dict[str, object] = {"self_trade_prevention": draw.choice(MODES)}
                if lots is not None and draw.random() < 0.4:
                    more |= draw.choice(
                        (
                            {"time_in_force": "ioc"},
                            {"time_in_force": "fok"},
                            {"post_only": True},
                            {"min_lots": draw.randint(1, lots)},
                        )
                    )
                price = 1_000 + draw.randrange(10)
                side = "sell" if sells else "buy"
                commands.append((member, scene.command(member, side, lots, price, **more)))
            replies = await together(*(engine.submit(command) for _, command in commands))
            for (member, command), reply in zip(commands, replies, strict=True):
                if isinstance(command, Place) and reply.answer.status == 201:
                    order = order_of(reply)
                    if order["status"] in ("open", "partially_filled"):
                        rest.append((member, order))


async def prove(kernel: Kernel, scene: Scene, at: int | None = None) -> BookReport:
    (head,) = await heads(kernel, scene.plan_id)
    return await prove_book(kernel, head, at=at)


async def played(kernel: Kernel, seed: int, rounds: int = 12) -> Scene:
    scene = await open_scene(kernel)
    buyers = [await scene.buyer(10_000_000) for _ in range(3)]
    await play(kernel, scene, buyers, seed, rounds)
    return scene


def tamper(database: TestDatabase, *statements: str) -> None:
    """As someone with all rights would."""
    with psycopg.connect(database.owner_url) as connection:
        for table in ("book_update", "trade"):
            connection.execute(f"ALTER TABLE matching.{table} DISABLE TRIGGER USER")
        for statement in statements:
            assert connection.execute(statement).rowcount == 1, statement
        for table in ("book_update", "trade"):
            connection.execute(
                f"ALTER TABLE matching.{table} ENABLE ALWAYS TRIGGER matching_{table}_append_only"
            )


async def test_a_book_is_rebuilt_as_it_was_across_restarts(kernel: Kernel) -> None:
    scene = await open_scene(kernel)
    buyers = [await scene.buyer(10_000_000) for _ in range(3)]
    for seed in (1, 2):
        await play(kernel, scene, buyers, seed, 12)
    report = await prove(kernel, scene)
    assert report.diverged is None
    where = "FROM matching.{} WHERE plan_id = $1"
    stored = {
        name: await scalar(kernel, f"SELECT {name} " + where.format("book"), scene.plan_id)
        for name in ("sequence", "checksum", "orders")
    }
    assert stored == {
        "sequence": report.sequence,
        "checksum": report.checksum,
        "orders": report.orders,
    }
    assert report.sequence >= 12
    trades = await scalar(kernel, "SELECT count(*) " + where.format("trade"), scene.plan_id)
    assert report.trades == trades > 0
    # Any moment of the past, and the same trades every time.
    half = await prove(kernel, scene, at=report.sequence // 2)
    assert (half.diverged, half.sequence) == (None, report.sequence // 2)
    again = await prove(kernel, scene)
    assert again.trades_digest == report.trades_digest != half.trades_digest
    with pytest.raises(BookUnknown):
        await prove(kernel, scene, at=report.sequence + 1)


async def test_a_call_auction_and_amendments_are_replayed(kernel: Kernel) -> None:
    scene = await open_scene(kernel)
    operator = await make_party(kernel, Role.OPERATOR)
    buyers = [await scene.buyer(1_000_000) for _ in range(2)]
    async with MatchingEngine(kernel) as engine:
        order_of(await engine.submit(scene.command(buyers[0], "buy", 1, 800)))
        await collect(engine, kernel, operator, scene)
        for index, price in enumerate((900, 950, 990)):
            order_of(await engine.submit(scene.command(buyers[index % 2], "buy", 4, price)))
        for terms in ({}, {"time_in_force": "auction"}):
            order_of(await engine.submit(scene.command(scene.seller, "sell", 5, 850, **terms)))
        await move_clock(kernel, SPAN)
        await reached(kernel, scene, "closed")
        late = order_of(await engine.submit(scene.command(scene.seller, "sell", 2, 2_000)))
        order_of(await engine.submit(cancel_command(scene.seller, late)))
    report = await prove(kernel, scene)
    assert report.diverged is None
    trades = "SELECT count(*) FROM matching.trade WHERE plan_id = $1"
    assert report.trades == await scalar(kernel, trades, scene.plan_id) >= 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("steps = set_byte(steps, length(steps) - 1, 255)", "digest"),
        ("levels = levels || '\\x00'::bytea", "digest"),
        ("checksum = checksum # 1", "digest"),
        ("at = at + interval '1 microsecond'", "digest"),
        ("sequence = sequence + 1000000", "missing from the journal"),
    ],
)
async def test_a_changed_row_of_the_journal_is_found(
    kernel: Kernel, database: TestDatabase, change: str, reason: str
) -> None:
    scene = await played(kernel, 3, rounds=3)
    tamper(
        database,
        f"UPDATE matching.book_update SET {change} WHERE plan_id = '{scene.plan_id}'"
        " AND sequence = 2",
    )
    report = await prove(kernel, scene)
    assert report.diverged is not None
    assert report.diverged.sequence == 2
    assert reason in report.diverged.reason


async def test_a_changed_trade_or_state_is_found(kernel: Kernel, database: TestDatabase) -> None:
    scene = await played(kernel, 4)
    before = await prove(kernel, scene)
    assert before.diverged is None
    of_plan = f"plan_id = '{scene.plan_id}'"
    one = f"seq = (SELECT max(seq) FROM matching.trade WHERE {of_plan})"
    moment = await scalar(
        kernel,
        "SELECT min(sequence) FROM matching.book_update u JOIN matching.trade t"
        f" ON t.traded_at = u.at AND t.plan_id = u.plan_id WHERE t.{one}",
    )
    cheaper = "price_minor = price_minor - {0}, amount_minor = (price_minor - {0}) * lots"
    tamper(database, f"UPDATE matching.trade SET {cheaper.format(1)} WHERE {one}")
    report = await prove(kernel, scene)
    assert report.diverged is not None
    assert (report.diverged.sequence, "replayed" in report.diverged.reason) == (moment, True)
    tamper(database, f"UPDATE matching.trade SET {cheaper.format(-1)} WHERE {one}")
    assert (await prove(kernel, scene)).diverged is None
    tamper(database, f"UPDATE matching.book SET orders = orders + 1 WHERE {of_plan}")
    report = await prove(kernel, scene)
    assert report.diverged is not None
    assert report.diverged.sequence == before.sequence
    tamper(database, f"UPDATE matching.book SET orders = orders - 1 WHERE {of_plan}")
    tamper(database, f"DELETE FROM matching.trade WHERE {one}")
    report = await prove(kernel, scene)
    assert report.diverged is not None
    assert report.diverged.sequence == moment


def market(settings: Settings, *arguments: str) -> "subprocess.CompletedProcess[str]":
    assert settings.database_url is not None
    assert settings.redis_url is not None
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("MARKET_")},
        "MARKET_HOME": str(settings.home),
        "MARKET_DATABASE_URL": settings.database_url,
        "MARKET_REDIS_URL": settings.redis_url,
        "COLUMNS": "160",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "market.cli", "matching", "replay", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )


async def test_the_command_tells_the_first_wrong_sequence(
    kernel: Kernel, settings: Settings, database: TestDatabase
) -> None:
    scene = await played(kernel, 5, rounds=4)
    report = await prove(kernel, scene)
    done = market(settings, "--plan", scene.plan)
    assert done.returncode == 0, done.stderr
    assert f"orders {report.orders}  checksum {report.checksum}" in done.stdout
    assert report.trades_digest in done.stdout
    early = market(settings, "--plan", scene.plan, "--at", "2")
    assert (early.returncode, "at sequence 2" in early.stdout) == (0, True)
    tamper(
        database,
        "UPDATE matching.book_update SET steps = set_byte(steps, 9, 77)"
        f" WHERE plan_id = '{scene.plan_id}' AND sequence = 3",
    )
    done = market(settings, "--verify-all")
    assert done.returncode == 1
    assert "DIVERGES at sequence 3: the row does not match its digest" in done.stdout
    for wrong in ((), ("--plan", "nonsense"), ("--plan", scene.plan, "--at", "99999")):
        assert market(settings, *wrong).returncode == 1
