"""Requests over HTTP: posting, who sees them, changing, ending."""

import uuid
from datetime import timedelta

import httpx
import pytest

from market.demand import requests
from market.demand.jobs import expire_requests
from market.kernel.context import Kernel
from market.kernel.security import Role
from tests.market.demand.factories import (
    footprint,
    got,
    later,
    make_request,
    open_scene,
    posted,
    refused,
    request_body,
)
from tests.market.parties.factories import Member, make_party
from tests.settlement.factories import move_clock, now


@pytest.fixture
async def buyer(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.BUYER)


async def events_of(kernel: Kernel, object_id: str) -> list[tuple[str, int]]:
    """Type and number of readers of each event about an object."""
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(
            "SELECT type, cardinality(parties) AS readers FROM kernel.outbox"
            " WHERE object_id = $1 ORDER BY seq",
            uuid.UUID(object_id.partition("_")[2]),
        )
    return [(row["type"], row["readers"]) for row in rows]


async def test_a_request_is_posted_once_per_key(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    before = await footprint(kernel)
    key = uuid.uuid4().hex
    constraints = {
        "category": "transport",
        "fields": ["day"],
        "budget": {"amount_minor": 5, "currency": "CNY"},
    }
    body = request_body(constraints=constraints, standing=True)
    first = await client.post("/v1/requests", json=body, headers=buyer.headers(key))
    again = await client.post("/v1/requests", json=body, headers=buyer.headers(key))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    made = first.json()
    assert first.headers["Location"] == f"/v1/requests/{made['id']}"
    assert (made["status"], made["visibility"], made["revision"]) == ("open", "all", 1)
    assert made["constraints"]["fields"] == ["day"]
    assert made["constraints"]["regions"] == []
    after = await footprint(kernel)
    assert after["demand.request"] - before["demand.request"] == 1
    assert after["demand.step"] - before["demand.step"] == 1
    assert await events_of(kernel, made["id"]) == [("request.opened", 1)]
    mine = await got(client, buyer, "/v1/requests", mine=True)
    assert [each["id"] for each in mine["items"]] == [made["id"]]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"constraints": {"rows_min": 5, "rows_max": 4}}, "constraints"),
        ({"constraints": {"quality_min": "1.0001"}}, "constraints.quality_min"),
        ({"constraints": {"grade_max": "core"}}, "constraints.grade_max"),
        ({"constraints": {"fields": ["a", "a"]}}, "constraints.fields"),
        (
            {"constraints": {"period": {"start": "2025-02-01", "end": "2025-01-01"}}},
            "constraints.period",
        ),
        ({"invited": []}, "invited"),
        ({"title": " "}, "title"),
    ],
)
async def test_a_malformed_request_is_refused(
    client: httpx.AsyncClient, buyer: Member, changes: dict[str, object], param: str
) -> None:
    response = await client.post(
        "/v1/requests", json=request_body(**changes), headers=buyer.headers()
    )
    assert response.status_code == 422
    assert response.json()["param"] == param


async def test_who_may_not_post(client: httpx.AsyncClient, kernel: Kernel) -> None:
    seller = await make_party(kernel, Role.SELLER)
    stranger = await make_party(kernel, Role.BUYER, verified=False)
    path, body = "/v1/requests", request_body()
    assert await refused(client, seller, path, body) == (403, "role_required")
    assert await refused(client, stranger, path, body) == (403, "party_not_verified")
    assert (await client.post(path, json=body)).status_code == 401


async def test_a_far_expiry_and_unknown_invitees_are_refused(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    moment = await now(kernel)
    path = "/v1/requests"
    for days in (-1, 367):
        body = request_body(expires_at=later(moment, days))
        assert await refused(client, buyer, path, body) == (422, "expiry_out_of_range")
    other = await make_party(kernel, Role.BUYER)
    for invited in ([f"pty_{uuid.uuid4().hex}"], [other.id]):
        body = request_body(invited=invited)
        assert await refused(client, buyer, path, body) == (422, "invitee_unknown")


async def test_drafts_are_private_and_invitations_exclude(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    guest, outsider = await make_party(kernel, Role.SELLER), await make_party(kernel, Role.SELLER)
    operator = await make_party(kernel, Role.OPERATOR)
    made = await make_request(client, buyer, draft=True, invited=[guest.id])
    path = f"/v1/requests/{made['id']}"
    assert made["status"] == "draft"
    for member in (guest, outsider):
        assert (await client.get(path, headers=member.headers())).status_code == 404
    opened = await posted(client, buyer, f"{path}/open", None)
    assert (opened["status"], opened["invited"]) == ("open", [guest.id])
    seen = await got(client, guest, path)
    # Who else was invited is not the guest's business.
    assert (seen["visibility"], seen["invited"]) == ("invited", [])
    assert (await got(client, operator, path))["invited"] == [guest.id]
    assert (await client.get(path, headers=outsider.headers())).status_code == 404
    listed = await got(client, outsider, "/v1/requests", limit=200)
    assert made["id"] not in {each["id"] for each in listed["items"]}
    assert await events_of(kernel, made["id"]) == [("request.created", 1), ("request.opened", 2)]
    assert await refused(client, buyer, f"{path}/open", None) == (409, "request_ended")


async def test_a_change_needs_the_current_revision(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    guest = await make_party(kernel, Role.SELLER)
    made = await make_request(client, buyer)
    path = f"/v1/requests/{made['id']}"
    headers = {**buyer.headers(), "If-Match": '"1"'}
    change = {"constraints": {"category": "energy"}, "invited": [guest.id], "title": "Wind"}
    changed = await client.patch(path, json=change, headers=headers)
    assert changed.status_code == 200
    assert changed.headers["ETag"] == '"2"'
    view = changed.json()
    assert (view["title"], view["text"]) == ("Wind", made["text"])
    assert view["constraints"]["category"] == "energy"
    assert (view["visibility"], view["invited"]) == ("invited", [guest.id])
    stale = await client.patch(path, json={"title": "Sun"}, headers=headers)
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    wide = await client.patch(path, json={"invited": []}, headers={**headers, "If-Match": '"2"'})
    assert (wide.json()["visibility"], wide.json()["invited"]) == ("all", [])
    other = await make_party(kernel, Role.BUYER)
    foreign = {**other.headers(), "If-Match": '"3"'}
    assert (await client.patch(path, json={}, headers=foreign)).status_code == 404
    energy = await got(client, other, "/v1/requests", category="energy")
    assert [each["title"] for each in energy["items"]] == ["Wind"]


async def test_closing_lapses_quotes_and_ends_the_request(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    scene = await open_scene(kernel, client)
    quote = await scene.quote()
    path = f"/v1/requests/{scene.request_id}"
    other = await make_party(kernel, Role.BUYER)
    assert await refused(client, other, f"{path}/close", None) == (404, "request_not_found")
    assert await refused(client, scene.seller, f"{path}/close", None) == (404, "request_not_found")
    closed = await posted(client, scene.buyer, f"{path}/close", None)
    assert closed["status"] == "closed"
    assert closed["closed_at"] is not None
    # The seller still sees what it quoted on.
    assert (await got(client, scene.seller, path))["status"] == "closed"
    assert (await got(client, scene.seller, f"/v1/quotes/{quote['id']}"))["status"] == "lapsed"
    assert await refused(client, scene.buyer, f"{path}/close", None) == (409, "request_ended")
    headers = {**scene.buyer.headers(), "If-Match": f'"{closed["revision"]}"'}
    assert (await client.patch(path, json={}, headers=headers)).json()["code"] == "request_ended"
    body = await scene.body()
    assert await refused(client, scene.seller, f"{path}/quotes", body) == (409, "request_not_open")


async def test_an_operator_may_close(client: httpx.AsyncClient, kernel: Kernel) -> None:
    scene = await open_scene(kernel, client)
    operator = await make_party(kernel, Role.OPERATOR)
    path = f"/v1/requests/{scene.request_id}/close"
    assert (await posted(client, operator, path, None))["status"] == "closed"


async def test_the_number_of_live_requests_is_bounded(
    client: httpx.AsyncClient, buyer: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "LIVE_REQUESTS_MAX", 2)
    first = await make_request(client, buyer)
    await make_request(client, buyer, draft=True)
    path, body = "/v1/requests", request_body()
    assert await refused(client, buyer, path, body) == (409, "too_many_open_requests")
    await posted(client, buyer, f"{path}/{first['id']}/close", None)
    await make_request(client, buyer)


async def test_pages_show_every_request_once(client: httpx.AsyncClient, buyer: Member) -> None:
    made = [(await make_request(client, buyer))["id"] for _ in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await got(client, buyer, "/v1/requests", mine=True, limit=2, **after)
        seen += [each["id"] for each in page["items"]]
        if not page["has_more"]:
            break
        after = {"after": page["next_after"]}
    assert seen == made[::-1]


async def test_a_closed_request_cannot_change_even_by_sql(
    client: httpx.AsyncClient, kernel: Kernel, buyer: Member
) -> None:
    made = await make_request(client, buyer)
    await posted(client, buyer, f"/v1/requests/{made['id']}/close", None)
    request_id = uuid.UUID(made["id"][4:])
    with pytest.raises(Exception, match="a closed request does not change"):
        async with kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(
                "UPDATE demand.request SET status = 'open', closed_at = NULL WHERE id = $1",
                request_id,
            )


async def test_a_request_expires_by_database_time(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    scene = await open_scene(kernel, client, expires_at=later(await now(kernel), 1))
    quote = await scene.quote()
    await move_clock(kernel, timedelta(days=1))
    # This process learns of it from the database.
    await now(kernel)
    # Refused before the sweeper has come by.
    seller = scene.seller.with_fresh_token(kernel)
    path = f"/v1/requests/{scene.request_id}"
    rival = {**await scene.body()}
    assert await refused(client, seller, f"{path}/quotes", rival) == (409, "request_not_open")
    assert await expire_requests(kernel) == 1
    assert await expire_requests(kernel) == 0
    assert (await got(client, seller, path))["status"] == "expired"
    assert (await got(client, seller, f"/v1/quotes/{quote['id']}"))["status"] == "lapsed"
    assert (await events_of(kernel, scene.request_id))[-1] == ("request.expired", 1)
