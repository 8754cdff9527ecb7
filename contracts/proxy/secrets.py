"""Secrets of upstreams: set by the seller, sealed, used, never shown."""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts.proxy.models import Upstream, UpstreamSecret
from contracts.proxy.schemas import SecretPlace
from contracts.proxy.templates import Injected
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.envelope import Envelope

_REWRAP_BATCH = 100


def envelope_of(kernel: Kernel) -> Envelope:
    """This process's envelope. Raises SecretsUnavailable (503) when the operator gave no key."""
    return kernel.service(load_envelope)


def load_envelope(kernel: Kernel) -> Envelope:
    """The envelope of the operator's keys as they are now. Raises as :func:`envelope_of`."""
    folder = kernel.settings.secret_key_dir or kernel.settings.home / "secret-keys"
    return Envelope.load(folder, create=kernel.settings.is_sandbox)


async def put(uow: UnitOfWork, kernel: Kernel, upstream: Upstream, value: str) -> UpstreamSecret:
    """Set or rotate the secret of a locked upstream: the one before is overwritten."""
    envelope = envelope_of(kernel)
    sealed = envelope.seal(value.encode(), context=upstream.id.bytes)
    row = await uow.session.get(UpstreamSecret, upstream.id)
    if row is None:
        row = UpstreamSecret(
            upstream_id=upstream.id, number=0, key_id="", sealed=b"", set_at=uow.now
        )
        uow.session.add(row)
    row.number, row.key_id, row.sealed, row.set_at = (
        row.number + 1,
        envelope.current,
        sealed,
        uow.now,
    )
    return row


def injected(kernel: Kernel, upstream: Upstream, row: UpstreamSecret | None) -> Injected | None:
    """The secret in its place, None when the upstream takes none.

    ``row`` is its stored secret. Raises SecretsUnavailable (503).
    """
    if upstream.secret is None or row is None:
        return None
    place = SecretPlace.model_validate(upstream.secret)
    opened = envelope_of(kernel).open(row.sealed, context=upstream.id.bytes).decode()
    return Injected(place.place, place.name, place.prefix + opened, opened)


async def drop(uow: UnitOfWork, upstream_id: UUID) -> None:
    """Forget the secret of a retired upstream."""
    row = await uow.session.get(UpstreamSecret, upstream_id)
    if row is not None:
        await uow.session.delete(row)


async def rewrap(kernel: Kernel) -> int:
    """Wrap up to 100 secrets under the newest key, so that older ones can be retired."""
    async with kernel.unit_of_work() as uow:
        any_row = (await uow.session.exec(select(UpstreamSecret.upstream_id).limit(1))).first()
        if any_row is None:
            return 0
        envelope = envelope_of(kernel)
        query = (
            select(UpstreamSecret)
            .where(col(UpstreamSecret.key_id) != envelope.current)
            .order_by(col(UpstreamSecret.upstream_id))
            .limit(_REWRAP_BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = list(await uow.session.exec(query))
        for row in rows:
            row.sealed = envelope.rewrap(row.sealed, context=row.upstream_id.bytes)
            row.key_id = envelope.current
        return len(rows)
