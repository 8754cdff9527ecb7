"""Catalog queries as raw asyncpg: the search is the busiest read of the market.

Growth bar (design §9): p95 at 100,000 listings at most 3 times that at 1,000. So no statement
here scans or ranks more than `CANDIDATES_MAX` rows: queries that match more are answered newest
first by walking an index, and their facets are counted on the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from listings.facets import Cell

if TYPE_CHECKING:
    import asyncpg

CANDIDATES_MAX = 2_000
SUGGESTIONS_MAX = 10
# Weights of D, C, B, A: description, details, summary, title.
_WEIGHTS = "'{0.05, 0.1, 0.4, 1.0}'"

# Generic plans cannot know how selective a word is; planning anew costs 0.1 ms and picks between
# the word index and the walk by age.
_PREPARE = """
SELECT (plainto_tsquery('english', $1) && $2::tsquery)::text,
       set_config('plan_cache_mode', 'force_custom_plan', true)
"""

_ALL_CELLS = """
SELECT category, grade, currency, plan_kinds, listings AS n
FROM listings.catalog_cell WHERE listings > 0
"""

_CANDIDATE_CELLS = """
SELECT category, grade, coalesce(currency, '') AS currency, plan_kinds, count(*) AS n
FROM (
    SELECT category, grade, currency, plan_kinds FROM listings.catalog_entry
    WHERE ($1 = '' OR search @@ $1::text::tsquery)
      AND ($2::bigint IS NULL OR (currency = $3 AND from_minor <= $2))
    LIMIT $4
) AS candidates
GROUP BY 1, 2, 3, 4
"""

_FILTERS = """
      AND ($2::text IS NULL OR category = $2)
      AND ($3::text IS NULL OR grade = $3)
      AND ($4::text IS NULL OR currency = $4)
      AND ($5::text IS NULL OR plan_kinds @> ARRAY[$5::text])
      AND ($6::bigint IS NULL OR from_minor <= $6)
"""

_RANKED = f"""
SELECT listing_id, score FROM (
    SELECT listing_id,
           (ts_rank({_WEIGHTS}::float4[], search, $1::text::tsquery) * 1e6)::bigint AS score
    FROM listings.catalog_entry
    WHERE search @@ $1::text::tsquery {_FILTERS}
) AS ranked
WHERE ($7::bigint IS NULL OR (score, listing_id) < ($7, $8::uuid))
ORDER BY score DESC, listing_id DESC
LIMIT $9
"""

_NEWEST = f"""
SELECT listing_id, listed_at FROM listings.catalog_entry
WHERE ($1 = '' OR search @@ $1::text::tsquery) {_FILTERS}
  AND ($7::timestamptz IS NULL OR (listed_at, listing_id) < ($7, $8::uuid))
ORDER BY listed_at DESC, listing_id DESC
LIMIT $9
"""

_HITS = """
SELECT l.id AS listing_id, l.title, l.summary, l.category, l.grade, l.seller_id, l.product_id,
       l.version_id, l.from_minor, l.currency, l.plan_kinds, l.listed_at,
       v.row_count, v.quality, jsonb_array_length(v.columns) AS column_count,
       jsonb_path_query_array(v.columns, ('$[0 to ' || $2::int - 1 || ']')::jsonpath) AS columns,
       c.id AS certificate_id
FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted(id, place)
JOIN listings.listing l ON l.id = wanted.id
JOIN listings.product_version v ON v.id = l.version_id
JOIN listings.certificate c ON c.version_id = l.version_id
ORDER BY wanted.place
"""

_SUGGESTIONS = """
SELECT l.id AS listing_id, l.title
FROM (
    (SELECT listing_id FROM listings.catalog_entry
     WHERE title_en LIKE $1 ORDER BY title_en LIMIT $2)
    UNION
    (SELECT listing_id FROM listings.catalog_entry
     WHERE title_zh LIKE $1 ORDER BY title_zh LIMIT $2)
) AS found
JOIN listings.listing l ON l.id = found.listing_id
ORDER BY l.title ->> 'en', l.id
LIMIT $2
"""

# The words of a request, any of which may match; the limit keeps the ranking short.
_LEXEMES = """
SELECT lexeme FROM unnest(tsvector_to_array(to_tsvector('english', $1))) AS lexeme
ORDER BY lexeme LIMIT $2
"""

# Newest first within each half, so that a market of any size costs the same (design §9).
_POOL = """
(SELECT listing_id FROM listings.catalog_entry
 WHERE ($1::text IS NULL OR category = $1) AND grade = ANY($2::text[])
 ORDER BY listed_at DESC, listing_id DESC LIMIT $3)
UNION
(SELECT listing_id FROM listings.catalog_entry
 WHERE $4 <> '' AND search @@ $4::text::tsquery
 ORDER BY listed_at DESC, listing_id DESC LIMIT $5)
"""

_COUNT = """
SELECT count(*) FROM (
    SELECT FROM listings.catalog_entry
    WHERE ($1::text IS NULL OR category = $1) AND grade = ANY($2::text[]) LIMIT $3
) AS counted
"""

_FACTS = f"""
SELECT l.id AS listing_id, l.version_id, l.seller_id, l.title, l.category, l.grade, l.policy,
       e.listed_at, p.regions, v.row_count, v.quality ->> 'overall' AS quality,
       v.profile ->> 'latest' AS latest,
       ARRAY(SELECT c ->> 'name' FROM jsonb_array_elements(v.columns) AS c) AS columns,
       ARRAY(SELECT ARRAY[c ->> 'min', c ->> 'max']
             FROM jsonb_array_elements(v.profile -> 'columns') AS c
             WHERE (c ->> 'type' LIKE 'DATE%' OR c ->> 'type' LIKE 'TIMESTAMP%')
               AND c ->> 'min' IS NOT NULL AND c ->> 'max' IS NOT NULL) AS periods,
       CASE WHEN $2 = '' THEN 0
            ELSE (ts_rank({_WEIGHTS}::float4[], e.search, $2::text::tsquery) * 1e6)::bigint
       END AS text_score
FROM listings.catalog_entry e
JOIN listings.listing l ON l.id = e.listing_id
JOIN listings.product p ON p.id = l.product_id
JOIN listings.product_version v ON v.id = l.version_id
WHERE e.listing_id = ANY($1::uuid[])
ORDER BY e.listing_id
"""


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a search beside its words; None passes everything."""

    category: str | None = None
    grade: str | None = None
    currency: str | None = None
    plan_kind: str | None = None
    max_price_minor: int | None = None

    @property
    def values(self) -> tuple[Any, ...]:
        """In the order of the statements' parameters."""
        return (self.category, self.grade, self.currency, self.plan_kind, self.max_price_minor)


async def prepare(connection: asyncpg.Connection[Any], latin: str, han: str) -> str:
    """The tsquery of a search as text; empty when its words say nothing (stop words only)."""
    row = await connection.fetchrow(_PREPARE, latin, han)
    assert row is not None
    return str(row[0])


async def all_cells(connection: asyncpg.Connection[Any]) -> list[Cell]:
    """The facet cells of the whole catalog: exact, a few hundred rows at any size."""
    return [_cell(row) for row in await connection.fetch(_ALL_CELLS)]


async def candidate_cells(
    connection: asyncpg.Connection[Any], query: str, filters: Filters
) -> tuple[list[Cell], bool]:
    """The cells of what words and price match, and whether that is all of it."""
    rows = await connection.fetch(
        _CANDIDATE_CELLS, query, filters.max_price_minor, filters.currency, CANDIDATES_MAX + 1
    )
    cells = [_cell(row) for row in rows]
    return cells, sum(cell.count for cell in cells) <= CANDIDATES_MAX


async def ranked_ids(
    connection: asyncpg.Connection[Any],
    query: str,
    filters: Filters,
    *,
    after: tuple[int, UUID] | None,
    limit: int,
) -> list[tuple[int, UUID]]:
    """(score, listing) best first, after the given one."""
    score, listing_id = after or (None, None)
    rows = await connection.fetch(_RANKED, query, *filters.values, score, listing_id, limit)
    return [(row["score"], row["listing_id"]) for row in rows]


async def newest_ids(
    connection: asyncpg.Connection[Any],
    query: str,
    filters: Filters,
    *,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[tuple[datetime, UUID]]:
    """(time of listing, listing) newest first, after the given one; ``query`` may be empty."""
    listed_at, listing_id = after or (None, None)
    rows = await connection.fetch(_NEWEST, query, *filters.values, listed_at, listing_id, limit)
    return [(row["listed_at"], row["listing_id"]) for row in rows]


async def hits(
    connection: asyncpg.Connection[Any], ids: list[UUID], *, columns_max: int
) -> list[asyncpg.Record]:
    """What a hit shows, in the order of ``ids``."""
    rows: list[asyncpg.Record] = await connection.fetch(_HITS, ids, columns_max)
    return rows


async def suggestions(connection: asyncpg.Connection[Any], prefix: str) -> list[asyncpg.Record]:
    """Listings whose folded title begins with ``prefix``."""
    escaped = prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    rows: list[asyncpg.Record] = await connection.fetch(
        _SUGGESTIONS, escaped + "%", SUGGESTIONS_MAX
    )
    return rows


async def plan_each_time(connection: asyncpg.Connection[Any]) -> None:
    """Plan every statement of this transaction for its own values, as searches do."""
    await connection.execute("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")


async def lexemes(connection: asyncpg.Connection[Any], text: str, *, limit: int) -> list[str]:
    """The stemmed English words of a text, without stop words."""
    rows = await connection.fetch(_LEXEMES, text, limit)
    return [row["lexeme"] for row in rows]


async def pool_ids(
    connection: asyncpg.Connection[Any],
    *,
    category: str | None,
    grades: list[str],
    words: str,
    strict_max: int,
    words_max: int,
) -> list[UUID]:
    """Listings on the market in the category and grades, and those that share any word."""
    rows = await connection.fetch(_POOL, category, grades, strict_max, words, words_max)
    return [row["listing_id"] for row in rows]


async def count_entries(
    connection: asyncpg.Connection[Any], *, category: str | None, grades: list[str], limit: int
) -> int:
    """How many entries have the category and grades, counted up to ``limit``."""
    count: int = await connection.fetchval(
        _COUNT,
        category,
        grades,
        limit,
    )
    return count


async def market_facts(
    connection: asyncpg.Connection[Any], ids: list[UUID], words: str
) -> list[asyncpg.Record]:
    """What requests ask of those of ``ids`` that are on the market, in id order."""
    rows: list[asyncpg.Record] = await connection.fetch(_FACTS, ids, words)
    return rows


def _cell(row: asyncpg.Record) -> Cell:
    return Cell(row["category"], row["grade"], row["currency"], tuple(row["plan_kinds"]), row["n"])
