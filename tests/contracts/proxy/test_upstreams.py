"""Sellers' side: registering, replacing, rotating, trying and retiring; and who may not."""

from typing import Any

import httpx
import pytest

from contracts.outbound import sealing
from contracts.proxy import secrets
from contracts.proxy.kept import prune
from contracts.proxy.models import UpstreamSecret
from market.kernel.context import Kernel
from market.kernel.envelope import Envelope
from market.kernel.ids import new_id, parse, show
from market.kernel.security import Role
from tests.contracts.dispute_factories import claim
from tests.contracts.factories import Trade, make_trade
from tests.contracts.outbound import servers
from tests.contracts.proxy.conftest import SECRET, MakeOffer, operation
from tests.market.parties.factories import make_party

KEY = {"place": "header", "name": "X-Key", "prefix": ""}


@pytest.fixture(scope="module")
async def trade(kernel: Kernel) -> Trade:
    return await make_trade(kernel, unit="call", lots=1, lot_units=100)


def path_of(trade: Trade) -> str:
    return f"/v1/products/{show('prd', trade.agreement.product_id)}/upstreams"


async def register(client: httpx.AsyncClient, trade: Trade, **body: Any) -> httpx.Response:
    whole = {"base_url": "https://api.example.com", "operations": [operation()], **body}
    return await client.post(path_of(trade), json=whole, headers=trade.seller.headers())


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"base_url": "https://10.0.0.1/x"}, "upstream_invalid", "base_url"),
        ({"base_url": "https://u:p@example.com"}, "upstream_invalid", "base_url"),
        ({"operations": [operation(), operation()]}, "upstream_invalid", "operations"),
        ({"secret": {**KEY, "name": "Host"}}, "upstream_invalid", "secret.name"),
        ({"operations": []}, "validation_failed", "operations"),
        ({"operations": [operation(path="/{id}")]}, "operation_invalid", "operations.0.path"),
        (
            {"operations": [operation(answer={"$ref": "#"})]},
            "schema_invalid",
            "operations.0.answer",
        ),
        (
            {"operations": [operation(parameters={"type": "array"})]},
            "operation_invalid",
            "operations.0.parameters",
        ),
        (
            {"operations": [operation(answer={}, stream=True)]},
            "operation_invalid",
            "operations.0.answer",
        ),
        (
            {"operations": [operation(method="POST", cache_ttl_s=5)]},
            "operation_invalid",
            "operations.0.cache_ttl_s",
        ),
        (
            {"operations": [operation(max_bytes=1 << 29)]},
            "operation_invalid",
            "operations.0.max_bytes",
        ),
        (
            {
                "secret": {"place": "query", "name": "k"},
                "operations": [operation(parameters={"type": "object", "properties": {"k": {}}})],
            },
            "operation_invalid",
            "operations.0.parameters",
        ),
    ],
)
async def test_what_cannot_be_registered(
    client: httpx.AsyncClient, trade: Trade, body: dict[str, Any], code: str, param: str
) -> None:
    answer = await register(client, trade, **body)
    assert answer.status_code == 422, answer.text
    assert (answer.json()["code"], answer.json()["param"]) == (code, param)


async def test_one_upstream_per_product_until_it_is_retired(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, unit="call", lots=1, lot_units=1)
    made = await register(client, trade, secret=KEY)
    assert made.status_code == 201, made.text
    location = made.headers["location"]
    assert location == f"/v1/upstreams/{made.json()['id']}"
    assert (await register(client, trade)).json()["code"] == "upstream_exists"
    seller = trade.seller
    shown = await client.get(location, headers=seller.headers())
    assert shown.json() == made.json()
    assert shown.headers["etag"] == '"1"'
    listed = await client.get("/v1/upstreams", headers=seller.headers())
    assert listed.json()["items"] == [made.json()]
    for _ in range(2):
        ended = await client.post(f"{location}/retire", headers=seller.headers())
        assert ended.json()["status"] == "retired"
    late = await client.put(f"{location}/secret", json={"value": SECRET}, headers=seller.headers())
    assert late.json()["code"] == "upstream_retired"
    assert (await register(client, trade)).status_code == 201


async def test_strangers_and_buyers_find_nothing(client: httpx.AsyncClient, kernel: Kernel) -> None:
    trade = await make_trade(kernel, unit="call", lots=1, lot_units=1)
    made = (await register(client, trade, secret=KEY)).json()
    place = f"/v1/upstreams/{made['id']}"
    stranger = await make_party(kernel, Role.SELLER)
    body = {"base_url": "https://evil.example.com", "operations": [operation()]}
    for who in (stranger, trade.buyer):
        headers = {**who.headers(), "If-Match": '"1"'}
        answers = [
            await client.get(place, headers=headers),
            await client.put(place, json=body, headers=headers),
            await client.put(f"{place}/secret", json={"value": SECRET}, headers=headers),
            await client.post(f"{place}/retire", headers=who.headers()),
            await client.post(
                f"{place}/test-calls", json={"operation": "x"}, headers=who.headers()
            ),
        ]
        assert [answer.status_code for answer in answers] == [404] * 5
        assert (await client.get("/v1/upstreams", headers=headers)).json()["items"] == []
    taken = await client.post(path_of(trade), json=body, headers=stranger.headers())
    assert taken.status_code == 404
    no_seller = await client.post(path_of(trade), json=body, headers=trade.buyer.headers())
    assert no_seller.json()["code"] == "role_required"
    hidden = await client.get(
        f"/v1/agreements/{trade.id}/proxy-violations", headers=stranger.headers()
    )
    assert hidden.status_code == 404
    operator = await make_party(kernel, Role.OPERATOR)
    seen = await client.get(place, headers=operator.headers())
    assert seen.json() == made
    unknown = show("ups", new_id())
    lost = await client.get(f"/v1/upstreams/{unknown}", headers=operator.headers())
    assert lost.status_code == 404


async def test_a_secret_follows_its_host_and_never_another(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel, unit="call", lots=1, lot_units=1)
    made = (await register(client, trade, secret=KEY)).json()
    place = f"/v1/upstreams/{made['id']}"

    async def replace(revision: int, base_url: str) -> Any:
        body = {"base_url": base_url, "operations": [operation()], "secret": KEY}
        headers = {**trade.seller.headers(), "If-Match": f'"{revision}"'}
        return (await client.put(place, json=body, headers=headers)).json()

    secret = await client.put(
        f"{place}/secret", json={"value": SECRET}, headers=trade.seller.headers()
    )
    assert secret.json()["secret_number"] == 1
    assert SECRET not in secret.text
    assert (await replace(1, "https://api.example.com/v3"))["secret_number"] == 1
    assert (await replace(1, "https://api.example.com"))["code"] == "stale_version"
    moved = await replace(2, "https://other.example.com/v3")
    assert (moved["secret_number"], moved["revision"]) == (None, 3)
    async with kernel.unit_of_work() as uow:
        assert await uow.session.get(UpstreamSecret, parse("ups", made["id"])) is None


@pytest.mark.parametrize("value", ["", "two words", "new\nline", "ключ", "x" * 4_097])
async def test_secrets_that_no_header_carries(
    client: httpx.AsyncClient, trade: Trade, value: str
) -> None:
    place = f"/v1/upstreams/{show('ups', new_id())}/secret"
    answer = await client.put(place, json={"value": value}, headers=trade.seller.headers())
    assert answer.status_code == 422
    assert answer.json()["code"] == "validation_failed"
    if len(value) > 1:
        assert value not in answer.text


async def test_secrets_are_rewrapped_under_a_new_key(
    make_offer: MakeOffer, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = await make_offer(x=servers.json_of([]))
    await offer.register(operation(), secret=KEY)
    await offer.set_secret()
    old = sealing.envelope_of(kernel)
    both = Envelope({**{"1": old._keys[bytes.fromhex(old.current)]}, "2": bytes(range(32))})
    monkeypatch.setitem(kernel.services, sealing.load_envelope, both)
    assert await secrets.rewrap(kernel) >= 1
    assert await secrets.rewrap(kernel) == 0
    alone = Envelope({"2": bytes(range(32))})
    monkeypatch.setitem(kernel.services, sealing.load_envelope, alone)
    assert (await offer.call()).status_code == 200
    assert offer.server.asked[0].headers["x-key"] == SECRET
    monkeypatch.setitem(kernel.services, sealing.load_envelope, old)
    assert (await offer.call()).json()["code"] == "secrets_unavailable"
    monkeypatch.setitem(kernel.services, sealing.load_envelope, both)
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(UpstreamSecret, parse("ups", offer.upstream_id))
        assert row is not None
        row.sealed, row.key_id = old.seal(b"x", context=b"elsewhere"), both.current
    assert (await offer.call()).json()["code"] == "secrets_unavailable"


async def test_test_calls_say_how_it_went_but_not_what_was_answered(
    make_offer: MakeOffer,
) -> None:
    offer = await make_offer(
        good=servers.json_of({"inside": "hush"}),
        wrong=servers.json_of({"inside": "hush"}),
        gone=servers.plain(b"hush", status=500),
    )
    number = {"properties": {"inside": {"type": "integer"}}}
    await offer.register(operation("good"), operation("wrong", answer=number), operation("gone"))

    async def attempt(name: str, **body: Any) -> httpx.Response:
        answer = await offer.client.post(
            f"/v1/upstreams/{offer.upstream_id}/test-calls",
            json={"operation": name, **body},
            headers=offer.trade.seller.headers(),
        )
        assert "hush" not in answer.text
        return answer

    good = (await attempt("good")).json()
    assert (good["ok"], good["upstream_status"], good["byte_count"]) == (True, 200, 18)
    wrong = (await attempt("wrong")).json()
    assert (wrong["ok"], wrong["problem"]) == (False, "upstream_answer_invalid")
    assert wrong["findings"][0]["path"] == "/inside"
    gone = (await attempt("gone")).json()
    assert (gone["problem"], gone["upstream_status"]) == ("upstream_failed", 500)
    assert (await attempt("nothing")).json()["code"] == "operation_not_found"
    refused = await attempt("good", parameters={"a": 1})
    assert refused.json()["code"] == "parameters_invalid"
    assert await offer.violations() == []


async def test_violations_are_attached_to_a_dispute(make_offer: MakeOffer) -> None:
    offer = await make_offer(x=servers.plain(b"not json"))
    await offer.register(operation())
    for _ in range(2):
        assert (await offer.call()).status_code == 502
    newest = (await offer.violations())[0]["id"]
    opened = await offer.client.post(
        "/v1/disputes",
        json={"agreement_id": offer.trade.id, "reason": "incomplete", "claim": claim()},
        headers=offer.trade.buyer.headers(),
    )
    assert opened.status_code == 201, opened.text
    place = f"/v1/disputes/{opened.json()['id']}/evidence"
    headers = offer.trade.buyer.headers()
    listed = (await offer.client.get(place, headers=headers)).json()["items"]
    (piece,) = [row for row in listed if row["kind"] == "schema_diff"]
    assert piece["side"] == "system"
    content = await offer.client.get(f"{place}/{piece['id']}/content", headers=headers)
    assert content.json()["count"] == 2
    assert content.json()["newest"][0]["violation"] == newest


async def test_kept_answers_end(make_offer: MakeOffer, kernel: Kernel) -> None:
    offer = await make_offer(x=servers.json_of([]))
    await offer.register(operation())
    assert (await offer.call(Delivery_Id="call-0001")).status_code == 200
    await prune(kernel)
    count = "SELECT count(*) FROM contracts.proxy_answer WHERE grant_id = $1"
    over = (
        "UPDATE contracts.proxy_answer SET kept_until = now() - interval '1 s' WHERE grant_id = $1"
    )
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        assert await connection.fetchval(count, offer.trade.grant_id) == 1
        await connection.execute(over, offer.trade.grant_id)
    assert await prune(kernel) == 1
