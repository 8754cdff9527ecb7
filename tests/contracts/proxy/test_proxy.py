"""Buyers' calls: what they cost, what is free, and what is never charged."""

import asyncio
import hashlib
import json

import pytest

from contracts import grants as grant_service, receipts
from contracts.metering import meter_of
from contracts.proxy.breaker import FAILURES_MAX
from contracts.proxy.calling import PER_UPSTREAM_MAX
from contracts.proxy.schemas import CHECKED_MAX_BYTES
from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.outbound import servers
from tests.contracts.proxy.conftest import SECRET, MakeOffer, operation
from tests.contracts.proxy.costs import held_units, problem, uncharged

QUOTE = {
    "type": "object",
    "properties": {"price": {"type": "integer"}},
    "required": ["price"],
    "additionalProperties": False,
}
ONE = {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[a-z]+$"}}}


async def test_a_call_is_charged_once_and_has_a_receipt(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    offer = await make_offer(quote=servers.json_of({"price": 7}))
    await offer.register(operation("quote", parameters=ONE, answer=QUOTE))
    answer = await offer.call("quote", {"id": "abc"})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"price": 7}
    assert answer.headers["meter-charged"] == "1"
    assert answer.headers["meter-remaining"] == "99"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert await settled(kernel, offer.trade) == 1
    (asked,) = offer.server.asked
    assert asked.target == "/quote?id=abc"
    assert asked.headers["delivery-id"] == answer.headers["delivery-id"]
    assert offer.token not in str(asked)
    receipt_id = answer.headers["receipt-id"]
    headers = offer.trade.buyer.headers()
    shown = await offer.client.get(f"/v1/receipts/{receipt_id}", headers=headers)
    (payload,) = receipts.verify_chain([shown.json()["jws"]], kernel.keys.jwks())
    assert payload["body_sha256"] == hashlib.sha256(answer.content).hexdigest()


async def test_the_answers_of_an_upstream_are_not_passed_on_with_its_headers(
    make_offer: MakeOffer,
) -> None:
    hostile = {"set_cookie": "a=b", "location": "http://x", "access_control_allow_origin": "*"}
    offer = await make_offer(x=servers.json_of([], **hostile))
    await offer.register(operation())
    answer = await offer.call(Cookie="session=1", X_Forwarded_For="1.2.3.4")
    assert answer.status_code == 200
    for name in ("set-cookie", "location", "access-control-allow-origin"):
        assert name not in answer.headers
    (asked,) = offer.server.asked
    assert set(asked.headers) == {
        "host",
        "accept",
        "accept-encoding",
        "delivery-id",
        "user-agent",
    }


async def test_the_secret_is_sent_and_shown_to_nobody(
    make_offer: MakeOffer,
    kernel: Kernel,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for logger in (None, "httpcore.connection", "httpcore.http11"):
        caplog.set_level("DEBUG", logger=logger)
    offer = await make_offer(x=servers.json_of([]))
    secret = {"place": "header", "name": "Authorization", "prefix": "Bearer "}
    await offer.register(operation(), secret=secret)
    problem(await offer.call(), 503, "upstream_secret_missing")
    first = await offer.set_secret()
    assert first.status_code == 200
    assert first.json()["secret_number"] == 1
    assert (await offer.call()).status_code == 200
    assert (await offer.set_secret("another-one-9876")).json()["secret_number"] == 2
    assert (await offer.call()).status_code == 200
    sent = [asked.headers["authorization"] for asked in offer.server.asked]
    assert sent == [f"Bearer {SECRET}", "Bearer another-one-9876"]
    async with kernel.unit_of_work() as uow:
        tables = await (await uow.raw()).fetch(
            "SELECT sealed FROM contracts.upstream_secret UNION ALL "
            "SELECT body FROM kernel.idempotent_answer UNION ALL "
            "SELECT convert_to(data::text, 'UTF8') FROM kernel.outbox"
        )
    stored = b"".join(row[0] for row in tables)
    assert b"another-one" not in stored
    assert SECRET.encode() not in stored
    assert await settled(kernel, offer.trade) == 2
    # Of the HTTP client too, which tells each step when asked to.
    logged = caplog.text + "".join(capfd.readouterr())
    assert "send_request_headers" in logged
    assert "another-one" not in logged
    assert SECRET not in logged


async def test_an_answer_that_repeats_the_secret_is_withheld(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    secret = 'sk/test"0123456789'
    forms = {
        "whole": servers.json_of({"headers": {"Key": f"Token:{secret}"}}),
        # Without its prefix, and as some write a slash in JSON.
        "bare": servers.plain(b'{"key": "sk\\/test\\"0123456789"}'),
        "address": servers.json_of({"url": "http://x/?key=sk%2Ftest%220123456789"}),
        "text": servers.plain(secret.encode(), media_type="text/plain"),
    }
    offer = await make_offer(**forms)
    media = {"text": "text/plain"}
    operations = [operation(name, media_type=media.get(name, "application/json")) for name in forms]
    place = {"place": "query", "name": "key", "prefix": "Token:"}
    await offer.register(*operations, secret=place)
    await offer.set_secret(secret)
    for name in forms:
        refused = await offer.call(name)
        problem(refused, 502, "upstream_answer_invalid")
        assert "0123456789" not in refused.text
    assert [row["kind"] for row in await offer.violations()] == ["secret_echo"] * len(forms)
    assert offer.server.asked[0].target == "/whole?key=Token%3Ask%2Ftest%220123456789"
    await uncharged(kernel, offer)


async def test_a_schema_that_costs_too_much_is_the_sellers_fault(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    offer = await make_offer(x=servers.json_of([999] * 500_000))
    costly = {"items": {"allOf": [{"minimum": number} for number in range(1_000)]}}
    await offer.register(operation(answer=costly, max_bytes=CHECKED_MAX_BYTES, timeout_s=20))
    problem(await offer.call(), 502, "upstream_answer_invalid")
    (evidence,) = await offer.violations()
    assert (evidence["kind"], evidence["byte_count"]) == ("schema", 2_500_000)
    await uncharged(kernel, offer)


async def test_a_revoked_grant_learns_nothing(make_offer: MakeOffer, kernel: Kernel) -> None:
    offer = await make_offer(x=servers.json_of([]))
    await offer.register(operation())
    assert (await offer.call()).status_code == 200
    bearer = {"Authorization": f"Bearer {offer.token}"}
    listed = await offer.client.get("/v1/delivery/proxy", headers=bearer)
    assert listed.status_code == 200
    async with kernel.unit_of_work() as uow:
        await grant_service.revoke(uow, kernel, offer.trade.agreement.id)
    for answer in (
        await offer.client.get("/v1/delivery/proxy", headers=bearer),
        await offer.call("nothing"),
        await offer.call("x", {"id": 1}),
    ):
        problem(answer, 410, "grant_revoked")
    assert len(offer.server.asked) == 1


async def test_a_broken_schema_is_evidence_and_free(make_offer: MakeOffer, kernel: Kernel) -> None:
    offer = await make_offer(x=servers.json_of({"price": "seven secrets"}))
    await offer.register(operation(answer=QUOTE))
    answer = await offer.call(Delivery_Id="call-0001")
    found = problem(answer, 502, "upstream_answer_invalid")
    assert "seven" not in answer.text
    (evidence,) = await offer.violations()
    assert evidence["id"] == found["violation"]
    assert evidence["kind"] == "schema"
    assert evidence["delivery_id"] == "call-0001"
    assert evidence["findings"][0]["path"] == "/price"
    assert evidence["operation"]["answer"] == QUOTE
    body = json.dumps({"price": "seven secrets"}).encode()
    assert evidence["body_sha256"] == hashlib.sha256(body).hexdigest()
    assert "seven" not in json.dumps(evidence)
    seller = offer.trade.seller.headers()
    path = f"/v1/agreements/{offer.trade.id}/proxy-violations"
    listed = await offer.client.get(path, headers=seller)
    assert listed.json()["items"] == [evidence]
    await uncharged(kernel, offer)


FAILURES = {
    "nojson": (servers.plain(b"{"), 502, "upstream_answer_invalid"),
    "html": (servers.plain(b"", media_type="text/html"), 502, "upstream_answer_invalid"),
    "moved": (
        servers.plain(b"", status=301, location="http://169.254.169.254/"),
        502,
        "upstream_answer_invalid",
    ),
    "missing": (servers.plain(b"", status=404), 502, "upstream_refused"),
    "broken": (servers.plain(b"", status=500), 502, "upstream_failed"),
    "gone": (servers.hanging_up, 502, "upstream_failed"),
    "silent": (servers.silent, 504, "upstream_timeout"),
    "large": (servers.plain(b" " * 2_000), 502, "upstream_too_large"),
}


async def test_failures_have_stable_codes_and_cost_nothing(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    answers = {name: answer for name, (answer, _, _) in FAILURES.items()}
    offer = await make_offer(good=servers.json_of([]), **answers)
    bounds = {"timeout_s": 1, "max_bytes": 1_000}
    await offer.register(*(operation(name, **bounds) for name in (*FAILURES, "good")))
    for name, (_, status, code) in FAILURES.items():
        problem(await offer.call(name), status, code)
        # Keeps the circuit closed, which this is not about.
        assert (await offer.call("good")).status_code == 200
    assert await settled(kernel, offer.trade) == len(FAILURES)
    assert await held_units(kernel, offer) == 0
    kinds = [row["kind"] for row in await offer.violations()]
    assert kinds == ["size", "redirect", "media_type", "schema"]


async def test_parameters_are_checked_before_anybody_is_asked(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    offer = await make_offer(x=servers.json_of([]))
    await offer.register(operation(parameters={**ONE, "required": ["id"]}))
    for bad in ({}, {"id": 7}, {"id": "A"}, {"id": "a", "deep": {"b": 1}}):
        problem(await offer.call("x", bad), 422, "parameters_invalid")
    problem(await offer.call("nothing"), 404, "operation_not_found")
    assert offer.server.connections == 0
    await uncharged(kernel, offer)


async def test_the_quota_holds_under_parallel_calls(make_offer: MakeOffer, kernel: Kernel) -> None:
    offer = await make_offer({"lot_units": 3}, x=servers.json_of([]))
    await offer.register(operation())
    answers = await asyncio.gather(*(offer.call() for _ in range(PER_UPSTREAM_MAX)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [402] * 5
    assert len(offer.server.asked) == 3
    refused = await offer.call()
    assert problem(refused, 402, "quota_exhausted")["remaining"] == 0
    assert await settled(kernel, offer.trade) == 3


async def test_a_repeated_delivery_is_the_same_bytes_for_free(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    counter = servers.in_turn(servers.json_of([1]), servers.json_of([2]))
    offer = await make_offer({"lot_units": 1}, x=counter)
    await offer.register(operation(parameters=ONE))
    first = await offer.call(Delivery_Id="call-0001")
    await meter_of(kernel).flush()
    again = await offer.call(Delivery_Id="call-0001")
    assert first.content == again.content == b"[1]"
    assert (first.headers["meter-charged"], again.headers["meter-charged"]) == ("1", "0")
    assert first.headers["receipt-id"] == again.headers["receipt-id"]
    other = await offer.call("x", {"id": "b"}, Delivery_Id="call-0001")
    problem(other, 422, "delivery_id_reused")
    assert len(offer.server.asked) == 1
    assert await settled(kernel, offer.trade) == 1


async def test_without_an_id_of_its_own_nothing_is_kept(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    offer = await make_offer(x=servers.json_of([1]))
    await offer.register(operation())
    first = await offer.call()
    await meter_of(kernel).flush()
    again = await offer.call(Delivery_Id=first.headers["delivery-id"])
    problem(again, 409, "answer_not_kept")
    assert len(offer.server.asked) == 1


async def test_a_cached_answer_spares_the_upstream_but_is_a_call(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    counter = servers.in_turn(servers.json_of([1]), servers.json_of([2]))
    offer = await make_offer(x=counter)
    await offer.register(operation(parameters=ONE, cache_ttl_s=3_600))
    bodies = [(await offer.call("x", {"id": name})).content for name in ("a", "a", "b", "a")]
    assert bodies[:3] == [b"[1]", b"[1]", b"[2]"]
    assert len(offer.server.asked) in (2, 3)
    assert await settled(kernel, offer.trade) == 4


async def test_the_circuit_opens_and_a_replaced_upstream_starts_anew(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    offer = await make_offer(x=servers.plain(b"", status=500), y=servers.json_of([]))
    await offer.register(operation())
    for _ in range(FAILURES_MAX):
        problem(await offer.call(), 502, "upstream_failed")
    refused = await offer.call()
    problem(refused, 503, "upstream_circuit_open")
    assert 0 < int(refused.headers["retry-after"]) <= 30
    assert len(offer.server.asked) == FAILURES_MAX
    seller = {**offer.trade.seller.headers(), "If-Match": '"1"'}
    body = {"base_url": offer.server.url, "operations": [operation("y")]}
    path = f"/v1/upstreams/{offer.upstream_id}"
    assert (await offer.client.put(path, json=body, headers=seller)).status_code == 200
    assert (await offer.call("y")).status_code == 200
    assert await settled(kernel, offer.trade) == 1


async def test_only_plans_that_count_calls_take_calls(make_offer: MakeOffer) -> None:
    offer = await make_offer({"unit": "row"}, x=servers.json_of([]))
    await offer.register(operation())
    problem(await offer.call(), 409, "proxy_unit_refused")
    assert offer.server.connections == 0


@pytest.mark.parametrize(
    ("clause", "value"),
    [("masks", [{"kind": "hide", "column": "delay"}]), ("row_filter", "delay > 0")],
)
async def test_what_the_policy_masks_is_not_to_be_had_in_clear(
    make_offer: MakeOffer, clause: str, value: object
) -> None:
    offer = await make_offer({clause: value}, x=servers.json_of([]))
    await offer.register(operation())
    refused = problem(await offer.call(), 403, "policy_refused")
    assert refused["clause"] == clause
    headers = {"Authorization": f"Bearer {offer.token}"}
    listed = await offer.client.get("/v1/delivery/proxy", headers=headers)
    problem(listed, 403, "policy_refused")
    assert offer.server.connections == 0


async def test_a_retired_upstream_answers_nothing(make_offer: MakeOffer, kernel: Kernel) -> None:
    offer = await make_offer(x=servers.json_of([]))
    problem(await offer.call(), 404, "upstream_not_found")
    await offer.register(operation())
    retire = f"/v1/upstreams/{offer.upstream_id}/retire"
    ended = await offer.client.post(retire, headers=offer.trade.seller.headers())
    assert ended.json()["status"] == "retired"
    problem(await offer.call(), 404, "upstream_not_found")
    assert (await offer.register(operation())).status_code == 201
    assert (await offer.call()).status_code == 200


async def test_a_buyer_sees_the_operations_but_not_where_they_lead(make_offer: MakeOffer) -> None:
    offer = await make_offer(x=servers.json_of([]))
    await offer.register(operation(answer=QUOTE))
    headers = {"Authorization": f"Bearer {offer.token}"}
    listed = await offer.client.get("/v1/delivery/proxy", headers=headers)
    assert listed.status_code == 200
    (shown,) = listed.json()["items"]
    assert (shown["name"], shown["answer"]) == ("x", QUOTE)
    assert "path" not in shown
    assert "127.0.0.1" not in listed.text


async def test_no_token_and_a_bad_id(make_offer: MakeOffer) -> None:
    offer = await make_offer(x=servers.json_of([]))
    await offer.register(operation())
    problem(await offer.client.post("/v1/delivery/proxy/x", json={}), 401, "token_missing")
    problem(await offer.call(Delivery_Id="short"), 422, "delivery_id_invalid")
    assert offer.server.connections == 0


async def test_a_large_checked_answer_is_delivered_whole(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    body = json.dumps(["x" * 100] * 35_000).encode()
    assert len(body) < CHECKED_MAX_BYTES
    offer = await make_offer(x=servers.zipped(body))
    await offer.register(operation(max_bytes=CHECKED_MAX_BYTES, answer={"type": "array"}))
    answer = await offer.call(Delivery_Id="call-0001")
    assert answer.content == body
    # Too large to be kept: a repetition is refused rather than charged.
    await meter_of(kernel).flush()
    problem(await offer.call(Delivery_Id="call-0001"), 409, "answer_not_kept")
    assert await settled(kernel, offer.trade) == 1
