"""The journal of the books: one row per batch and book that it gave steps to (append-only)."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Uuid,
)
from sqlmodel import Field, SQLModel


class BookUpdate(SQLModel, table=True):
    """What one batch did to the book of a plan.

    ``sequence``, ``checksum`` and ``orders`` are what ``matching.book`` held after it;
    ``first_seq`` and ``last_seq`` bound the input numbers of the whole batch. ``steps`` is a page
    of ``market.matching.journal``, ``levels`` the price levels that changed, as they are after
    it; ``digest`` covers the row.
    """

    __tablename__ = "book_update"
    __table_args__ = (
        PrimaryKeyConstraint("plan_id", "sequence", name="book_update_pkey"),
        CheckConstraint("sequence >= 1", name="book_update_sequence_positive"),
        CheckConstraint("first_seq BETWEEN 1 AND last_seq", name="book_update_seq_order"),
        CheckConstraint("length(digest) = 16", name="book_update_digest_length"),
        {"schema": "matching"},
    )

    plan_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    sequence: int = Field(sa_column=Column(BigInteger, autoincrement=False, nullable=False))
    checksum: int = Field(sa_column=Column(BigInteger, nullable=False))
    orders: int = Field(sa_column=Column(Integer, nullable=False))
    first_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    last_seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    steps: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    levels: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    digest: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
