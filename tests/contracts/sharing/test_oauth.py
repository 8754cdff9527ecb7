"""Delta Sharing by OAuth client credentials: the token endpoint, and the official client on it."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.sharing import oauth, oauth_endpoints
from contracts.sharing.oauth_endpoints import TOKEN_PATH
from contracts.token_keys import mint_key
from contracts.token_limits import WayOut
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from tests.contracts.factories import Trade, bearer, make_trade, settled
from tests.contracts.sharing.conftest import charged
from tests.contracts.sharing.official_client import use
from tests.contracts.sharing.test_files import query
from tests.contracts.test_token_keys import rotate
from tests.contracts.test_token_limits import COUNT, ROWS, SHARES, mint, read
from tests.contracts.test_token_questions import ask

PROFILE = "/v1/delta-sharing/profile/oauth"
GRANT = {"grant_type": "client_credentials"}


async def key_of(client: httpx.AsyncClient, trade: Trade, **limits: Any) -> dict[str, Any]:
    return await mint(client, trade, form="key", **limits)


async def exchange(
    client: httpx.AsyncClient, minted: dict[str, Any], **fields: str
) -> httpx.Response:
    credentials = {"client_id": minted["id"], "client_secret": minted["token"]}
    return await client.post(TOKEN_PATH, data={**GRANT, **credentials, **fields})


async def access_of(client: httpx.AsyncClient, minted: dict[str, Any]) -> str:
    answer = await exchange(client, minted)
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["access_token"]
    return token


def basic(client_id: str, secret: str) -> dict[str, str]:
    text = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
    return {"Authorization": f"Basic {text}"}


async def test_a_key_becomes_a_token_of_fifteen_minutes(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    minted = await key_of(client, trade, ttl_s=86_400)
    by_form = await exchange(client, minted)
    by_basic = await client.post(
        TOKEN_PATH, data=GRANT, headers=basic(minted["id"], minted["token"])
    )
    for answer in (by_form, by_basic):
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["pragma"] == "no-cache"
        access = answer.json()
        assert (access["token_type"], access["expires_in"]) == ("Bearer", 900)
        assert access["scope"].split() == [each.value for each in WayOut]
        assert (await read(client, access["access_token"], limit=1))[0] == 200
        found = await ask(client, trade.buyer, access["access_token"])
        assert (found["active"], found["jti"]) == (True, minted["id"])
        assert isinstance(found["exp"], int)
        assert 0 < found["exp"] - kernel.clock.timestamp_s() <= 900


@pytest.mark.parametrize(
    ("fields", "headers", "status", "error"),
    [
        ({"client_secret": mint_key()}, {}, 401, "invalid_client"),
        ({"client_secret": "junk"}, {}, 401, "invalid_client"),
        ({"client_id": show("tok", new_id())}, {}, 401, "invalid_client"),
        ({"client_id": "junk"}, {}, 401, "invalid_client"),
        ({"client_secret": ""}, {}, 401, "invalid_client"),
        ({"grant_type": "password"}, {}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, {}, 400, "invalid_request"),
        ({"scope": "rows admin"}, {}, 400, "invalid_scope"),
        ({}, basic("tok_x", "y"), 400, "invalid_request"),
        ({}, {"Content-Type": "application/json"}, 400, "invalid_request"),
    ],
)
async def test_refusals_are_those_of_rfc_6749(
    client: httpx.AsyncClient,
    trade: Trade,
    fields: dict[str, str],
    headers: dict[str, str],
    status: int,
    error: str,
) -> None:
    minted = await key_of(client, trade)
    form = {**GRANT, "client_id": minted["id"], "client_secret": minted["token"], **fields}
    answer = await client.post(TOKEN_PATH, data=form, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["error"]) == (status, error)
    assert problem["error_description"]
    assert ("www-authenticate" in answer.headers) is (status == 401)


async def test_a_signed_token_is_no_secret_and_another_s_key_no_match(
    client: httpx.AsyncClient, trade: Trade
) -> None:
    signed, key, other = (
        await mint(client, trade),
        await key_of(client, trade),
        await key_of(client, trade),
    )
    for wrong in (signed, {**key, "id": other["id"]}, {**key, "token": other["token"]}):
        assert (await exchange(client, wrong)).json()["error"] == "invalid_client"
    assert (await exchange(client, key, scope="sharing")).status_code == 200


async def test_limits_and_quota_hold_for_what_a_key_is_exchanged_for(
    client: httpx.AsyncClient, kernel: Kernel, trade: Trade
) -> None:
    limits: dict[str, Any] = {"operations": ["rows", "sharing"], "fields": ["id"], "quota": 3}
    minted = await key_of(client, trade, **limits)
    before = await settled(kernel, trade)
    first, second = await access_of(client, minted), await access_of(client, minted)
    assert (await exchange(client, minted)).json()["scope"] == "rows sharing"
    assert await read(client, first, COUNT) == (403, "token_operation_refused")
    assert await read(client, first, select="delay") == (403, "token_field_refused")
    assert (await read(client, first, limit=2))[0] == 200
    assert await read(client, second, limit=2) == (402, "token_quota_exhausted")
    assert await read(client, minted["token"], limit=2) == (402, "token_quota_exhausted")
    assert (await read(client, second, limit=1))[0] == 200
    assert await settled(kernel, trade) == before + 3


async def test_revocation_ends_secret_and_tokens_at_once(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel)
    minted = await key_of(client, trade)
    access = await access_of(client, minted)
    assert (await read(client, access, limit=1))[0] == 200
    path = f"/v1/tokens/{minted['id']}"
    assert (await client.delete(path, headers=trade.buyer.headers())).status_code == 204
    for where in (ROWS, SHARES, "/v1/delta-sharing/profile"):
        assert await read(client, access, where) == (410, "token_revoked")
    assert (await exchange(client, minted)).json()["error"] == "invalid_client"
    assert (await ask(client, trade.buyer, access))["active"] is False


async def test_rotation_changes_the_secret(client: httpx.AsyncClient, trade: Trade) -> None:
    old = await key_of(client, trade)
    new = (await rotate(client, trade, old["id"], 60)).json()
    assert (await exchange(client, new)).json()["expires_in"] == 900
    assert 0 < (await exchange(client, old)).json()["expires_in"] <= 60
    last = (await rotate(client, trade, new["id"], 0)).json()
    assert (await exchange(client, new)).status_code == 401
    assert (await exchange(client, last)).status_code == 200


async def test_a_token_ends_and_the_next_goes_on_until_the_key_ends(
    wire: httpx.AsyncClient, kernel: Kernel, trade: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    minted = await key_of(wire, trade, ttl_s=7_200)
    access = await access_of(wire, minted)
    file = await query(wire, trade, access, limitHint=5)
    # A link outlives the short token, as it does the key's own requests.
    assert file["expirationTimestamp"] > (kernel.clock.timestamp_s() + 3_000) * 1_000
    now_s = kernel.clock.timestamp_s
    with monkeypatch.context() as patch:
        patch.setattr(kernel.clock, "timestamp_s", lambda: now_s() + 901)
        assert await read(wire, access, limit=1) == (410, "token_expired")
        assert await read(wire, access, SHARES) == (401, "token_expired")
        assert (await read(wire, await access_of(wire, minted), SHARES))[0] == 200
        assert (await wire.get(file["url"])).status_code == 200


def saved(answer: httpx.Response, path: Path) -> Path:
    assert answer.status_code == 200, answer.text
    assert "attachment" in answer.headers["content-disposition"]
    path.write_text(json.dumps(answer.json()))
    return path


async def test_only_a_key_has_this_profile(
    wire: httpx.AsyncClient, trade: Trade, token: str
) -> None:
    assert await read(wire, token, PROFILE) == (400, "sharing_request_invalid")
    key = await key_of(wire, trade)
    _, found = await read(wire, key["token"], PROFILE)
    assert (found["shareCredentialsVersion"], found["type"]) == (2, "oauth_client_credentials")
    assert (found["clientId"], found["clientSecret"]) == (key["id"], key["token"])
    assert found["tokenEndpoint"] == f"{found['endpoint']}/oauth/token"


async def test_the_official_client_by_oauth(
    wire: httpx.AsyncClient, kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade = await make_trade(kernel)
    minted = await key_of(wire, trade)
    answer = await wire.get(PROFILE, headers=bearer(minted["token"]))
    path = saved(answer, tmp_path / "oauth.share")
    asked: list[str] = []

    async def counted(*arguments: Any, **named: Any) -> oauth.DeliveryAccess:
        access = await oauth.exchange(*arguments, **named)
        asked.append(access.access_token)
        return access

    monkeypatch.setattr(oauth_endpoints, "exchange", counted)
    tables, loaded, again = await use(
        path, ("all_tables", {}), ("load", {"limit": 10}), ("load", {"limit": 5})
    )
    assert tables == {"answer": [f"{trade.grant}.data.flight_records"]}
    assert (loaded["answer"]["rows"], again["answer"]["rows"]) == (10, 5)
    # One token serves all calls of a process.
    assert len(asked) == 1
    # With less than ten minutes left the client fetches another one before each call.
    monkeypatch.setattr(oauth, "ACCESS_TTL_S", 60)
    (short,) = await use(path, ("load", {"limit": 7}))
    assert short["answer"]["rows"] == 7
    assert len(asked) > 2
    units = 10 + 5 + 7
    assert await charged(kernel, trade, units) == units
    headers = trade.buyer.headers()
    assert (await wire.delete(f"/v1/tokens/{minted['id']}", headers=headers)).status_code == 204
    (revoked,) = await use(path, ("load", {"limit": 1}))
    assert (revoked["error"], "401" in revoked["text"]) == ("HTTPError", True)
    assert await charged(kernel, trade, units) == units
