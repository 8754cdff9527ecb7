"""Pushes to a webhook: what arrives, what it costs, and what becomes of failures."""

import asyncio
import base64
import hashlib
import hmac
import socket
from datetime import timedelta
from typing import Any

import orjson
import pytest

from contracts import tokens
from contracts.push import delivering
from contracts.push.parcels import signature
from market.kernel.context import Kernel
from market.kernel.ids import parse
from market.kernel.security import Role
from tests.contracts.factories import bearer, mint, settled
from tests.contracts.outbound.servers import Asked, hanging_up, in_turn, plain, serving, silent
from tests.contracts.push.conftest import OK, MakeRoute, Route
from tests.market.parties.factories import make_party
from tests.settlement.factories import move_clock

FAILS = plain(b"", status=500)


def rows_of(parts: list[Asked]) -> list[Any]:
    """The rows of NDJSON parts."""
    return [orjson.loads(line) for part in parts for line in part.body.splitlines()]


def signed_by(secret: str, asked: Asked) -> bool:
    """By the text of Standard Webhooks 1.0.0, not by our code."""
    key = base64.b64decode(secret.split("_", 1)[1])
    head = asked.headers
    content = f"{head['webhook-id']}.{head['webhook-timestamp']}.".encode() + asked.body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return head["webhook-signature"] == f"v1,{expected}"


async def test_all_rows_arrive_signed_once_and_are_charged_like_pages(
    make_route: MakeRoute, kernel: Kernel
) -> None:
    route = await make_route()
    push = await route.push(page_rows=300, filter="carrier in ('UA', 'AA')", select="id,carrier")
    await route.work()
    expected = [{"id": i, "carrier": ("UA", "AA")[i % 4]} for i in range(1_000) if i % 4 in (0, 1)]
    assert rows_of(route.parts) == expected
    assert [part.headers["push-part"] for part in route.parts] == ["1", "2"]
    assert {part.headers["push-id"] for part in route.parts} == {push}
    assert [part.headers["meter-charged"] for part in route.parts] == ["300", "200"]
    assert all(signed_by(route.secret, asked) for asked in route.server.asked)
    assert await settled(kernel, route.trade) == 500
    state = await route.state(push)
    assert (state["status"], state["parts"], state["rows"]) == ("completed", 2, 500)
    parts = (await route.get(f"/v1/pushes/{push}/parts"))["items"]
    for part, asked in zip(parts, route.parts, strict=True):
        assert part["sha256"] == hashlib.sha256(asked.body).hexdigest()
        assert part["delivery_id"] == asked.headers["delivery-id"] == asked.headers["webhook-id"]
        digest = base64.b64encode(bytes.fromhex(part["sha256"])).decode()
        assert asked.headers["content-digest"] == f"sha-256=:{digest}:"
        receipt = await route.get(f"/v1/receipts/{part['receipt_id']}")
        claims = orjson.loads(base64.urlsafe_b64decode(receipt["jws"].split(".")[1] + "=="))
        assert claims["body_sha256"] == part["sha256"]
    manifest = orjson.loads(route.server.asked[-1].body)
    assert manifest["type"] == "push.completed"
    assert manifest["parts"] == parts
    assert manifest["push"]["id"] == push


@pytest.mark.parametrize("format_", ["parquet", "arrow", "csv", "json"])
async def test_formats_are_those_of_the_rows_api(make_route: MakeRoute, format_: str) -> None:
    route = await make_route()
    push = await route.push(format=format_, page_rows=1_000, filter="id < 5")
    await route.work()
    token = await mint(route.kernel, route.trade)
    media_type = route.parts[0].headers["content-type"]
    headers = bearer(token, Accept=media_type)
    page = await route.client.get("/v1/delivery/rows?filter=id<5&limit=1000", headers=headers)
    assert page.headers["content-type"].partition(";")[0] == media_type.partition(";")[0]
    assert route.parts[0].body == page.content
    assert (await route.state(push))["rows"] == 5


async def test_what_was_written_is_charged_whatever_is_answered_and_its_repetition_is_free(
    make_route: MakeRoute, kernel: Kernel
) -> None:
    route = await make_route(in_turn(FAILS, FAILS, OK))
    push = await route.push(page_rows=600)
    await route.work()
    state = await route.state(push)
    assert (state["status"], state["attempts"]) == ("active", 1)
    assert state["problem"] == "target_answered_500"
    # It has the rows.
    assert await settled(kernel, route.trade) == 600
    await route.later(seconds=15)
    assert (await route.state(push))["attempts"] == 2
    await route.later(seconds=60)
    state = await route.state(push)
    assert (state["status"], state["rows"], state["attempts"]) == ("completed", 1_000, 0)
    assert await settled(kernel, route.trade) == 1_000
    first, again, last, rest = route.parts
    assert first.body == again.body == last.body != rest.body
    assert len({part.headers["delivery-id"] for part in (first, again, last)}) == 1
    charged = [part.headers["meter-charged"] for part in route.parts]
    assert charged == ["600", "0", "0", "400"]


async def test_what_never_left_is_free(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await make_route()
    async with serving(hook=OK) as server:
        await route.register(url=f"{server.url}/hook")
        await route.verify()
    push = await route.push()
    await route.work()
    state = await route.state(push)
    assert (state["status"], state["problem"]) == ("active", "target_unreachable")
    assert await settled(kernel, route.trade) == 0
    # Nothing is held back either.
    token = await mint(kernel, route.trade)
    page = await route.client.get("/v1/delivery/rows?limit=1", headers=bearer(token))
    assert page.headers["meter-remaining"] == "999"


async def test_an_unanswered_part_is_charged_once(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await make_route(in_turn(hanging_up, OK))
    push = await route.push(page_rows=1_000)
    await route.work()
    state = await route.state(push)
    assert (state["status"], state["problem"]) == ("active", "target_connection_broken")
    assert await settled(kernel, route.trade) == 1_000
    await route.later(seconds=15)
    assert (await route.state(push))["status"] == "completed"
    assert await settled(kernel, route.trade) == 1_000


async def test_ten_failures_end_it_until_it_is_tried_again(
    make_route: MakeRoute, kernel: Kernel
) -> None:
    route = await make_route(FAILS)
    push = await route.push(page_rows=1_000)
    await route.work()
    for attempt in range(9):
        await route.later(seconds=min(13_000, 13 * 3**attempt))
    state = await route.state(push)
    assert (state["status"], state["attempts"]) == ("dead", 10)
    assert (state["problem"], state["next_at"]) == ("target_answered_500", None)
    asked = len(route.parts)
    await route.later(hours=4)
    assert len(route.parts) == asked
    route.server.answers["/hook"] = OK
    assert (await route.post(f"/v1/pushes/{push}/retry")).status_code == 200
    await route.work()
    state = await route.state(push)
    assert (state["status"], state["rows"]) == ("completed", 1_000)


async def test_a_used_up_grant_stops_it_and_a_new_attempt_goes_on(
    make_route: MakeRoute, kernel: Kernel
) -> None:
    route = await make_route(trade={"lots": 1, "lot_units": 500})
    push = await route.push(page_rows=400)
    await route.work()
    state = await route.state(push)
    assert (state["status"], state["problem"]) == ("exhausted", "quota_exhausted")
    assert (state["parts"], state["rows"]) == (1, 400)
    assert await settled(kernel, route.trade) == 400
    assert (await route.post(f"/v1/pushes/{push}/retry")).status_code == 200
    await route.work()
    assert (await route.state(push))["status"] == "exhausted"
    assert (await route.post(f"/v1/pushes/{push}/cancel")).json()["status"] == "canceled"
    again = await route.post(f"/v1/pushes/{push}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "push_state_conflict")


async def test_a_revoked_token_ends_it_at_once(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await make_route()
    push = await route.push()
    await tokens.revoke(kernel, route.trade.buyer.actor, parse("tok", route.token_id))
    await route.work()
    state = await route.state(push)
    assert (state["status"], state["problem"]) == ("refused", "token_revoked")
    assert route.server.asked == []
    assert await settled(kernel, route.trade) == 0


async def test_a_tokens_limits_are_the_pushs(make_route: MakeRoute) -> None:
    route = await make_route()
    await route.mint(fields=["id", "delay"], row_filter="id < 10")
    push = await route.push()
    await route.work()
    assert [set(row) for row in rows_of(route.parts)] == [{"id", "delay"}] * 10
    refused = await route.start(select="carrier")
    assert (refused.status_code, refused.json()["code"]) == (403, "token_field_refused")
    await route.mint(operations=["rows"])
    refused = await route.start()
    assert (refused.status_code, refused.json()["code"]) == (403, "token_operation_refused")
    assert (await route.state(push))["status"] == "completed"


async def test_masks_apply(make_route: MakeRoute) -> None:
    masks = [{"kind": "hide", "column": "carrier"}]
    route = await make_route(trade={"masks": masks, "row_filter": "id < 3"})
    await route.push()
    await route.work()
    assert [(row["id"], row["carrier"]) for row in rows_of(route.parts)] == [
        (0, None),
        (1, None),
        (2, None),
    ]


async def test_a_part_that_breaks_off_is_charged_as_far_as_it_got(
    make_route: MakeRoute, kernel: Kernel
) -> None:
    # More than the kernels of both sides hold.
    rows = 100_000
    route = await make_route(trade={"rows": rows, "lot_units": 10 * rows})
    broken: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        if length > 100_000 and not broken:
            broken.append(length)
            await reader.readexactly(1_000)
            # Until all that the kernels take has been written.
            await asyncio.sleep(0.3)
            writer.transport.abort()
            return
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    listener.bind(("127.0.0.1", 0))
    async with await asyncio.start_server(answer, sock=listener, limit=4_096):
        await route.register(url=f"http://127.0.0.1:{listener.getsockname()[1]}/hook")
        await route.verify()
        push = await route.push(page_rows=rows)
        await route.work()
    state = await route.state(push)
    assert (state["status"], state["problem"]) == ("completed", None)
    assert broken
    charged = await settled(kernel, route.trade) - rows
    assert 0 < charged < rows
    usage = await route.get(f"/v1/grants/{route.trade.grant}/usage?limit=10")
    found = {each["delivery_id"]: each["complete"] for each in usage["items"]}
    name = parse("psh", push).hex
    assert found == {f"{name}.1.0": False, f"{name}.1.1": True}


async def test_kills_between_settling_and_recording_cost_nothing(
    make_route: MakeRoute, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = await make_route()
    push = await route.push(page_rows=1_000)
    record = delivering._record

    async def dies(*_arguments: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(delivering, "_record", dies)
    with pytest.raises(asyncio.CancelledError):
        await delivering.run_pushes(kernel)
    monkeypatch.setattr(delivering, "_record", record)
    assert await settled(kernel, route.trade) == 1_000
    await route.later(seconds=600)
    assert (await route.state(push))["status"] == "completed"
    assert await settled(kernel, route.trade) == 1_000
    assert [part.headers["meter-charged"] for part in route.parts] == ["1000", "0"]


async def test_two_workers_send_a_push_once(make_route: MakeRoute, kernel: Kernel) -> None:
    route = await make_route()
    push = await route.push(page_rows=500)
    await asyncio.gather(*(delivering.run_pushes(kernel) for _ in range(4)))
    await route.work()
    assert (await route.state(push))["status"] == "completed"
    assert len(route.parts) == 2


async def test_pushes_take_turns(
    make_route: MakeRoute, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "AT_ONCE", 1)
    monkeypatch.setattr(delivering, "TURN_S", 0)
    route = await make_route(trade={"lot_units": 2_000})
    both = [await route.push(page_rows=300, filter="id < 900") for _ in range(2)]
    # Time passes between the turns.
    for _ in range(8):
        await move_clock(kernel, timedelta(milliseconds=1))
        await delivering.run_pushes(kernel)
    assert [part.headers["push-id"] for part in route.parts] == both * 3
    for push in both:
        assert (await route.state(push))["status"] == "completed"


async def test_a_target_must_answer_a_ping_first(make_route: MakeRoute) -> None:
    route = await make_route(FAILS, verified=False)
    refused = await route.start()
    assert (refused.status_code, refused.json()["code"]) == (409, "push_target_not_verified")
    pinged = await route.verify()
    assert (pinged["ok"], pinged["problem"]) == (False, "target_answered_500")
    assert (await route.start()).status_code == 409
    route.server.answers["/hook"] = OK
    assert (await route.verify())["target"]["status"] == "verified"
    assert all(signed_by(route.secret, asked) for asked in route.server.asked)
    assert (await route.start()).status_code == 201


async def test_a_retired_target_ends_its_pushes(make_route: MakeRoute) -> None:
    route = await make_route()
    push = await route.push()
    retired = await route.post(f"/v1/push-targets/{route.target_id}/retire")
    assert retired.json()["status"] == "retired"
    await route.work()
    assert route.parts == []
    assert (await route.state(push))["status"] == "canceled"
    assert (await route.start()).json()["code"] == "push_target_not_verified"
    ping = await route.post(f"/v1/push-targets/{route.target_id}/verify")
    assert ping.json()["code"] == "push_target_retired"


async def test_redirects_are_not_followed_and_slow_targets_given_up(
    make_route: MakeRoute, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = await make_route(plain(b"", status=302, location="http://127.0.0.1:1/"))
    push = await route.push()
    await route.work()
    assert (await route.state(push))["problem"] == "target_answered_302"
    monkeypatch.setattr("contracts.push.targets.PING_S", 0.2)
    route.server.answers["/hook"] = silent
    assert (await route.verify())["problem"] == "target_timeout"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://10.0.0.8/hook", "push_target_invalid"),
        ("https://169.254.169.254/latest", "push_target_invalid"),
        ("https://[fd00:ec2::254]/", "push_target_invalid"),
        ("https://user:pw@hooks.example.com/", "push_target_invalid"),
        ("https://hooks.example.com/?token=1", "push_target_invalid"),
        ("ftp://hooks.example.com/", "validation_failed"),
    ],
)
async def test_addresses_that_are_never_dialed(make_route: MakeRoute, url: str, code: str) -> None:
    route = await make_route()
    refused = await route.register(url=url)
    assert (refused.status_code, refused.json()["code"]) == (422, code)


async def test_others_see_nothing_of_it(make_route: MakeRoute, kernel: Kernel) -> None:
    route: Route = await make_route()
    push = await route.push()
    other = await make_party(kernel, Role.BUYER)
    for path in (f"/v1/pushes/{push}", f"/v1/push-targets/{route.target_id}"):
        answer = await route.client.get(path, headers=other.headers())
        assert answer.status_code == 404
    for path in (f"/v1/pushes/{push}/cancel", f"/v1/push-targets/{route.target_id}/verify"):
        answer = await route.client.post(path, headers=other.headers())
        assert answer.status_code == 404
    listed = await route.client.get("/v1/pushes", headers=other.headers())
    assert listed.json()["items"] == []
    stolen = {"target_id": route.target_id, "token_id": route.token_id}
    answer = await route.client.post(
        f"/v1/grants/{route.trade.grant}/pushes", json=stolen, headers=other.headers()
    )
    assert answer.status_code == 404


def test_a_known_signature() -> None:
    # The example of the specification (standardwebhooks.com, "Signature scheme").
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    found = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
