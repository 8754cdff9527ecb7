"""Table of commands on their way to the engine's owner."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    Uuid,
    text,
)
from sqlmodel import Field, SQLModel


class InboxCommand(SQLModel, table=True):
    """A command from the process ``sender``, and the owner's answer.

    Not carried out after ``good_until`` (real database time). The sender deletes what it has read.
    """

    __tablename__ = "inbox"
    __table_args__ = (
        CheckConstraint(
            "num_nulls(status, body, headers, replayed, raised, answered_at) IN (0, 6)",
            name="inbox_answer_whole",
        ),
        Index("inbox_waiting", "seq", postgresql_where=text("answered_at IS NULL")),
        Index("inbox_answered", "sender", postgresql_where=text("answered_at IS NOT NULL")),
        {"schema": "matching", "prefixes": ["UNLOGGED"]},
    )

    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    seq: int | None = Field(
        default=None, sa_column=Column(BigInteger, Identity(always=True), nullable=False)
    )
    sender: UUID = Field(sa_column=Column(Uuid, nullable=False))
    command: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    good_until: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    status: int | None = Field(default=None, sa_column=Column(SmallInteger))
    body: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    headers: str | None = Field(default=None, sa_column=Column(Text))
    replayed: bool | None = Field(default=None, sa_column=Column(Boolean))
    raised: bool | None = Field(default=None, sa_column=Column(Boolean))
    answered_at: datetime | None = Field(default=None, sa_column=Column(DateTime(timezone=True)))
