"""Telling a reader that the copy it gets carries marks of its own."""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, select

from contracts.models import Agreement
from contracts.policy import Policy, parse_policy
from market.kernel.context import Kernel

HEADER = "Fingerprinted"
DESCRIPTION = "`true` where the data carries marks of this agreement; absent without."


def disclosure(policy: Policy) -> dict[str, str]:
    """The header of every answer with data under ``policy``; none without the clause."""
    return {} if policy.fingerprint is None else {HEADER: "true"}


async def disclosure_of(kernel: Kernel, agreement_id: UUID) -> dict[str, str]:
    """As :func:`disclosure`, for an agreement's own policy."""
    query = select(Agreement.terms).where(col(Agreement.id) == agreement_id)
    async with kernel.unit_of_work() as uow:
        terms = (await uow.session.exec(query)).one()
    return disclosure(parse_policy(terms["policy"]))
