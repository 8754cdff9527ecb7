"""The log of what operators decide about the market.

It is append-only and holds, per topic and subject, the state that each decision left;
the newest row of a subject is in force. Its ``seq`` is a place in the engine's input sequence.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

SCHEMA = {"schema": "matching"}
# The subject of what concerns all instruments.
MARKET = UUID(int=0)


class Topic(StrEnum):
    """What a row is about. Its subject: a plan, ``MARKET`` (halts only), or a party."""

    RULES = "rules"
    HALT = "halt"
    CALL = "call"
    BLOCK = "block"
    QUOTA = "quota"


class ControlEntry(SQLModel, table=True):
    """One decision (append-only). ``actor_id`` null: the engine itself, at a due time.

    ``data`` is the state of the topic after it: rules in minor units and lots, ``on`` for a halt
    or a block, limits of a quota, the auction of a call.
    """

    __tablename__ = "control"
    __table_args__ = (
        CheckConstraint(
            "topic IN ('rules', 'halt', 'call', 'block', 'quota')", name="control_topic_known"
        ),
        CheckConstraint("seq >= 1", name="control_seq_positive"),
        CheckConstraint("length(reason) BETWEEN 1 AND 200", name="control_reason_length"),
        Index("control_subject", "topic", "subject_id", "seq"),
        SCHEMA,
    )

    seq: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    topic: str = Field(sa_column=Column(Text, nullable=False))
    subject_id: UUID = Field(sa_column=Column(Uuid, nullable=False))
    action: str = Field(sa_column=Column(Text, nullable=False))
    data: dict[str, Any] = Field(sa_column=Column(JSONB, nullable=False))
    reason: str = Field(sa_column=Column(Text, nullable=False))
    actor_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    credential_id: UUID | None = Field(default=None, sa_column=Column(Uuid))
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
