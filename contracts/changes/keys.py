"""Declared keys: what the rows of a product's versions are known by."""

from __future__ import annotations

from uuid import UUID

from contracts.changes.errors import KeyInvalid
from contracts.changes.models import ProductKey
from contracts.changes.schemas import ProductKeyInput, ProductKeyView
from contracts.errors import ColumnUnknown
from listings.products import get_product, latest_version, lock_own_product
from listings.typed_columns import Family, columns_of
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.security import Actor

# NaN is not equal to itself everywhere, and nested values have no order.
_NO_KEY = frozenset({Family.FLOAT, Family.OTHER})


async def set_key(
    kernel: Kernel, actor: Actor, product_id: UUID, body: ProductKeyInput
) -> ProductKeyView:
    """Declare a product's key (its owner); an empty one takes it back.

    Raises ProductNotFound (404), KeyInvalid, ColumnUnknown (422).
    """
    if len(set(body.columns)) < len(body.columns):
        raise KeyInvalid("A column is named twice.", param="columns")
    async with kernel.unit_of_work() as uow:
        await lock_own_product(uow, actor, product_id)
        version = await latest_version(uow, product_id)
        known = {} if version is None else columns_of(version.columns)
        for name in body.columns:
            if name not in known:
                raise ColumnUnknown(f"There is no column {name!r}.", param="columns")
            if known[name].family in _NO_KEY:
                raise KeyInvalid(f"Column {name!r} cannot be part of a key.", param="columns")
        row = await uow.session.get(ProductKey, product_id)
        if not body.columns:
            if row is not None:
                await uow.session.delete(row)
            return _view(product_id, None)
        if row is None:
            row = ProductKey(product_id=product_id, columns=[], updated_at=uow.now)
            uow.session.add(row)
        row.columns, row.updated_at = list(body.columns), uow.now
        return _view(product_id, row)


async def show_key(kernel: Kernel, actor: Actor, product_id: UUID) -> ProductKeyView:
    """For its owner and the overseers. Raises ProductNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        await get_product(uow, actor, product_id)
        return _view(product_id, await uow.session.get(ProductKey, product_id))


async def key_of(uow: UnitOfWork, product_id: UUID) -> list[str]:
    """The declared columns; empty without a key."""
    row = await uow.session.get(ProductKey, product_id)
    return [] if row is None else list(row.columns)


def _view(product_id: UUID, row: ProductKey | None) -> ProductKeyView:
    return ProductKeyView(
        product_id=product_id,
        columns=[] if row is None else list(row.columns),
        updated_at=None if row is None else row.updated_at,
    )
