"""Check a proof of one transfer offline: pure, needs the file and the published keys only.

From the leaf (what was booked) by the audit path to the batch's root, by the chain's links to
the next signed checkpoint. Every byte of the file matters: it must be exactly as it was written.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, ValidationError

from market.kernel.ids import parse, show
from market.kernel.security import InvalidToken, verify_with_jwks
from settlement.chain import leaf_hash, link_hash
from settlement.checkpoints import CHECKPOINT_TYP
from settlement.inclusion import root_of

PROOF_FORMAT: Final = "ledger-proof-1"
PROOF_LINKS_MAX = 100_000
PROOF_MAX_BYTES = 16 * 2**20
# A batch has at most 4,096 commands: 12 levels.
_PATH_MAX = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Lower case only: the same bytes must not be writable in two ways.
_Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class ProofInvalid(ValueError):
    """The file does not prove what it says; the message tells where it breaks."""


class _Link(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    number: StrictInt = Field(ge=1, lt=2**63)
    previous: _Hash = Field(description="Hash of the link before.")


class Proof(BaseModel):
    """That one transfer is in the ledger, up to a checkpoint that the exchange has signed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["ledger-proof-1"] = PROOF_FORMAT
    transfer_id: str = Field(pattern="^txn_[0-9a-f]{32}$")
    leaf: str = Field(description="What was booked, in the exact bytes that were hashed.")
    path: list[tuple[Literal["left", "right"], _Hash]] = Field(
        max_length=_PATH_MAX, description="RFC 6962 audit path within the batch, lowest first."
    )
    link: _Link = Field(description="The batch's place in the hash chain.")
    roots: list[_Hash] = Field(
        max_length=PROOF_LINKS_MAX, description="Roots of the links after it, to the checkpoint."
    )
    checkpoint: str = Field(description='Compact JWS, typ "ledger-checkpoint+jws".')

    def to_bytes(self) -> bytes:
        """The only form in which a proof is valid."""
        return self.model_dump_json().encode()


@dataclass(frozen=True, slots=True)
class ProvenPosting:
    """One leg; ``amount`` in minor units, positive is a credit."""

    account_id: UUID
    seq: int
    amount: int
    currency: str


@dataclass(frozen=True, slots=True)
class ProvenTransfer:
    """What a valid proof shows. ``checkpoint_number`` is the link that the exchange signed."""

    id: UUID
    kind: str
    memo_id: UUID | None
    reverses: UUID | None
    event_at: datetime
    booked_at: datetime
    postings: tuple[ProvenPosting, ...]
    link_number: int
    checkpoint_number: int
    checkpoint_at: str

    def summary(self) -> dict[str, Any]:
        """For people and programs: ids in wire form."""
        return {
            "transfer_id": show("txn", self.id),
            "kind": self.kind,
            "memo_id": self.memo_id and str(self.memo_id),
            "reverses": self.reverses and show("txn", self.reverses),
            "event_at": self.event_at.isoformat(),
            "booked_at": self.booked_at.isoformat(),
            "postings": [
                {
                    "account_id": show("acc", posting.account_id),
                    "seq": posting.seq,
                    "amount_minor": posting.amount,
                    "currency": posting.currency,
                }
                for posting in self.postings
            ],
            "link_number": self.link_number,
            "checkpoint_number": self.checkpoint_number,
            "checkpoint_at": self.checkpoint_at,
        }


def check_proof(data: bytes, jwks: Mapping[str, Any]) -> ProvenTransfer:
    """What ``data`` proves, by the exchange's published keys. Raises ProofInvalid.

    One line feed at the end is tolerated, as editors and shells add it.
    """
    if len(data) > PROOF_MAX_BYTES:
        raise ProofInvalid("the file is larger than any proof")
    data = data.removesuffix(b"\n")
    try:
        proof = Proof.model_validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"]) or "the file"
        raise ProofInvalid(f"not a proof: {place}: {first['msg']}") from error
    if proof.to_bytes() != data:
        raise ProofInvalid("the file is not byte for byte as the exchange wrote it")
    number = proof.link.number
    root = root_of(
        leaf_hash(proof.leaf.encode()), [(side, bytes.fromhex(h)) for side, h in proof.path]
    )
    head = link_hash(bytes.fromhex(proof.link.previous), number, root)
    for root_hex in proof.roots:
        number += 1
        head = link_hash(head, number, bytes.fromhex(root_hex))
    claims = _checkpoint(proof.checkpoint, jwks)
    if (claims.get("number"), claims.get("hash")) != (number, head.hex()):
        raise ProofInvalid("leaf, path and links do not lead to the signed checkpoint")
    return _proven(proof, number, str(claims.get("at", "")))


def _checkpoint(jws: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    signature = jws.rpartition(".")[2]
    try:
        # Base64 leaves unused bits at its end: without this, three other texts were valid too.
        raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
        if base64.urlsafe_b64encode(raw).decode().rstrip("=") != signature:
            raise ProofInvalid("the checkpoint's signature is not in canonical base64url")
        return verify_with_jwks(CHECKPOINT_TYP, jws, jwks)
    except InvalidToken as error:
        raise ProofInvalid(f"the checkpoint is not signed by these keys: {error.detail}") from error
    except ProofInvalid:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise ProofInvalid("the checkpoint or the key set cannot be read") from error


def _proven(proof: Proof, checkpoint_number: int, checkpoint_at: str) -> ProvenTransfer:
    # The hashes are good, so these are the exchange's own bytes; their form may still be newer.
    try:
        leaf = orjson.loads(proof.leaf)
        leaf_format, booked_us, transfer = leaf[0], leaf[4], leaf[7]
        if leaf_format not in (1, 2) or transfer is None:
            raise ProofInvalid("the leaf is no transfer in a format that this version knows")
        identity = UUID(transfer[0])
        proven = ProvenTransfer(
            id=identity,
            kind=transfer[1],
            memo_id=transfer[2] and UUID(transfer[2]),
            event_at=_EPOCH + timedelta(microseconds=transfer[3]),
            reverses=transfer[4] and UUID(transfer[4]),
            postings=tuple(
                ProvenPosting(UUID(account), seq, amount, currency)
                for account, seq, amount, currency, *_ in transfer[5]
            ),
            booked_at=_EPOCH + timedelta(microseconds=booked_us),
            link_number=proof.link.number,
            checkpoint_number=checkpoint_number,
            checkpoint_at=checkpoint_at,
        )
    except (orjson.JSONDecodeError, IndexError, KeyError, TypeError) as error:
        raise ProofInvalid("the leaf is in a format that this version does not know") from error
    if parse("txn", proof.transfer_id) != identity:
        raise ProofInvalid("the proof is of another transfer than it says")
    return proven
