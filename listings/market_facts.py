"""What requests for data ask of the listings on the market: facts and words in common.

Suspended, delisted and unpublished listings have no catalog entry, so they never appear here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import orjson

from listings import sql
from listings.classification import Grade
from listings.text import document_terms
from listings.vocabulary import Category
from market.kernel.db import UnitOfWork
from market.kernel.schemas import LocalizedText

# Listings that one search looks at: the newest of the category and grades, and those that share
# a word with the request, whatever their category, for near misses.
POOL_STRICT_MAX = 1_000
POOL_WORDS_MAX = 500
WORDS_MAX = 64


@dataclass(frozen=True, slots=True)
class MarketFacts:
    """A listing on the market. ``quality`` in ten-thousandths; ``periods`` of its date columns;
    ``text_score`` is 0 when it shares no word with the request."""

    listing_id: UUID
    version_id: UUID
    seller_id: UUID
    title: LocalizedText
    category: Category
    grade: Grade
    columns: tuple[str, ...]
    regions: tuple[str, ...]
    periods: tuple[tuple[date, date], ...]
    rows: int
    purposes: tuple[str, ...]
    territory: tuple[str, ...]
    quality: int
    latest: datetime | None
    text_score: int
    listed_at: datetime


async def any_word(uow: UnitOfWork, texts: Sequence[str]) -> str:
    """A tsquery that any word of ``texts`` meets: English stems, Chinese words and bigrams.

    Empty when the texts hold stop words only. At most 64 words of each language.
    """
    terms = document_terms(texts)
    latin = await sql.lexemes(await uow.raw(), terms.latin, limit=WORDS_MAX)
    han = [token for token in terms.han if len(token) > 1][:WORDS_MAX]
    return " | ".join(_quoted(word) for word in (*latin, *han))


def _quoted(lexeme: str) -> str:
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


async def search_market(
    uow: UnitOfWork, *, category: Category | None, grades: Sequence[Grade], words: str
) -> tuple[list[MarketFacts], bool]:
    """Listings worth a look, in id order, and whether all of the category and grades are there."""
    connection = await uow.raw()
    shown = None if category is None else category.value
    tradable = [grade.value for grade in grades]
    await sql.plan_each_time(connection)
    count = await sql.count_entries(
        connection, category=shown, grades=tradable, limit=POOL_STRICT_MAX + 1
    )
    ids = await sql.pool_ids(
        connection,
        category=shown,
        grades=tradable,
        words=words,
        strict_max=POOL_STRICT_MAX,
        words_max=POOL_WORDS_MAX,
    )
    return await read_facts(uow, ids, words=words), count <= POOL_STRICT_MAX


async def read_facts(uow: UnitOfWork, ids: Sequence[UUID], *, words: str = "") -> list[MarketFacts]:
    """Facts about those of ``ids`` that are on the market, in id order."""
    if not ids:
        return []
    rows = await sql.market_facts(await uow.raw(), list(ids), words)
    return [_facts(row) for row in rows]


def _facts(row: Any) -> MarketFacts:
    policy = _json(row["policy"])
    return MarketFacts(
        listing_id=row["listing_id"],
        version_id=row["version_id"],
        seller_id=row["seller_id"],
        title=LocalizedText.model_validate(_json(row["title"])),
        category=Category(row["category"]),
        grade=Grade(row["grade"]),
        columns=tuple(row["columns"]),
        regions=tuple(row["regions"]),
        periods=tuple(_periods(row["periods"])),
        rows=row["row_count"],
        purposes=tuple(policy["purposes"]),
        territory=tuple(policy["territory"]),
        quality=int(row["quality"].replace(".", "")),
        latest=None if row["latest"] is None else datetime.fromisoformat(row["latest"]),
        text_score=row["text_score"],
        listed_at=row["listed_at"],
    )


def _json(value: Any) -> Any:
    # A pooled connection has SQLAlchemy's jsonb codec only once SQLAlchemy has set it.
    return orjson.loads(value) if isinstance(value, str) else value


def _periods(bounds: Sequence[Sequence[str]]) -> list[tuple[date, date]]:
    found = []
    for low, high in bounds:
        try:
            found.append((date.fromisoformat(low[:10]), date.fromisoformat(high[:10])))
        except ValueError:
            # DuckDB knows years that Python's dates do not (before 1, after 9999).
            continue
    return found
