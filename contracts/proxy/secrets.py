"""Secrets of upstreams: set by the seller, sealed, used, never shown."""

from __future__ import annotations

from uuid import UUID

from contracts.outbound import sealing
from contracts.proxy.models import Upstream, UpstreamSecret
from contracts.proxy.schemas import SecretPlace
from contracts.proxy.templates import Injected
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork


async def put(uow: UnitOfWork, kernel: Kernel, upstream: Upstream, value: str) -> UpstreamSecret:
    """Set or rotate the secret of a locked upstream: the one before is overwritten."""
    envelope = sealing.envelope_of(kernel)
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
    opened = sealing.envelope_of(kernel).open(row.sealed, context=upstream.id.bytes).decode()
    return Injected(place.place, place.name, place.prefix + opened, opened)


async def drop(uow: UnitOfWork, upstream_id: UUID) -> None:
    """Forget the secret of a retired upstream."""
    row = await uow.session.get(UpstreamSecret, upstream_id)
    if row is not None:
        await uow.session.delete(row)


async def rewrap(kernel: Kernel) -> int:
    """Wrap up to 100 of them under the newest key. Raises SecretsUnavailable (503)."""
    return await sealing.rewrap(kernel, UpstreamSecret)
