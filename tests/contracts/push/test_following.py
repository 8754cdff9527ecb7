"""Pushes of changes, and pushes that go on when a later version comes."""

from typing import Any

import orjson
import pytest

from contracts import tokens
from contracts.delivery import gate
from contracts.push.following import follow_versions
from market.kernel.context import Kernel
from market.kernel.ids import parse
from tests.contracts.factories import settled
from tests.contracts.outbound.servers import Answer, plain
from tests.contracts.push.conftest import OK, MakeRoute, Route
from tests.contracts.push.test_webhook import rows_of
from tests.contracts.versions.factories import publish
from tests.listings.factories import flights_table
from tests.settlement.factories import together

FOLLOWS = {"versions": "follow_latest", "breaking_notice_days": 0, "rows": 100}


@pytest.fixture(autouse=True)
def _fresh_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CONTEXT_TTL_S", -1.0)


async def begin(make_route: MakeRoute, hook: Answer = OK, **trade: Any) -> Route:
    """A follower that reads version 2, of rows 0 to 99."""
    route = await make_route(hook, trade={**FOLLOWS, **trade})
    assert await version(route, 0, 100) == 2
    return route


async def version(route: Route, first: int, last: int, **more: Any) -> int:
    """Another version of the flights: rows ``first`` to ``last``; null drops a column."""
    table = flights_table(last).slice(first)
    for name, column in more.items():
        at = table.schema.get_field_index(name)
        table = table.remove_column(at) if column is None else table.append_column(name, column)
    return await publish(route.kernel, route.trade, table)


def news(route: Route) -> list[Any]:
    """The rows that arrived since the last look."""
    rows = rows_of(route.parts)
    route.server.asked.clear()
    return rows


async def test_changes_since_a_version_are_pushed(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await begin(make_route)
    await version(route, 5, 110)
    push = await route.push(since=2, select="_change,id", order="id", page_rows=10)
    await route.work()
    headers = [part.headers for part in route.parts]
    assert {(each["since-version"], each["data-version"]) for each in headers} == {("2", "3")}
    assert "changes-key" not in headers[0]
    gone = [{"_change": "delete", "id": i} for i in range(5)]
    assert news(route) == gone + [{"_change": "insert", "id": i} for i in range(100, 110)]
    assert await settled(kernel, route.trade) == 15
    state = await route.state(push)
    assert (state["status"], state["since"], state["version"]) == ("completed", 2, 3)


async def test_each_later_version_is_pushed_whole(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await begin(make_route)
    first = await route.push(follow="all", select="id", filter="id < 3")
    await route.work()
    await route.follow()
    assert len(await route.chain()) == 1
    news(route)
    await version(route, 1, 120)
    await route.follow()
    assert orjson.loads(route.server.asked[-1].body)["push"]["previous_id"] == first
    assert news(route) == [{"id": 1}, {"id": 2}]
    await route.follow()
    old, new = await route.chain()
    assert (old["follow"], old["previous_id"]) == (None, None)
    assert (new["follow"], new["previous_id"]) == ("all", first)
    assert (new["version"], new["status"], new["since"]) == (3, "completed", None)
    assert await settled(kernel, route.trade) == 3 + 2


async def test_a_follower_of_changes_pays_for_changes_only(
    make_route: MakeRoute, kernel: Kernel
) -> None:
    route = await begin(make_route)
    await route.push(follow="changes", select="id")
    await route.work()
    assert news(route) == [{"id": i} for i in range(100)]
    await version(route, 0, 101)
    await route.follow()
    assert news(route) == [{"_change": "insert", "id": 100}]
    await version(route, 2, 101)
    await route.follow()
    assert news(route) == [{"_change": "delete", "id": 0}, {"_change": "delete", "id": 1}]
    chain = await route.chain()
    assert [(each["version"], each["since"]) for each in chain] == [(2, None), (3, 2), (4, 3)]
    assert await settled(kernel, route.trade) == 100 + 1 + 2


async def test_canceling_a_completed_push_ends_the_chain(make_route: MakeRoute) -> None:
    route = await begin(make_route)
    push = await route.push(follow="all", filter="id < 2")
    await route.work()
    answer = await route.post(f"/v1/pushes/{push}/cancel")
    assert (answer.json()["status"], answer.json()["follow"]) == ("completed", None)
    answer = await route.post(f"/v1/pushes/{push}/cancel")
    assert answer.json()["code"] == "push_state_conflict"
    await version(route, 0, 101)
    await route.follow()
    assert len(await route.chain()) == 1


async def test_versions_that_came_in_between_are_one_push(make_route: MakeRoute) -> None:
    route = await begin(make_route)
    await route.push(follow="changes")
    await route.work()
    await version(route, 0, 101)
    await version(route, 0, 102)
    await route.follow()
    chain = await route.chain()
    assert [(each["version"], each["since"]) for each in chain] == [(2, None), (4, 2)]


async def test_a_push_that_stands_still_is_followed_when_it_is_complete(
    make_route: MakeRoute,
) -> None:
    route = await begin(make_route, lot_units=120)
    await route.push(follow="all")
    await route.work()
    await version(route, 0, 101)
    await route.follow()
    _, second = await route.chain()
    assert (second["status"], second["follow"]) == ("exhausted", "all")
    await version(route, 0, 102)
    await route.follow()
    assert len(await route.chain()) == 2


async def test_many_workers_start_one(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await begin(make_route)
    await route.push(follow="all", filter="id < 2")
    await route.work()
    await version(route, 0, 101)
    await together(*(follow_versions(kernel) for _ in range(5)))
    await route.work()
    assert [each["version"] for each in await route.chain()] == [2, 3]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"since": 3}, 422, "push_since_later"),
        ({"since": 0}, 422, "validation_failed"),
        ({"follow": "some"}, 422, "validation_failed"),
        ({"since": 1, "select": "nothing"}, 422, "column_unknown"),
    ],
)
async def test_what_cannot_be_followed(
    make_route: MakeRoute, body: dict[str, Any], status: int, code: str
) -> None:
    route = await begin(make_route)
    answer = await route.start(**body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_a_pinned_agreement_follows_nothing(make_route: MakeRoute) -> None:
    route = await make_route()
    answer = await route.start(follow="all")
    assert (answer.status_code, answer.json()["code"]) == (409, "push_cannot_follow")
    answer = await route.start(since=1)
    assert answer.status_code == 201
    await route.work()
    assert rows_of(route.parts) == []


async def test_a_version_without_the_column_ends_the_chain(make_route: MakeRoute) -> None:
    route = await begin(make_route)
    await route.push(follow="all", select="delay", filter="id < 2")
    await route.work()
    await version(route, 0, 100, delay=None)
    await route.follow()
    (only,) = await route.chain()
    assert (only["status"], only["follow"]) == ("completed", None)
    assert only["problem"] == "column_unknown"


@pytest.mark.parametrize("end", ["token", "target"])
async def test_nothing_follows_without_token_or_target(make_route: MakeRoute, end: str) -> None:
    route = await begin(make_route)
    await route.push(follow="all", filter="id < 2")
    await route.work()
    await version(route, 0, 101)
    if end == "token":
        await tokens.revoke(route.kernel, route.trade.buyer.actor, parse("tok", route.token_id))
    else:
        await route.post(f"/v1/push-targets/{route.target_id}/retire")
    await route.follow()
    (only,) = await route.chain()
    assert (only["follow"], only["problem"]) == (
        None,
        "token_ended" if end == "token" else None,
    )


async def test_pushes_that_go_on_count_as_active(
    make_route: MakeRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.push.pushes.ACTIVE_MAX", 2)
    route = await begin(make_route)
    for _ in range(2):
        await route.push(follow="all", filter="id < 2")
        await route.work()
    assert (await route.start()).json()["code"] == "pushes_too_many"
    first, _ = await route.chain()
    await route.post(f"/v1/pushes/{first['id']}/cancel")
    assert (await route.start(filter="id < 2")).status_code == 201


async def test_a_dead_push_takes_its_own_place_again(
    make_route: MakeRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contracts.push.pushes.ACTIVE_MAX", 1)
    monkeypatch.setattr("contracts.push.delivering.ATTEMPTS_MAX", 1)
    route = await begin(make_route, plain(b"", status=500))
    push = await route.push(follow="all", filter="id < 2")
    await route.work()
    assert (await route.state(push))["status"] == "dead"
    answer = await route.post(f"/v1/pushes/{push}/retry")
    assert (answer.status_code, answer.json()["follow"]) == (200, "all")
