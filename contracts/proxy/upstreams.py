"""Upstreams: a seller registers the API behind a product, replaces it, retires it."""

from __future__ import annotations

import time
from typing import Final
from uuid import UUID

from sqlmodel import col, select

from contracts.outbound.base_urls import BaseUrlRefused, checked_base
from contracts.proxy import json_schemas, secrets
from contracts.proxy.errors import (
    OperationInvalid,
    SecretInvalid,
    UpstreamExists,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamRetired,
)
from contracts.proxy.models import Upstream, UpstreamSecret, UpstreamStatus
from contracts.proxy.schemas import (
    CHECKED_MAX_BYTES,
    Operation,
    SecretPlace,
    UpstreamInput,
    UpstreamView,
)
from contracts.proxy.templates import checked_path
from listings.products import lock_own_product
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.http import require_version
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, require_verified

# What the client of an upstream says itself, and what would change how the message is read.
_HEADERS_TAKEN: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "delivery-id",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)


async def register(
    kernel: Kernel, actor: Actor, product_id: UUID, body: UpstreamInput
) -> UpstreamView:
    """Put an API behind the actor's own product.

    Raises RoleRequired, PartyNotVerified (403), ProductNotFound (404), UpstreamExists (409),
    UpstreamInvalid, OperationInvalid, SchemaInvalid (422). Nothing is dialed. Emits
    ``upstream.registered``.
    """
    actor.require(Role.SELLER)
    base_url, operations = await _checked(kernel, body)
    async with kernel.unit_of_work() as uow:
        await lock_own_product(uow, actor, product_id)
        await require_verified(uow, actor.party_id)
        query = select(Upstream.id).where(
            Upstream.product_id == product_id, Upstream.status == UpstreamStatus.ACTIVE
        )
        if (await uow.session.exec(query)).first() is not None:
            raise UpstreamExists
        row = Upstream(
            id=new_id(),
            product_id=product_id,
            owner_id=actor.party_id,
            base_url=base_url,
            secret=None if body.secret is None else body.secret.model_dump(mode="json"),
            operations=[operation.model_dump(mode="json") for operation in operations],
            status=UpstreamStatus.ACTIVE,
            revision=1,
            created_at=uow.now,
            updated_at=uow.now,
        )
        uow.session.add(row)
        _emit(uow, row, "upstream.registered")
        view = view_of(row, None)
        location = f"/v1/upstreams/{show('ups', row.id)}"
        await uow.answer(view, headers={"Location": location})
    return view


async def replace(
    kernel: Kernel, actor: Actor, upstream_id: UUID, body: UpstreamInput, *, revision: int
) -> UpstreamView:
    """Change address and operations from the next call on.

    The stored secret stays when its place is the same and the host too; otherwise it is dropped,
    because it was given for that host. Raises UpstreamNotFound (404), UpstreamRetired (409),
    PreconditionFailed (412), and as :func:`register`. Emits ``upstream.replaced``.
    """
    base_url, operations = await _checked(kernel, body)
    async with kernel.unit_of_work() as uow:
        row = await _lock(uow, actor, upstream_id)
        require_version(revision, row.revision)
        place = None if body.secret is None else body.secret.model_dump(mode="json")
        if place != row.secret or _origin(base_url) != _origin(row.base_url):
            await secrets.drop(uow, row.id)
            await uow.session.flush()
        row.base_url, row.secret = base_url, place
        row.operations = [operation.model_dump(mode="json") for operation in operations]
        row.revision += 1
        row.updated_at = uow.now
        _emit(uow, row, "upstream.replaced")
        await uow.session.flush()
        return view_of(row, await uow.session.get(UpstreamSecret, row.id))


async def retire(kernel: Kernel, actor: Actor, upstream_id: UUID) -> UpstreamView:
    """End an upstream for good; its secret is deleted. Repeating it changes nothing.

    Raises UpstreamNotFound (404). Emits ``upstream.retired``.
    """
    async with kernel.unit_of_work() as uow:
        row = await _lock(uow, actor, upstream_id, retired=True)
        if row.status == UpstreamStatus.ACTIVE:
            await secrets.drop(uow, row.id)
            row.status = UpstreamStatus.RETIRED
            row.retired_at = row.updated_at = uow.now
            row.revision += 1
            _emit(uow, row, "upstream.retired")
            await uow.session.flush()
        view = view_of(row, None)
        await uow.answer(view, status=200)
    return view


async def set_secret(kernel: Kernel, actor: Actor, upstream_id: UUID, value: str) -> UpstreamView:
    """Set or rotate the secret; it cannot be read again, and the one before is overwritten.

    Raises UpstreamNotFound (404), UpstreamRetired (409), SecretInvalid (422),
    SecretsUnavailable (503). Emits ``upstream.secret_set``, without the secret.
    """
    async with kernel.unit_of_work() as uow:
        row = await _lock(uow, actor, upstream_id)
        if row.secret is None:
            raise SecretInvalid
        stored = await secrets.put(uow, kernel, row, value)
        _emit(uow, row, "upstream.secret_set")
        await uow.session.flush()
        return view_of(row, stored)


async def show_upstream(kernel: Kernel, actor: Actor, upstream_id: UUID) -> UpstreamView:
    """One upstream, for its seller and overseers. Raises UpstreamNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(Upstream, upstream_id)
        if row is None or not may_oversee(actor, row.owner_id):
            raise UpstreamNotFound(param="upstream_id")
        return view_of(row, await uow.session.get(UpstreamSecret, row.id))


async def list_upstreams(kernel: Kernel, actor: Actor, *, page: PageQuery) -> Page[UpstreamView]:
    """The actor's own upstreams, newest first; overseers see all. Raises BadCursor."""
    after = after_id(page)
    query = (
        select(Upstream, UpstreamSecret)
        .join(UpstreamSecret, col(UpstreamSecret.upstream_id) == col(Upstream.id), isouter=True)
        .order_by(col(Upstream.id).desc())
        .limit(page.limit + 1)
    )
    if after is not None:
        query = query.where(col(Upstream.id) < after)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        query = query.where(Upstream.owner_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        rows = list(await uow.session.exec(query))
        return Page[UpstreamView].of(
            [view_of(row, secret) for row, secret in rows],
            page.limit,
            [(row.id,) for row, _ in rows],
        )


async def own(
    uow: UnitOfWork, actor: Actor, upstream_id: UUID
) -> tuple[Upstream, UpstreamSecret | None]:
    """The actor's own active upstream. Raises UpstreamNotFound (404), UpstreamRetired (409)."""
    row = await uow.session.get(Upstream, upstream_id)
    if row is None or row.owner_id != actor.party_id:
        raise UpstreamNotFound(param="upstream_id")
    if row.status != UpstreamStatus.ACTIVE:
        raise UpstreamRetired
    return row, await uow.session.get(UpstreamSecret, row.id)


async def of_product(
    uow: UnitOfWork, product_id: UUID
) -> tuple[Upstream, UpstreamSecret | None] | None:
    """The active upstream behind a product, with its sealed secret."""
    query = (
        select(Upstream, UpstreamSecret)
        .join(UpstreamSecret, col(UpstreamSecret.upstream_id) == col(Upstream.id), isouter=True)
        .where(Upstream.product_id == product_id, Upstream.status == UpstreamStatus.ACTIVE)
    )
    found = (await uow.session.exec(query)).one_or_none()
    return None if found is None else (found[0], found[1])


def operations_of(row: Upstream) -> dict[str, Operation]:
    """An upstream's operations by name."""
    operations = [Operation.model_validate(stored) for stored in row.operations]
    return {operation.name: operation for operation in operations}


def view_of(row: Upstream, secret: UpstreamSecret | None) -> UpstreamView:
    """The API shape of an upstream; of its secret only that there is one."""
    return UpstreamView(
        id=row.id,
        product_id=row.product_id,
        owner_id=row.owner_id,
        base_url=row.base_url,
        secret=None if row.secret is None else SecretPlace.model_validate(row.secret),
        secret_number=None if secret is None else secret.number,
        secret_set_at=None if secret is None else secret.set_at,
        operations=list(operations_of(row).values()),
        status=row.status,
        revision=row.revision,
        created_at=row.created_at,
        updated_at=row.updated_at,
        retired_at=row.retired_at,
    )


async def _lock(
    uow: UnitOfWork, actor: Actor, upstream_id: UUID, *, retired: bool = False
) -> Upstream:
    query = select(Upstream).where(Upstream.id == upstream_id).with_for_update()
    row = (await uow.session.exec(query)).one_or_none()
    if row is None or row.owner_id != actor.party_id:
        raise UpstreamNotFound(param="upstream_id")
    if row.status != UpstreamStatus.ACTIVE and not retired:
        raise UpstreamRetired
    return row


def _emit(uow: UnitOfWork, row: Upstream, type_: str) -> None:
    data = {"upstream_id": show("ups", row.id), "product_id": show("prd", row.product_id)}
    uow.emit(type_, row.id, data, parties=[row.owner_id])


def _origin(base_url: str) -> str:
    return "/".join(base_url.split("/", 3)[:3])


async def _checked(kernel: Kernel, body: UpstreamInput) -> tuple[str, list[Operation]]:
    """What will be stored, or UpstreamInvalid, OperationInvalid, SchemaInvalid (422)."""
    settings = kernel.settings
    try:
        base_url = checked_base(
            body.base_url, sandbox=settings.is_sandbox, loopback=settings.upstream_loopback
        )
    except BaseUrlRefused as error:
        raise UpstreamInvalid(str(error), param="base_url") from error
    secret = body.secret
    if secret is not None and secret.place == "header" and secret.name.lower() in _HEADERS_TAKEN:
        raise UpstreamInvalid("This header is the exchange's own.", param="secret.name")
    names = [operation.name for operation in body.operations]
    if len(set(names)) < len(names):
        raise UpstreamInvalid("Each operation has a name of its own.", param="operations")
    until = time.monotonic() + json_schemas.CHECK_S
    operations = [
        await _operation(operation, secret, param=f"operations.{number}", deadline=until)
        for number, operation in enumerate(body.operations)
    ]
    return base_url, operations


async def _operation(
    operation: Operation, secret: SecretPlace | None, *, param: str, deadline: float
) -> Operation:
    parameters = await json_schemas.checked(
        operation.parameters, param=f"{param}.parameters", deadline=deadline
    )
    properties = parameters.get("properties")
    known = properties if isinstance(properties, dict) else {}
    if parameters.get("type") != "object":
        raise OperationInvalid("The type of parameters is object.", param=f"{param}.parameters")
    if secret is not None and secret.place == "query" and secret.name in known:
        raise OperationInvalid("The secret has this name.", param=f"{param}.parameters")
    checked_path(operation.path, parameters, param=f"{param}.path")
    answer = operation.answer
    if answer is not None:
        if operation.stream or operation.media_type != "application/json":
            raise OperationInvalid(
                "Only JSON that is not streamed can be checked.", param=f"{param}.answer"
            )
        answer = await json_schemas.checked(answer, param=f"{param}.answer", deadline=deadline)
    if operation.stream and operation.cache_ttl_s:
        raise OperationInvalid("A stream is not cached.", param=f"{param}.cache_ttl_s")
    if operation.method != "GET" and operation.cache_ttl_s:
        raise OperationInvalid("Only GET is cached.", param=f"{param}.cache_ttl_s")
    if not operation.stream and operation.max_bytes > CHECKED_MAX_BYTES:
        raise OperationInvalid(
            f"An answer that is not streamed has at most {CHECKED_MAX_BYTES} bytes.",
            param=f"{param}.max_bytes",
        )
    return operation.model_copy(update={"parameters": parameters, "answer": answer})
