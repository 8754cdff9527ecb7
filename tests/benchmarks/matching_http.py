"""Orders over HTTP: ``market up`` in a process of its own, loopback, kept-alive connections.

The flow is the durable engine's (``durable_market``), by fewer parties: each needs a credential
of its own, as every request is authenticated against the database. Server, database and load
generator share the machine. An answer comes after COMMIT; refused orders count, they are work,
too. Single orders: ``POST /v1/orders`` and ``DELETE /v1/orders/{id}``, a command per request.
Batches: ``POST /v1/orders/batch`` with 1,000 orders of one party each.
``BENCH_MATCHING_HTTP_S`` sets the seconds per row.
"""

import asyncio
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import UUID, uuid4

import uvloop
from rich.console import Console
from rich.table import Table

from market.kernel import logging as market_logging, migrations
from market.kernel.context import open_kernel
from market.kernel.embedded import EmbeddedServers, start_embedded
from market.kernel.embedded_postgres import APP_ROLE
from market.kernel.ids import parse, show
from market.kernel.security import Role
from market.kernel.settings import load_settings
from market.matching.commands import Cancel, Place
from tests.benchmarks.durable_market import Flow, Market, fund, seed
from tests.benchmarks.http_load import Connection, Response
from tests.benchmarks.matching_waits import Waits
from tests.e2e.market_process import MarketProcess
from tests.market.parties.factories import make_party

RUN_S = float(os.environ.get("BENCH_MATCHING_HTTP_S", "10"))
BUYERS = 64
CONNECTIONS = (1, 64)
BATCH_PATH = "/v1/orders/batch"
BATCH = 1_000
BATCH_CONNECTIONS = (1, 4)
# More than a run can send.
ORDERS_PER_S_MAX = 5_000
BATCHES_MAX = round(10 * RUN_S)

Tokens = Mapping[UUID, str]


async def prepare(servers: EmbeddedServers, folder: Path) -> tuple[Market, Tokens]:
    """A market whose parties can log in."""
    kernel = open_kernel(
        load_settings(database_url=servers.database_url, redis_url=servers.redis_url, home=folder)
    )
    try:
        market = await seed(kernel)
        buyers = [await make_party(kernel, Role.BUYER) for _ in range(BUYERS)]
        await fund(kernel, [buyer.party_id for buyer in buyers])
        members = [member.with_fresh_token(kernel) for member in (*market.sellers, *buyers)]
    finally:
        await kernel.close()
    tokens = {member.party_id: member.token for member in members}
    return Market(market.instruments, [b.party_id for b in buyers], market.sellers), tokens


async def send(connection: Connection, command: Place | Cancel, tokens: Tokens) -> Response:
    """One command as a client would send it."""
    headers = {"Authorization": f"Bearer {tokens[command.party_id]}"}
    if isinstance(command, Cancel):
        path = f"/v1/orders/{show('ord', command.order_id)}"
        return await connection.request("DELETE", path, headers)
    headers["Idempotency-Key"] = uuid4().hex
    body = command.body.model_dump_json(exclude_unset=True).encode()
    return await connection.request("POST", "/v1/orders", headers, body)


async def drive_single(port: int, flow: Flow, tokens: Tokens, connections: int) -> Waits:
    """Every connection sends its next command when the last is answered, for ``RUN_S``."""
    waits = Waits()
    begun = time.perf_counter()

    async def caller() -> None:
        async with await Connection.open(port) as connection:
            while time.perf_counter() < begun + RUN_S:
                for command in flow.next():
                    sent = time.perf_counter()
                    response = await send(connection, command, tokens)
                    waits.note(time.perf_counter() - sent)
                    assert response.status < 500, response.body
                    assert response.status != 429, response.body
                    if response.status == 201 and b'"status":"open"' in response.body:
                        assert isinstance(command, Place)
                        order_id = parse("ord", json.loads(response.body)["id"])
                        flow.rests(dataclasses.replace(command, order_id=order_id))

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(caller())
    waits.seconds = time.perf_counter() - begun
    return waits


def batches(market: Market) -> Iterator[tuple[UUID, bytes]]:
    """Requests without end: a party and a body with ``BATCH`` of its orders."""
    waiting: dict[UUID, list[Place]] = {}
    while True:
        for place in Flow(market, BATCH).orders:
            mine = waiting.setdefault(place.party_id, [])
            mine.append(place)
            if len(mine) == BATCH:
                items = [
                    {"op": "place", "order": one.body.model_dump(mode="json", exclude_unset=True)}
                    for one in mine
                ]
                yield place.party_id, json.dumps({"items": items}).encode()
                mine.clear()


async def drive_batches(
    port: int, source: Iterator[tuple[UUID, bytes]], tokens: Tokens, connections: int
) -> Waits:
    """Every connection sends its next batch when the last is answered, for ``RUN_S``."""
    waits = Waits()
    # Made beforehand: the load generator has better things to do.
    ready = [next(source) for _ in range(BATCHES_MAX)]
    begun = time.perf_counter()

    async def caller() -> None:
        async with await Connection.open(port) as connection:
            while ready and time.perf_counter() < begun + RUN_S:
                party_id, body = ready.pop()
                headers = {
                    "Authorization": f"Bearer {tokens[party_id]}",
                    "Idempotency-Key": uuid4().hex,
                }
                sent = time.perf_counter()
                response = await connection.request("POST", BATCH_PATH, headers, body)
                waits.note(time.perf_counter() - sent)
                assert response.status == 200, response.body
                assert len(json.loads(response.body)["items"]) == BATCH

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(caller())
    waits.seconds = time.perf_counter() - begun
    return waits


async def drive(port: int, market: Market, tokens: Tokens) -> dict[str, float]:
    """All rows, as a table and as figures."""
    table = Table("endpoint", "connections", "requests/s", "orders/s", "p50 ms", "p99 ms")
    figures: dict[str, float] = {}
    flow = Flow(market, round(ORDERS_PER_S_MAX * RUN_S * len(CONNECTIONS)))
    for connections in CONNECTIONS:
        waits = await drive_single(port, flow, tokens, connections)
        rate = f"{waits.per_s:,.0f}"
        times = f"{waits.p50_ms:.1f}", f"{waits.p99_ms:.1f}"
        table.add_row("POST /v1/orders", str(connections), rate, rate, *times)
        figures[f"http_requests_per_s_{connections}"] = waits.per_s
        figures[f"http_p50_ms_{connections}"] = waits.p50_ms
        figures[f"http_p99_ms_{connections}"] = waits.p99_ms
    async with await Connection.open(port) as connection:
        described = json.loads((await connection.request("GET", "/openapi.json", {})).body)
    source = batches(market)
    for connections in BATCH_CONNECTIONS if BATCH_PATH in described["paths"] else ():
        waits = await drive_batches(port, source, tokens, connections)
        rates = f"{waits.per_s:,.1f}", f"{waits.per_s * BATCH:,.0f}"
        times = f"{waits.p50_ms:.1f}", f"{waits.p99_ms:.1f}"
        table.add_row(f"POST {BATCH_PATH}", str(connections), *rates, *times)
        figures[f"http_batches_per_s_{connections}"] = waits.per_s
        figures[f"http_batch_orders_per_s_{connections}"] = waits.per_s * BATCH
        figures[f"http_batch_p50_ms_{connections}"] = waits.p50_ms
        figures[f"http_batch_p99_ms_{connections}"] = waits.p99_ms
    Console().print(table)
    return figures


def main() -> dict[str, float]:
    """Measure, print the table and, as the last line, the figures as JSON."""
    market_logging.configure(json=True, level="WARNING")
    with tempfile.TemporaryDirectory(prefix="bench-matching-http-") as name:
        folder = Path(name)
        servers = start_embedded(folder, want_redis=True)
        try:
            migrations.upgrade(servers.owner_database_url, APP_ROLE)
            market, tokens = uvloop.run(prepare(servers, folder))
            named = {
                "MARKET_DATABASE_URL": servers.database_url,
                "MARKET_OWNER_DATABASE_URL": servers.owner_database_url,
                "MARKET_REDIS_URL": servers.redis_url,
                # What is measured is the work, not its limits.
                "MARKET_ORDER_MESSAGES_PER_S": str(10**6),
            }
            process = MarketProcess(folder, named)
            process.start()
            try:
                figures = uvloop.run(drive(process.port, market, tokens))
            finally:
                process.stop()
        finally:
            servers.stop()
    figures = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps(figures))
    return figures


if __name__ == "__main__":
    main()
