"""The machine-readable terms of access: a small closed profile of ODRL 2.2, evaluated purely.

Clauses (ODRL counterpart): ``purpose`` (purpose), ``territory`` (spatial), ``period`` (dateTime),
``count`` (count), ``redistribution`` (distribute), ``derivative_use`` (derive), ``deletion``
(delete, a duty), ``resale`` (sell), ``versions`` (no counterpart). The first four are checked at
every delivery, in this order; the next three bind the buyer afterwards and are carried in terms
and receipts; ``resale`` is checked when unused units are offered (:mod:`contracts.resale`),
``versions`` where a delivery chooses what it reads (:mod:`contracts.versions.granted`); ``masks``
and ``row_filter`` (refinement) in the copy that is read (:mod:`contracts.copies.masked`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import Field, StringConstraints

from contracts.errors import PolicyRefused
from listings.mask_schemas import Mask
from listings.policy_schemas import FingerprintClause, ResaleClause
from market.kernel.schemas import Schema

Purpose = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$")]


class Clause(StrEnum):
    """The clause that a refusal names."""

    PURPOSE = "purpose"
    TERRITORY = "territory"
    PERIOD = "period"
    COUNT = "count"
    VERSIONS = "versions"
    MASKS = "masks"
    ROW_FILTER = "row_filter"
    FINGERPRINT = "fingerprint"


class Policy(Schema):
    """Terms of access. None or an empty list means: no such restriction."""

    purposes: list[Purpose] = Field(default=[], max_length=50)
    territory: list[Region] = Field(default=[], max_length=250)
    period_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    not_before: datetime | None = None
    not_after: datetime | None = None
    count: Annotated[int, Field(ge=1, le=10**12)] | None = Field(
        default=None, description="Deliveries at most."
    )
    redistribution: bool = Field(default=False, description="May be passed on.")
    derivative_use: bool = Field(default=False, description="May be worked into other products.")
    deletion_days: Annotated[int, Field(ge=0, le=36_500)] | None = Field(
        default=None, description="Copies are deleted within so many days after the term."
    )
    meter_side: Literal["buyer_safe", "seller_safe"] = Field(
        default="buyer_safe",
        description="Who bears a delivery of which a fault left no proof (docs/metering.md).",
    )
    sub_lease_units: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=0,
        description="Units that each server process may meter by itself, and lose at a crash "
        "(docs/metering.md); 0: each delivery by itself. Only buyer_safe.",
    )
    resale: ResaleClause | None = Field(
        default=None, description="null: units stay with the buyer."
    )
    fingerprint: FingerprintClause | None = Field(
        default=None, description="Marks by which the buyer's copy is recognized; null: none."
    )
    masks: list[Mask] = Field(
        default=[], description="Columns that the buyer gets less exactly (docs/masks.md)."
    )
    row_filter: str | None = Field(
        default=None, description="Which rows the buyer gets; null: all."
    )
    versions: Literal["pinned", "follow_latest"] = Field(
        default="pinned", description="Which versions may be read (docs/versions.md)."
    )
    breaking_notice_days: Annotated[int, Field(ge=0, le=365)] = Field(
        default=14, description="How long a breaking version is announced before it is followed."
    )

    def frozen(self, formed_at: datetime, term: timedelta) -> Self:
        """The policy as an agreement carries it: with the moments between which it allows use.

        The period ends with the plan's term, with ``period_days`` or at the policy's own
        ``not_after``, whichever comes first.
        """
        ends = [formed_at + term]
        if self.period_days is not None:
            ends.append(formed_at + timedelta(days=self.period_days))
        if self.not_after is not None:
            ends.append(self.not_after)
        begin = formed_at if self.not_before is None else max(formed_at, self.not_before)
        return self.model_copy(update={"not_before": begin, "not_after": min(ends)})

    def covers(self, country: str) -> bool:
        """Whether ``country`` lies in the territory.

        A party's jurisdiction is a country, so a subdivision in the territory admits its country.
        """
        return not self.territory or any(region[:2] == country for region in self.territory)


@dataclass(frozen=True, slots=True)
class Access:
    """One attempt: who reads, where from, what for, when, and how often before."""

    country: str
    now: datetime
    deliveries_before: int = 0
    purpose: str | None = None


def evaluate(policy: Policy, access: Access) -> None:
    """Raises PolicyRefused (403, extra ``clause``) for the first clause that does not hold.

    A reader that declares no purpose acts within the agreed ones; a declared one must be agreed.
    """
    if policy.purposes and access.purpose is not None and access.purpose not in policy.purposes:
        raise _refused(Clause.PURPOSE, f"The purpose {access.purpose} was not agreed.")
    if not policy.covers(access.country):
        raise _refused(Clause.TERRITORY, f"Use in {access.country} was not agreed.")
    if policy.not_before is not None and access.now < policy.not_before:
        raise _refused(Clause.PERIOD, f"Access begins at {policy.not_before.isoformat()}.")
    if policy.not_after is not None and access.now >= policy.not_after:
        raise _refused(Clause.PERIOD, f"Access ended at {policy.not_after.isoformat()}.")
    if policy.count is not None and access.deliveries_before >= policy.count:
        raise _refused(Clause.COUNT, f"All {policy.count} deliveries have been made.")


def refuse_version(detail: str) -> NoReturn:
    """Raises PolicyRefused (403, clause ``versions``)."""
    raise _refused(Clause.VERSIONS, detail)


def refuse_masked(policy: Policy) -> None:
    """Raises PolicyRefused (403) if the data must go through the policy's masks or row filter."""
    if policy.masks:
        raise _refused(Clause.MASKS, "What an upstream answers cannot be masked as agreed.")
    if policy.row_filter is not None:
        raise _refused(Clause.ROW_FILTER, "What an upstream answers cannot be filtered as agreed.")


def _refused(clause: Clause, detail: str) -> PolicyRefused:
    return PolicyRefused(detail, clause=clause.value)


def parse_policy(stored: Mapping[str, Any] | None) -> Policy:
    """The policy of a listing or of frozen terms. Raises ValidationError for a foreign form."""
    return Policy.model_validate(dict(stored or {}))
