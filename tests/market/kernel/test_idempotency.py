"""Idempotency-Key on a real route: one effect, one answer, refusals included, races too."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.errors import Conflict
from market.kernel.http import IdempotentRoute, KernelDep, install_errors
from market.kernel.ids import new_id
from market.kernel.middleware import RequestContext
from market.kernel.schemas import Schema
from market.kernel.security import sha256_hex

PARTY = UUID(int=7)


class Body(Schema):
    n: int
    wait_s: float = 0.0
    refuse: bool = False
    forget: bool = False
    secret: bool = False


class Done(Schema):
    n: int
    effect: str


class Refused(Conflict):
    code = "test_refused"
    title = "No"


router = APIRouter(route_class=IdempotentRoute)


@router.post("/do", status_code=201)
async def do(kernel: KernelDep, body: Body) -> Done:
    idempotency.bind_scope(PARTY)
    effect = new_id()
    async with kernel.unit_of_work() as uow:
        uow.emit("test.effect", effect, {"n": body.n})
        await asyncio.sleep(body.wait_s)
        done = Done(n=body.n, effect=effect.hex)
        if body.refuse:
            raise Refused(f"n is {body.n}")
        if not body.forget:
            headers = {"Location": f"/do/{effect.hex}"}
            await uow.answer(done, headers=headers, secret=body.secret)
    return done


@router.post("/stream", status_code=201, openapi_extra={"x-streamed": True})
async def stream(kernel: KernelDep, request: Request) -> Done:
    idempotency.bind_scope(PARTY)
    content = b"".join([chunk async for chunk in request.stream()])
    idempotency.bind_content(bytes.fromhex(sha256_hex(content)))
    effect = new_id()
    async with kernel.unit_of_work() as uow:
        uow.emit("test.effect", effect, {"n": len(content)})
        done = Done(n=len(content), effect=effect.hex)
        await uow.answer(done)
    return done


@pytest.fixture(scope="module")
async def http(kernel: Kernel) -> AsyncIterator[httpx.AsyncClient]:
    small = FastAPI()
    small.state.kernel = kernel
    small.include_router(router)
    install_errors(small)
    small.add_middleware(RequestContext)
    transport = httpx.ASGITransport(app=small, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://market.test") as client:
        yield client


async def effects(kernel: Kernel) -> int:
    async with kernel.unit_of_work() as uow:
        count: int = await (await uow.raw()).fetchval(
            "SELECT count(*) FROM kernel.outbox WHERE type = 'test.effect'"
        )
    return count


def fresh() -> dict[str, str]:
    return {"Idempotency-Key": f"key-{new_id().hex}"}


async def test_replay_is_byte_equal_and_has_no_effect(
    http: httpx.AsyncClient, kernel: Kernel
) -> None:
    before, headers = await effects(kernel), fresh()
    first = await http.post("/do", json={"n": 1}, headers=headers)
    again = await http.post("/do", json={"n": 1}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert first.headers["location"] == again.headers["location"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert await effects(kernel) == before + 1


async def test_other_body_is_refused(http: httpx.AsyncClient, kernel: Kernel) -> None:
    headers = fresh()
    await http.post("/do", json={"n": 1}, headers=headers)
    before = await effects(kernel)
    other = await http.post("/do", json={"n": 2}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await effects(kernel) == before


async def test_refusals_are_remembered_and_change_nothing(
    http: httpx.AsyncClient, kernel: Kernel
) -> None:
    before, headers = await effects(kernel), fresh()
    first = await http.post("/do", json={"n": 3, "refuse": True}, headers=headers)
    again = await http.post("/do", json={"n": 3, "refuse": True}, headers=headers)
    assert (first.status_code, first.json()["code"]) == (409, "test_refused")
    assert first.headers["content-type"] == "application/problem+json"
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    assert await effects(kernel) == before


async def test_running_duplicate_is_409_then_replayed(
    http: httpx.AsyncClient, kernel: Kernel
) -> None:
    before, headers = await effects(kernel), fresh()
    body = {"n": 4, "wait_s": 0.5}
    first = asyncio.create_task(http.post("/do", json=body, headers=headers))
    await asyncio.sleep(0.2)
    second = await http.post("/do", json=body, headers=headers)
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_key_in_use")
    assert second.headers["retry-after"] == "1"
    assert (await first).status_code == 201
    third = await http.post("/do", json=body, headers=headers)
    assert third.content == (await first).content
    assert await effects(kernel) == before + 1


async def test_twenty_at_once_have_one_effect(http: httpx.AsyncClient, kernel: Kernel) -> None:
    before, headers = await effects(kernel), fresh()
    answers = await asyncio.gather(
        *(http.post("/do", json={"n": 5, "wait_s": 0.05}, headers=headers) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert await effects(kernel) == before + 1


async def test_secret_answers_are_encrypted_at_rest(
    http: httpx.AsyncClient, kernel: Kernel
) -> None:
    headers = fresh()
    first = await http.post("/do", json={"n": 6, "secret": True}, headers=headers)
    again = await http.post("/do", json={"n": 6, "secret": True}, headers=headers)
    assert first.content == again.content
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            "SELECT body, encrypted FROM kernel.idempotent_answer WHERE key_hash = $1",
            idempotency.hash_key(headers["Idempotency-Key"]),
        )
    assert row is not None
    assert row["encrypted"] is True
    assert first.json()["effect"].encode() not in row["body"]


@pytest.mark.parametrize("key", [None, "short", "x" * 256, "with space!", "tab\tkey-00"])
async def test_key_is_required_and_formed(http: httpx.AsyncClient, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = await http.post("/do", json={"n": 1}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "idempotency_key_required")
    assert answer.json()["param"] == "Idempotency-Key"


async def test_a_post_that_forgets_its_answer_is_our_error(http: httpx.AsyncClient) -> None:
    answer = await http.post("/do", json={"n": 1, "forget": True}, headers=fresh())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")


async def test_streamed_body_is_part_of_the_request(
    http: httpx.AsyncClient, kernel: Kernel
) -> None:
    before, headers = await effects(kernel), fresh()
    first = await http.post("/stream", content=b"abc", headers=headers)
    again = await http.post("/stream", content=b"abc", headers=headers)
    other = await http.post("/stream", content=b"abd", headers=headers)
    assert (first.status_code, again.content) == (201, first.content)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert await effects(kernel) == before + 1


async def test_batch_store_and_lookup(kernel: Kernel) -> None:
    key = f"key-{new_id().hex}"
    entry = idempotency.Entry(PARTY, key, b"r" * 32, idempotency.Answer(201, b"{}", {"A": "b"}))
    other = idempotency.Entry(PARTY, key, b"r" * 32, idempotency.Answer(409, b"[]"))
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        assert await idempotency.store(raw, [entry]) == 1
        assert await idempotency.store(raw, [other]) == 0
        assert await idempotency.store(raw, []) == 0
        found = await idempotency.lookup(raw, [(PARTY, key), (PARTY, "unknown-key")])
    assert found == {(PARTY, idempotency.hash_key(key)): (b"r" * 32, entry.answer)}
