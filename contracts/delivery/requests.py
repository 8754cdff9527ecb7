"""What every way out is asked, and what the answer depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from contracts.models import Unit
from contracts.policy import Policy
from contracts.token_limits import WayOut
from listings.row_filter import ALWAYS, Condition
from listings.typed_columns import Column


class RowsRequest(NamedTuple):
    """What a client asks for, as text; ``delivery_id`` None lets the server choose one."""

    token: str
    grant_id: UUID | None = None
    select: str | None = None
    filter: str | None = None
    order: str | None = None
    after: str | None = None
    limit: int = 100
    accept: str | None = None
    accept_encoding: str = ""
    delivery_id: str | None = None
    address: str | None = None
    # The version's number; None: the one that the agreement says.
    version: int | None = None
    # The way out that asks; unnamed, it is closed to tokens with limits on what they may read.
    operation: WayOut | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What of a grant, its agreement and buyer a delivery depends on.

    ``until`` is when it must be read anew, in ``time.monotonic`` seconds.
    """

    agreement_id: UUID
    product_id: UUID
    version_id: UUID
    version: int
    unit: Unit
    policy: Policy
    at_delivery: Policy
    country: str
    delivery_count: int
    blob_key: str
    row_count: int
    byte_count: int
    sha256: str
    columns: Mapping[str, Column]
    until: float
    only: Condition = ALWAYS
    # A file that is read in the place of the version's, and the digest of what it is.
    file: Path | None = None
    of: str | None = None
