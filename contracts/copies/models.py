"""Copies of versions that were made: masked for a policy, marked for an agreement."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKeyConstraint
from sqlmodel import Field, SQLModel

from market.kernel.columns import bigint_column, moment_column, text_column, uuid_column


class MaskedCopy(SQLModel, table=True):
    """A version under masks and a row filter (append-only), for all agreements that say the same.

    ``recipe`` is the digest of these.
    """

    __tablename__ = "masked_copy"
    __table_args__ = (
        CheckConstraint("byte_count > 0", name="masked_copy_bytes_positive"),
        CheckConstraint("row_count >= 0", name="masked_copy_rows"),
        {"schema": "contracts"},
    )

    version_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    recipe: str = Field(sa_column=text_column(primary_key=True))
    blob_key: str = Field(sa_column=text_column())
    row_count: int = Field(sa_column=bigint_column())
    byte_count: int = Field(sa_column=bigint_column())
    sha256: str = Field(sa_column=text_column())
    made_at: datetime = Field(sa_column=moment_column())


class MarkedCopy(SQLModel, table=True):
    """An agreement's copy of a version (append-only): made once, so that every byte of it stays."""

    __tablename__ = "marked_copy"
    __table_args__ = (
        CheckConstraint("byte_count > 0", name="marked_copy_bytes_positive"),
        ForeignKeyConstraint(
            ["agreement_id"], ["contracts.agreement.id"], name="marked_copy_agreement_fk"
        ),
        {"schema": "contracts"},
    )

    agreement_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    version_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    blob_key: str = Field(sa_column=text_column())
    byte_count: int = Field(sa_column=bigint_column())
    sha256: str = Field(sa_column=text_column())
    made_at: datetime = Field(sa_column=moment_column())
