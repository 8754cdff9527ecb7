"""Products, versions and listings for every test, made by the real services."""

import io
import itertools
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from listings.offering import create_listing, submit_listing
from listings.products import create_product, submit_product
from listings.reviews import approve_listing, approve_product
from listings.schemas import ListingInput, ProductInput, VersionView
from listings.versions import upload_version
from market.kernel.context import Kernel
from market.kernel.ids import new_id
from market.kernel.security import Actor, Role
from tests.market.parties.factories import Member

PARQUET = "application/vnd.apache.parquet"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class MadeListing:
    """Ids of a product with one certified version and an offer of it."""

    product_id: uuid.UUID
    version_id: uuid.UUID
    listing_id: uuid.UUID


def any_operator() -> Actor:
    """An operator; reviews need only the role."""
    return Actor(
        party_id=new_id(),
        credential_id=new_id(),
        roles=frozenset({Role.OPERATOR}),
        token_id=uuid.uuid4().hex,
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """A Parquet file of a table."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def flights_table(rows: int, *, salt: int = 0) -> pa.Table:
    """A small flat table without personal data: ``id`` 0.., carrier, delay, distance, day."""
    ids = range(rows)
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "carrier": pa.array([("UA", "AA", "DL", "B6")[i % 4] for i in ids]),
            "delay": pa.array([(i * 7 + salt) % 120 - 20 for i in ids], pa.int32()),
            "distance": pa.array([200.5 + i % 900 for i in ids], pa.float64()),
            "day": pa.array([19_000 + i % 365 for i in ids], pa.date32()),
        }
    )


def product_body(**changes: Any) -> dict[str, Any]:
    """A valid registration as JSON."""
    held = {"held": True, "basis": "Collected by our own stations since 2010."}
    body: dict[str, Any] = {
        "name": {"en": "Flight records", "zh": "航班运行记录"},
        "description": "Departures with delays.",
        "category": "transport",
        "source_statement": "Collected by the airport operator under contract 17.",
        "rights": {"holding": held, "processing_use": held, "product_operation": held},
        "contains_personal_data": False,
        "regions": ["CN"],
        "update_cycle": "static",
    }
    return {**body, **changes}


def listing_body(product_id: str, **changes: Any) -> dict[str, Any]:
    """A valid offer as JSON."""
    body: dict[str, Any] = {
        "product_id": product_id,
        "title": {"en": "Flight delays", "zh": "航班延误数据"},
        "summary": "Scheduled and actual departures.",
        "policy": {
            "purposes": ["internal_analytics", "academic_research"],
            "territory": ["CN"],
            "redistribution": False,
            "derivative_use": True,
            "deletion_days": 30,
        },
    }
    return {**body, **changes}


async def one_chunk(data: bytes) -> AsyncIterator[bytes]:
    """A body that arrives at once."""
    yield data


async def make_version(
    kernel: Kernel, seller: Member, product_id: uuid.UUID, table: pa.Table
) -> VersionView:
    """Upload a table."""
    return await upload_version(
        kernel,
        seller.actor,
        product_id,
        content_type=PARQUET,
        body=one_chunk(parquet_bytes(table)),
    )


async def make_product(
    kernel: Kernel,
    seller: Member,
    *,
    rows: int = 1000,
    table: pa.Table | None = None,
    certified: bool = True,
    **changes: Any,
) -> tuple[uuid.UUID, uuid.UUID]:
    """A product with one version: ``(product_id, version_id)``."""
    product = await create_product(
        kernel, seller.actor, ProductInput.model_validate(product_body(**changes))
    )
    data = table if table is not None else flights_table(rows, salt=next(_numbers))
    version = await make_version(kernel, seller, product.id, data)
    if certified:
        await submit_product(kernel, seller.actor, product.id)
        await approve_product(kernel, any_operator(), product.id)
    return product.id, version.id


async def make_listing(
    kernel: Kernel,
    seller: Member,
    *,
    rows: int = 1000,
    live: bool = True,
    table: pa.Table | None = None,
    title: dict[str, Any] | None = None,
    policy: dict[str, Any] | None = None,
    category: str = "transport",
    **product: Any,
) -> MadeListing:
    """A certified product with a listing, on the market unless ``live`` is false.

    ``product`` changes fields of the registration.

    Columns: id (int64, 0..rows-1), carrier, delay (int32), distance (double), day (date).
    """
    product_id, version_id = await make_product(
        kernel, seller, rows=rows, table=table, category=category, **product
    )
    body = listing_body("")
    body["product_id"] = product_id
    if title is not None:
        body["title"] = title
    if policy is not None:
        body["policy"] = policy
    listing = await create_listing(kernel, seller.actor, ListingInput.model_validate(body))
    if live:
        await submit_listing(kernel, seller.actor, listing.id)
        await approve_listing(kernel, any_operator(), listing.id)
    return MadeListing(product_id, version_id, listing.id)
