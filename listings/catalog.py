"""The public catalog: search with facets, one item, its preview, suggestions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from listings import facets, offers, sql
from listings.catalog_schemas import (
    HIT_COLUMNS_MAX,
    CatalogHit,
    CatalogItem,
    CatalogPage,
    CatalogQuery,
    Facets,
    FacetValue,
    Suggestion,
    Suggestions,
)
from listings.classification import Grade
from listings.detectors import MASK
from listings.errors import ListingNotFound
from listings.lifecycle import ListingStatus
from listings.models import Listing, Product, ProductVersion
from listings.offering import price_of
from listings.policy_schemas import Policy
from listings.schemas import ColumnView, Preview, PriceSummary, Quality, RightFlags
from listings.text import normalize, query_literal, query_terms
from listings.vocabulary import Category, UpdateCycle
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.schemas import BadCursor, LocalizedText, PageQuery, encode_cursor
from market.parties.directory import get_parties, get_party

if TYPE_CHECKING:
    import asyncpg

_RANKED, _NEWEST = "r", "n"
_NOTHING = Facets(exact=True, category=[], grade=[], currency=[], plan_kind=[])


async def search_catalog(kernel: Kernel, query: CatalogQuery, page: PageQuery) -> CatalogPage:
    """Listings on the market: by relevance, or newest first without words or with very common
    ones. A walk over ``next_after`` shows every listing once. Raises BadCursor (422)."""
    filters = sql.Filters(
        query.category, query.grade, query.currency, query.plan_kind, query.max_price_minor
    )
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        words = ""
        if query.q:
            terms = query_terms(query.q)
            words = await sql.prepare(connection, terms.latin, query_literal(terms))
            if not words:
                return CatalogPage(items=[], has_more=False, total=0, facets=_NOTHING)
        if page.after is None:
            counted, total = await _count(uow, words, filters)
            order = _RANKED if words and counted.exact else _NEWEST
        else:
            counted, total = None, None
            order = _order_of(page)
        keys = await _ids(uow, words, filters, page, order)
        items = await _hits(uow, [listing_id for _, listing_id in keys[: page.limit]])
    more = len(keys) > page.limit
    last = keys[page.limit - 1] if more else None
    return CatalogPage(
        items=items,
        has_more=more,
        next_after=encode_cursor(order, *last) if last else None,
        total=total,
        facets=counted,
    )


async def _count(uow: UnitOfWork, words: str, filters: sql.Filters) -> tuple[Facets, int]:
    connection = await uow.raw()
    if words or filters.max_price_minor is not None:
        cells, exact = await sql.candidate_cells(connection, words, filters)
    else:
        cells, exact = await sql.all_cells(connection), True
    chosen = {
        name: value
        for name, value in zip(facets.DIMENSIONS, filters.values[:4], strict=True)
        if value is not None
    }
    counts = {
        name: [FacetValue(value=value, count=number) for value, number in values]
        for name, values in facets.count(cells, chosen).items()
    }
    return Facets(exact=exact, **counts), facets.total(cells, chosen)


def _order_of(page: PageQuery) -> str:
    key = page.key(3)
    if key is None or key[0] not in (_RANKED, _NEWEST):
        raise BadCursor(param="after")
    return key[0]


async def _ids(
    uow: UnitOfWork, words: str, filters: sql.Filters, page: PageQuery, order: str
) -> Sequence[tuple[int | datetime, UUID]]:
    connection = await uow.raw()
    limit = page.limit + 1
    key = page.key(3)
    try:
        if order == _RANKED:
            if not words:
                raise BadCursor(param="after")
            after = None if key is None else (_score(key[1]), UUID(key[2]))
            return await sql.ranked_ids(connection, words, filters, after=after, limit=limit)
        since = None if key is None else (_moment(key[1]), UUID(key[2]))
    except ValueError as error:
        raise BadCursor(param="after") from error
    return await sql.newest_ids(connection, words, filters, after=since, limit=limit)


def _score(text: str) -> int:
    score = int(text)
    if not 0 <= score < 1 << 62:
        raise ValueError("score out of range")
    return score


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("time without zone")
    return moment


async def _hits(uow: UnitOfWork, ids: list[UUID]) -> list[CatalogHit]:
    rows = await sql.hits(await uow.raw(), ids, columns_max=HIT_COLUMNS_MAX)
    sellers = await get_parties(uow, [row["seller_id"] for row in rows])
    return [_hit(row, sellers[row["seller_id"]].name) for row in rows]


def _hit(row: asyncpg.Record, seller_name: str) -> CatalogHit:
    price = None
    if row["from_minor"] is not None:
        price = PriceSummary(
            from_minor=row["from_minor"], currency=row["currency"], plan_kinds=row["plan_kinds"]
        )
    plain = (
        "listing_id",
        "summary",
        "category",
        "grade",
        "seller_id",
        "product_id",
        "version_id",
        "row_count",
        "column_count",
        "certificate_id",
        "listed_at",
    )
    return CatalogHit(
        **{name: row[name] for name in plain},
        title=LocalizedText.model_validate(_json(row["title"])),
        columns=[ColumnView.model_validate(each) for each in _json(row["columns"])],
        quality=Quality.model_validate(_json(row["quality"])),
        seller_name=seller_name,
        price=price,
    )


def _json(value: Any) -> Any:
    # SQLAlchemy sets no jsonb codec on the raw connection.
    return orjson.loads(value) if isinstance(value, str) else value


async def show_item(kernel: Kernel, listing_id: UUID) -> CatalogItem:
    """One listing on the market. Raises ListingNotFound (404) for any other."""
    async with kernel.unit_of_work() as uow:
        listing, version = await _live(uow, listing_id)
        product = await uow.session.get_one(Product, listing.product_id)
        seller = await get_party(uow, listing.seller_id)
        certificate = await offers.get_certificate_for(uow, version.id)
    assert listing.listed_at is not None
    columns = [ColumnView.model_validate(each) for each in version.columns]
    return CatalogItem(
        listing_id=listing.id,
        title=LocalizedText.model_validate(listing.title),
        summary=listing.summary,
        category=Category(listing.category),
        grade=Grade(version.grade),
        seller_id=seller.id,
        seller_name=seller.name,
        product_id=product.id,
        version_id=version.id,
        row_count=version.row_count,
        column_count=len(columns),
        columns=columns,
        quality=Quality.model_validate(version.quality),
        price=price_of(listing),
        certificate_id=certificate.id,
        listed_at=listing.listed_at,
        description=product.description,
        regions=product.regions,
        update_cycle=UpdateCycle(product.update_cycle),
        rights=RightFlags(**{name: right["held"] for name, right in product.rights.items()}),
        policy=Policy.model_validate(listing.policy),
        byte_count=version.byte_count,
        sha256=version.sha256,
        sensitive_columns=version.sensitive_columns,
    )


async def show_preview(kernel: Kernel, listing_id: UUID) -> Preview:
    """The masked first rows of a listing on the market. Raises ListingNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        listing, version = await _live(uow, listing_id)
    policy = Policy.model_validate(listing.policy)
    masked = {mask.column for mask in policy.masks}
    places = [place for place, each in enumerate(version.columns) if each["name"] in masked]
    return Preview(
        columns=[ColumnView.model_validate(each) for each in version.columns],
        # The first rows may be none of those that are sold.
        rows=[]
        if policy.row_filter is not None
        else [_hide(row, places) for row in version.preview],
        row_count=version.row_count,
        masked_columns=[
            each["name"]
            for each in version.columns
            if each["name"] in masked or each["name"] in version.sensitive_columns
        ],
    )


def _hide(row: list[Any], places: Sequence[int]) -> list[Any]:
    hidden = list(row)
    for place in places:
        hidden[place] = None if row[place] is None else MASK
    return hidden


async def suggest(kernel: Kernel, text: str) -> Suggestions:
    """Titles that begin with ``text``, in either language."""
    async with kernel.unit_of_work() as uow:
        rows = await sql.suggestions(await uow.raw(), normalize(text))
    return Suggestions(
        items=[
            Suggestion(
                listing_id=row["listing_id"],
                title=LocalizedText.model_validate(_json(row["title"])),
            )
            for row in rows
        ]
    )


async def _live(uow: UnitOfWork, listing_id: UUID) -> tuple[Listing, ProductVersion]:
    listing = await offers.get_listing(uow, listing_id)
    if listing.status != ListingStatus.LISTED:
        raise ListingNotFound
    return listing, await offers.get_version(uow, listing.version_id)
