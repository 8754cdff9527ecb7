"""Entries of the catalog: written when a listing goes live, removed when it leaves the market."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import ColumnElement, cast, delete, func, literal, literal_column
from sqlalchemy.dialects.postgresql import REGCONFIG, TSVECTOR
from sqlmodel import col

from listings.models import CatalogEntry, Listing, Product, ProductVersion
from listings.text import document_terms, normalize, vector_literal
from listings.vocabulary import CATEGORY_LABELS, Category
from market.kernel.db import UnitOfWork

# Suggestions compare prefixes of the title only.
TITLE_KEY_CHARS = 200


async def publish(
    uow: UnitOfWork,
    listing: Listing,
    *,
    product: Product,
    version: ProductVersion,
    seller_name: str,
) -> None:
    """Put a listing that has just become ``listed`` into the catalog (again)."""
    assert listing.listed_at is not None
    await uow.session.flush()
    title = (listing.title["en"], listing.title.get("zh"))
    # Titles rank first, then the summary, then everything that describes the data.
    weighted = [
        ("A", title),
        ("B", (listing.summary,)),
        (
            "C",
            (
                *CATEGORY_LABELS[Category(listing.category)],
                seller_name,
                product.name["en"],
                product.name.get("zh"),
                product.description,
                *(column["name"] for column in version.columns),
            ),
        ),
    ]
    uow.session.add(
        CatalogEntry(
            listing_id=listing.id,
            seller_id=listing.seller_id,
            category=listing.category,
            grade=listing.grade,
            currency=listing.currency,
            from_minor=listing.from_minor,
            plan_kinds=listing.plan_kinds,
            title_en=normalize(title[0])[:TITLE_KEY_CHARS],
            title_zh=normalize(title[1])[:TITLE_KEY_CHARS] if title[1] else None,
            search=_search_vector(weighted),
            listed_at=listing.listed_at,
        )
    )
    await uow.session.flush()


def _search_vector(
    weighted: Sequence[tuple[str, Sequence[str | None]]],
) -> ColumnElement[object]:
    terms = [(weight, document_terms(texts)) for weight, texts in weighted]
    han = vector_literal([(weight, each.han) for weight, each in terms])
    vector: ColumnElement[object] = cast(literal(han), TSVECTOR)
    english = cast(literal("english"), REGCONFIG)
    for weight, each in terms:
        words = func.to_tsvector(english, each.latin)
        vector = vector.op("||")(func.setweight(words, literal_column(f"'{weight}'")))
    return vector


async def withdraw(uow: UnitOfWork, listing_id: UUID) -> None:
    """Take a listing out of the catalog; without an entry nothing happens."""
    entry = col(CatalogEntry.listing_id) == listing_id
    await uow.session.exec(delete(CatalogEntry).where(entry))
