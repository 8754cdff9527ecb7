"""Many commands in one request: queued together, each durable and answered for itself."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.http import problem_body
from market.kernel.idempotency import Answer, Claim, KeyReused
from market.kernel.ids import new_id
from market.kernel.security import Actor, Role
from market.matching.batch_schemas import AmendItem, BatchItem, OrderBatch, PlaceItem
from market.matching.commands import Amend, Cancel, Command, Place, Reply
from market.matching.engine import MatchingEngine
from market.matching.models import OrderSide

# No key of a request has it, so the key of an item never meets one.
_KEY_SEPARATOR = "\n"
_REFUSED_FROM = 400
_RETRY_AFTER = "Retry-After"


async def submit_batch(
    kernel: Kernel, engine: MatchingEngine, actor: Actor, body: OrderBatch, *, request_id: str
) -> Answer:
    """Carry out all items in their order; the answer (200) tells what became of each.

    A refused item does not stop the others. Each has a key of its own under the request's, so
    that the same request again repeats the answers, and carries out only what a 503 left open.
    Raises KeyReused (422) when the key belongs to another request, and DatabaseUnavailable (503)
    before anything has happened.
    """
    claim = idempotency.take()
    if claim is None:
        claim = Claim(f"engine-batch:{new_id().hex}", bytes(32), actor.party_id)
    else:
        await _bind(kernel, claim)
    refused: dict[int, MarketError] = {}
    commands: list[Command] = []
    for index, item in enumerate(body.items):
        try:
            actor.require(*_roles(item))
        except MarketError as refusal:
            refused[index] = refusal
        else:
            key = f"{claim.key}{_KEY_SEPARATOR}{index}"
            commands.append(_command(item, actor.party_id, key, claim.request_hash, request_id))
    answered = iter(await engine.submit_all(commands))
    results = [
        refused[index] if index in refused else next(answered) for index in range(len(body.items))
    ]
    return _answer(results, request_id)


async def _bind(kernel: Kernel, claim: Claim) -> None:
    """Bind the key to this request, before any item takes effect. Raises KeyReused (422)."""
    entry = idempotency.Entry(claim.scope, claim.key, claim.request_hash, Answer(200, b""))
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        if await idempotency.store(connection, [entry]):
            return
        found = await idempotency.lookup(connection, [(claim.scope, claim.key)])
    if [request_hash for request_hash, _ in found.values()] != [claim.request_hash]:
        raise KeyReused(param="Idempotency-Key")


def _roles(item: BatchItem) -> tuple[Role, ...]:
    if not isinstance(item, PlaceItem):
        return Role.BUYER, Role.SELLER
    return (Role.BUYER if item.order.side is OrderSide.BUY else Role.SELLER,)


def _command(
    item: BatchItem, party_id: UUID, key: str, request_hash: bytes, request_id: str
) -> Command:
    if isinstance(item, PlaceItem):
        return Place(party_id, key, request_hash, item.order, request_id)
    if isinstance(item, AmendItem):
        return Amend(party_id, key, request_hash, item.order_id, item.terms, request_id)
    return Cancel(party_id, item.order_id, request_id, key, request_hash)


def _answer(results: Sequence[Reply | MarketError], request_id: str) -> Answer:
    """The engine's bytes of each item, put together as an OrderBatchResult."""
    parts: list[bytes] = []
    headers: dict[str, str] = {}
    replayed = True
    for index, result in enumerate(results):
        if isinstance(result, Reply):
            status, document = result.answer.status, result.answer.body
            given = result.answer.headers
        else:
            status, document = result.status, problem_body(result, request_id)
            given = result.headers
        replayed = replayed and isinstance(result, Reply) and result.replayed
        if _RETRY_AFTER in given:
            headers[_RETRY_AFTER] = given[_RETRY_AFTER]
        name = b"order" if status < _REFUSED_FROM else b"problem"
        parts.append(b'{"index":%d,"status":%d,"%b":%b}' % (index, status, name, document))
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return Answer(200, b'{"items":[' + b",".join(parts) + b"]}", headers)
