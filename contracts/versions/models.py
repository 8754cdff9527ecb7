"""Which certified versions have been announced to their followers."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from market.kernel.columns import integer_column, moment_column, uuid_column


class VersionNews(SQLModel, table=True):
    """A certified version, and how far its followers have been told: grants up to
    ``told_through`` by id; all of them when ``told_at`` is set.
    """

    __tablename__ = "version_news"
    __table_args__ = (
        CheckConstraint("number >= 1", name="version_news_number_positive"),
        Index("version_news_certified", "certified_at"),
        Index("version_news_untold", "certified_at", postgresql_where=text("told_at IS NULL")),
        {"schema": "contracts"},
    )

    version_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    product_id: UUID = Field(sa_column=uuid_column())
    number: int = Field(sa_column=integer_column())
    certified_at: datetime = Field(sa_column=moment_column())
    told_through: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    told_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
