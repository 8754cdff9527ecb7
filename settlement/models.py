"""Tables of settlement: the ledger (append-only but for balances), its hash chain, the rails.

Invariants that no column shows live in triggers of migration 0005: zero-sum per transfer and
currency, gapless ``seq``, running balances, balances that follow postings, the hash chain.
"""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlmodel import Field, SQLModel

from market.kernel.columns import (
    bigint_column,
    bytes_column,
    currency_column,
    moment_column,
    text_column,
    uuid_column,
)

SCHEMA = {"schema": "settlement"}
AMOUNT_SQL = "amount_minor BETWEEN 1 AND 1000000000000000"


class TopUpStatus(StrEnum):
    """``pending`` until the rail has decided; ``charged_back`` after a ``succeeded``."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CHARGED_BACK = "charged_back"


class PayoutStatus(StrEnum):
    """``pending``: money in transit, rail not asked yet; ``submitted``: asked, not decided."""

    PENDING = "pending"
    SUBMITTED = "submitted"
    PAID = "paid"
    FAILED = "failed"


class Account(SQLModel, table=True):
    """One bucket of money. ``posted`` is the sum of its postings, ``held`` of its open holds."""

    __tablename__ = "account"
    __table_args__ = (
        CheckConstraint("held >= 0", name="account_held"),
        CheckConstraint("seq >= 0", name="account_seq"),
        CheckConstraint(
            "kind IN ('clearing', 'receivable', 'losses', 'fx') OR posted - held >= 0",
            name="account_protected",
        ),
        CheckConstraint(
            "kind IN ('available', 'receivable', 'escrow', 'frozen', 'fees', 'losses', "
            "'clearing', 'in_transit', 'fx')",
            name="account_kind",
        ),
        CheckConstraint(
            "(owner IS NOT NULL) = (kind IN ('available', 'receivable', 'escrow', 'frozen'))",
            name="account_owner",
        ),
        UniqueConstraint(
            "owner", "kind", "currency", name="account_name", postgresql_nulls_not_distinct=True
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    kind: str = Field(sa_column=text_column())
    owner: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    currency: str = Field(sa_column=currency_column())
    posted: int = Field(sa_column=bigint_column(server_default=text("0")))
    held: int = Field(sa_column=bigint_column(server_default=text("0")))
    seq: int = Field(sa_column=bigint_column(server_default=text("0")))
    created_at: datetime = Field(sa_column=moment_column())


class Batch(SQLModel, table=True):
    """The commands that one ``post`` decided; ``root`` is their Merkle root, over leaves of
    ``format`` (see ``settlement.chain``)."""

    __tablename__ = "batch"
    __table_args__ = (
        CheckConstraint("octet_length(root) = 32", name="batch_root"),
        CheckConstraint("command_count > 0", name="batch_command_count"),
        CheckConstraint("format IN (1, 2)", name="batch_format"),
        Index("batch_booked_at", "booked_at"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    root: bytes = Field(sa_column=bytes_column())
    command_count: int = Field(sa_column=Column(Integer, nullable=False))
    booked_at: datetime = Field(sa_column=moment_column())
    format: int = Field(sa_column=Column(SmallInteger, nullable=False))


class Command(SQLModel, table=True):
    """The memory of a key: what was asked (hash) and what came of it, refusals included."""

    __tablename__ = "command"
    __table_args__ = (
        CheckConstraint("octet_length(body_hash) = 32", name="command_body_hash"),
        CheckConstraint("octet_length(leaf_hash) = 32", name="command_leaf_hash"),
        CheckConstraint(
            "type IN ('transfer', 'hold', 'capture', 'void', 'expire')", name="command_type"
        ),
        CheckConstraint(
            "(code IS NULL) = (detail IS NULL) AND (code IS NULL OR "
            "(transfer_id IS NULL AND hold_id IS NULL AND resolved_hold_id IS NULL))",
            name="command_refusal",
        ),
        UniqueConstraint("batch_id", "ordinal", name="command_place"),
        SCHEMA,
    )

    key: str = Field(sa_column=text_column(primary_key=True))
    body_hash: bytes = Field(sa_column=bytes_column())
    leaf_hash: bytes = Field(sa_column=bytes_column())
    batch_id: UUID = Field(sa_column=uuid_column())
    ordinal: int = Field(sa_column=Column(Integer, nullable=False))
    type: str = Field(sa_column=text_column())
    transfer_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    hold_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    resolved_hold_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    code: str | None = Field(default=None, sa_column=text_column(nullable=True))
    detail: str | None = Field(default=None, sa_column=text_column(nullable=True))


class Transfer(SQLModel, table=True):
    """An immutable movement of money; its postings sum to zero in every currency."""

    __tablename__ = "transfer"
    __table_args__ = (
        Index(
            "transfer_reverses",
            "reverses",
            unique=True,
            postgresql_where=text("reverses IS NOT NULL"),
        ),
        Index("transfer_moved", "event_at", postgresql_where=text("event_at <> booked_at")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    kind: str = Field(sa_column=text_column())
    memo_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    reverses: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    event_at: datetime = Field(sa_column=moment_column())
    booked_at: datetime = Field(sa_column=moment_column())


class Posting(SQLModel, table=True):
    """One leg. ``seq`` is gapless per account; ``balance`` is the account's after it."""

    __tablename__ = "posting"
    __table_args__ = (
        CheckConstraint("amount <> 0", name="posting_amount"),
        CheckConstraint("seq > 0", name="posting_seq"),
        Index("posting_transfer_id", "transfer_id"),
        SCHEMA,
    )

    account_id: UUID = Field(sa_column=uuid_column(primary_key=True))
    seq: int = Field(sa_column=bigint_column(primary_key=True, autoincrement=False))
    transfer_id: UUID = Field(sa_column=uuid_column())
    currency: str = Field(sa_column=currency_column())
    amount: int = Field(sa_column=bigint_column())
    balance: int = Field(sa_column=bigint_column())


class Hold(SQLModel, table=True):
    """A reservation on an account; open until it has a resolution."""

    __tablename__ = "hold"
    __table_args__ = (
        CheckConstraint("amount > 0", name="hold_amount"),
        Index("hold_account_id", "account_id"),
        Index("hold_expires_at", "expires_at"),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    account_id: UUID = Field(
        sa_column=uuid_column(ForeignKey("settlement.account.id", name="hold_account_id_fkey"))
    )
    amount: int = Field(sa_column=bigint_column())
    expires_at: datetime = Field(sa_column=moment_column())
    memo_id: UUID | None = Field(default=None, sa_column=uuid_column(nullable=True))
    created_at: datetime = Field(sa_column=moment_column())


class HoldResolution(SQLModel, table=True):
    """The one end of a hold."""

    __tablename__ = "hold_resolution"
    __table_args__ = (
        CheckConstraint(
            "outcome IN ('captured', 'voided', 'expired')", name="hold_resolution_outcome"
        ),
        CheckConstraint(
            "captured >= 0 AND (captured > 0) = (outcome = 'captured')",
            name="hold_resolution_captured",
        ),
        SCHEMA,
    )

    hold_id: UUID = Field(
        sa_column=uuid_column(
            ForeignKey("settlement.hold.id", name="hold_resolution_hold_id_fkey"),
            primary_key=True,
        )
    )
    outcome: str = Field(sa_column=text_column())
    captured: int = Field(sa_column=bigint_column())
    resolved_at: datetime = Field(sa_column=moment_column())


class ChainHead(SQLModel, table=True):
    """The newest link; its row lock orders commits. Only the chain trigger may write it."""

    __tablename__ = "chain_head"
    __table_args__ = (CheckConstraint("id = 1", name="chain_head_single"), SCHEMA)

    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    number: int = Field(sa_column=bigint_column())
    hash: bytes = Field(sa_column=bytes_column())


class ChainLink(SQLModel, table=True):
    """A batch's place in the chain. Only the chain trigger may insert."""

    __tablename__ = "chain_link"
    __table_args__ = (
        CheckConstraint("octet_length(hash) = 32", name="chain_link_hash_length"),
        UniqueConstraint("batch_id", name="chain_link_batch_id"),
        UniqueConstraint("prev_hash", name="chain_link_prev_hash"),
        SCHEMA,
    )

    number: int = Field(sa_column=bigint_column(primary_key=True, autoincrement=False))
    batch_id: UUID = Field(sa_column=uuid_column())
    prev_hash: bytes = Field(sa_column=bytes_column())
    hash: bytes = Field(sa_column=bytes_column())


class Checkpoint(SQLModel, table=True):
    """A signed statement of the chain's head, also kept outside the database."""

    __tablename__ = "checkpoint"
    __table_args__ = (
        CheckConstraint("octet_length(hash) = 32", name="checkpoint_hash"),
        SCHEMA,
    )

    number: int = Field(sa_column=bigint_column(primary_key=True, autoincrement=False))
    hash: bytes = Field(sa_column=bytes_column())
    jws: str = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())


class TopUp(SQLModel, table=True):
    """Money that a party pays in. Its id is the key of the rail's charge."""

    __tablename__ = "top_up"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="top_up_amount"),
        CheckConstraint(
            "status IN ('pending', 'succeeded', 'failed', 'charged_back')", name="top_up_status"
        ),
        CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="top_up_failure"),
        CheckConstraint("octet_length(request_hash) = 32", name="top_up_request_hash"),
        UniqueConstraint("party_id", "request_key", name="top_up_request"),
        Index("top_up_party_id", "party_id", "id"),
        Index("top_up_due", "next_attempt_at", postgresql_where=text("status = 'pending'")),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column())
    amount_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=currency_column())
    card: str = Field(sa_column=text_column())
    rail: str = Field(sa_column=text_column())
    request_key: bytes = Field(sa_column=bytes_column())
    request_hash: bytes = Field(sa_column=bytes_column())
    status: str = Field(sa_column=text_column())
    failure_code: str | None = Field(default=None, sa_column=text_column(nullable=True))
    redirect_url: str | None = Field(default=None, sa_column=text_column(nullable=True))
    next_attempt_at: datetime = Field(sa_column=moment_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())


class Payout(SQLModel, table=True):
    """Money that a seller takes out. Its id is the key of the rail's payout."""

    __tablename__ = "payout"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="payout_amount"),
        CheckConstraint(
            "status IN ('pending', 'submitted', 'paid', 'failed')", name="payout_status"
        ),
        CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="payout_failure"),
        CheckConstraint("attempts >= 0", name="payout_attempts"),
        Index("payout_party_id", "party_id", "id"),
        Index(
            "payout_due",
            "next_attempt_at",
            postgresql_where=text("status IN ('pending', 'submitted')"),
        ),
        SCHEMA,
    )

    id: UUID = Field(sa_column=uuid_column(primary_key=True))
    party_id: UUID = Field(sa_column=uuid_column())
    amount_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=currency_column())
    destination: str = Field(sa_column=text_column())
    rail: str = Field(sa_column=text_column())
    status: str = Field(sa_column=text_column())
    failure_code: str | None = Field(default=None, sa_column=text_column(nullable=True))
    attempts: int = Field(sa_column=Column(Integer, nullable=False))
    next_attempt_at: datetime = Field(sa_column=moment_column())
    created_at: datetime = Field(sa_column=moment_column())
    updated_at: datetime = Field(sa_column=moment_column())


class JobCursor(SQLModel, table=True):
    """How far a job has read a list that only grows (chargebacks, holds by expiry)."""

    __tablename__ = "job_cursor"
    __table_args__ = (SCHEMA,)

    name: str = Field(sa_column=text_column(primary_key=True))
    position: str = Field(sa_column=text_column())


class SandboxCharge(SQLModel, table=True):
    """The sandbox rail's own record of a charge; its outcome follows from card and time."""

    __tablename__ = "sandbox_charge"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="sandbox_charge_amount"),
        Index(
            "sandbox_charge_chargeback",
            "charged_back_at",
            "key",
            postgresql_where=text("charged_back_at IS NOT NULL"),
        ),
        CheckConstraint(
            "authentication IN ('approved', 'refused')", name="sandbox_charge_authentication"
        ),
        SCHEMA,
    )

    key: UUID = Field(sa_column=uuid_column(primary_key=True))
    amount_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=currency_column())
    card: str = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())
    charged_back_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))
    authentication: str | None = Field(default=None, sa_column=text_column(nullable=True))
    authenticated_at: datetime | None = Field(default=None, sa_column=moment_column(nullable=True))


class SandboxRefund(SQLModel, table=True):
    """The sandbox rail's own record of a refund."""

    __tablename__ = "sandbox_refund"
    __table_args__ = (
        CheckConstraint(AMOUNT_SQL, name="sandbox_refund_amount"),
        Index("sandbox_refund_charge", "charge_key"),
        SCHEMA,
    )

    key: UUID = Field(sa_column=uuid_column(primary_key=True))
    charge_key: UUID = Field(sa_column=uuid_column())
    amount_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=currency_column())
    created_at: datetime = Field(sa_column=moment_column())


class SandboxPayout(SQLModel, table=True):
    """The sandbox rail's own record of a payout."""

    __tablename__ = "sandbox_payout"
    __table_args__ = (CheckConstraint(AMOUNT_SQL, name="sandbox_payout_amount"), SCHEMA)

    key: UUID = Field(sa_column=uuid_column(primary_key=True))
    amount_minor: int = Field(sa_column=bigint_column())
    currency: str = Field(sa_column=currency_column())
    destination: str = Field(sa_column=text_column())
    created_at: datetime = Field(sa_column=moment_column())
