"""What a token sees: one share, its grant's; one schema; one table, the version it bought."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts.copies.disclosure import disclosure
from contracts.delivery.gate import gate_of
from contracts.delivery.requests import Context, RowsRequest
from contracts.delivery.token_reader import token_reader
from contracts.errors import PolicyRefused, QuotaExhausted, TokenExpired
from contracts.metering import meter_of
from contracts.models import Grant, Unit
from contracts.sharing.delta import Field, fields_of
from contracts.sharing.errors import (
    ShareNotFound,
    SharingRequestInvalid,
    SharingTokenExpired,
    VersionNotShared,
)
from contracts.token_limits import WayOut
from contracts.tokens import Claims
from contracts.versions.granted import NUMBER_MAX
from listings import offers
from listings.errors import VersionNotFound
from listings.models import Product
from listings.row_filter import Condition
from listings.typed_columns import Column
from market.kernel.context import Kernel
from market.kernel.ids import show

SCHEMA_NAME = "data"
RESULTS_MAX = 200
_NAME_CHARS = 60
_PAGE_TOKEN = re.compile(r"^at-([0-9]{1,6})$")


@dataclass(frozen=True, slots=True)
class Table:
    """The table of a token: names, columns, the one version that is read.

    ``columns``, ``fields`` and the rows that ``only`` selects are those that the token may read;
    ``rows`` are the version's. ``narrow``: that may be less than the whole version.
    """

    claims: Claims
    share: str
    name: str
    agreement_id: UUID
    buyer_id: UUID
    version_id: UUID
    version: int
    version_at: datetime
    table_id: str
    rows: int
    blob_key: str
    byte_count: int
    unit: Unit
    seller_safe: bool
    columns: Mapping[str, Column]
    fields: Sequence[Field]
    only: Condition
    narrow: bool
    # The file is the agreement's own copy.
    copied: bool
    # Headers that say whether it carries marks.
    disclosed: Mapping[str, str]
    quota_id: UUID | None

    def require(self, share: str, schema: str | None = None, table: str | None = None) -> None:
        """Raises ShareNotFound (404) for any name but the token's own, whatever its case."""
        asked = [(share, self.share), (schema, SCHEMA_NAME), (table, self.name)]
        for given, own in asked:
            if given is not None and given.lower() != own:
                raise ShareNotFound


async def table_of(kernel: Kernel, token: str, *, address: str | None) -> Table:
    """The table that ``token`` opens, if it may be read now; charges nothing.

    Raises as :meth:`contracts.delivery.gate.Gate.authorize` (an expired token as 401) and
    as :meth:`contracts.metering.Meter.admit`, but not QuotaExhausted: names stay readable.
    """
    try:
        claims, context, _ = await gate_of(kernel).authorize(
            RowsRequest(token=token, address=address, operation=WayOut.SHARING)
        )
    except TokenExpired as error:
        raise SharingTokenExpired from error
    try:
        await meter_of(kernel).admit(claims.grant_id, claims.token_id)
    except TokenExpired as error:
        raise SharingTokenExpired from error
    except QuotaExhausted:
        pass
    return await _table(kernel, claims, context)


async def at_version(kernel: Kernel, table: Table, number: int) -> Table:
    """The table as of another version. Raises VersionNotShared (400) if the grant has none such."""
    if number == table.version:
        return table
    shared = f"Shared is version {table.version}"
    if not 1 <= number <= NUMBER_MAX:
        raise VersionNotShared(f"{shared}.", param="version")
    try:
        context = await gate_of(kernel).scoped(table.claims, number)
    except (PolicyRefused, VersionNotFound) as error:
        raise VersionNotShared(
            f"{shared}. {error.detail or ''}".strip(), param="version"
        ) from error
    return await _table(kernel, table.claims, context)


async def _table(kernel: Kernel, claims: Claims, context: Context) -> Table:
    limits = await token_reader(kernel).limits(claims.token_id)
    # Not the mapping itself, which refuses to be asked for a hidden column.
    readable = set(context.columns)
    async with kernel.unit_of_work() as uow:
        version = await offers.get_version(uow, context.version_id)
        product = await uow.session.get(Product, version.product_id)
        grant = await uow.session.get(Grant, claims.grant_id)
    if product is None or grant is None:
        raise ShareNotFound
    return Table(
        claims=claims,
        share=show("grt", claims.grant_id),
        name=_name_of(product.name),
        agreement_id=context.agreement_id,
        buyer_id=grant.buyer_id,
        version_id=version.id,
        version=version.number,
        version_at=version.created_at,
        table_id=show("prd", product.id),
        rows=context.row_count,
        blob_key=context.blob_key,
        byte_count=context.byte_count,
        copied=context.blob_key != version.blob_key,
        disclosed=disclosure(context.policy),
        unit=context.unit,
        seller_safe=context.policy.meter_side == "seller_safe",
        columns=context.columns,
        fields=fields_of([each for each in version.columns if each["name"] in readable]),
        only=context.only,
        narrow=limits.narrow,
        quota_id=limits.quota_id,
    )


def _name_of(names: Mapping[str, Any]) -> str:
    """A table name of the product's: clients split ``share.schema.table`` at the dots."""
    text = str(names.get("en") or "").lower()
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")[:_NAME_CHARS].rstrip("_") or "table"


def listing(
    items: Sequence[Mapping[str, str]], max_results: int | None, page_token: str | None
) -> dict[str, Any]:
    """One page in the protocol's form. Raises SharingRequestInvalid for a foreign token."""
    start = 0
    if page_token:
        found = _PAGE_TOKEN.match(page_token)
        if found is None or int(found[1]) > len(items):
            raise SharingRequestInvalid("The page token is not one of ours.", param="pageToken")
        start = int(found[1])
    end = min(len(items), start + (RESULTS_MAX if max_results is None else max_results))
    page: dict[str, Any] = {"items": [dict(item) for item in items[start:end]]}
    if end < len(items):
        page["nextPageToken"] = f"at-{end}"
    return page
