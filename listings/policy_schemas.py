"""API shapes of a listing's policy: what a buyer may do, and how delivery treats it."""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StringConstraints, model_validator

from listings.mask_schemas import MASKS_MAX, ColumnName, Mask, PseudonymMask, Step
from listings.row_filter import FILTER_MAX_CHARS
from listings.vocabulary import Purpose
from market.kernel.schemas import Schema

DAYS_MAX = 36_500
# The reseller keeps at least half of its net.
RESALE_ROYALTY_PPM_MAX = 500_000


def distinct(values: list[Any]) -> list[Any]:
    """For AfterValidator. Raises ValueError for a repetition."""
    if len(set(values)) != len(values):
        raise ValueError("values must not repeat")
    return values


Region = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Z]{2}(-[A-Z0-9]{1,3})?$"),
    Field(description="ISO 3166-1 country or ISO 3166-2 subdivision.", examples=["CN-SH"]),
]
UNIQUE = {"uniqueItems": True}
Days = Annotated[int, Field(strict=True, ge=0, le=DAYS_MAX)]


RowFilter = Annotated[str, StringConstraints(min_length=1, max_length=FILTER_MAX_CHARS)]


class ResaleClause(Schema):
    """Unused metered units may be sold on; a resale never outlives the original term.

    ``royalty_ppm`` of the reseller's net goes to the original seller, who shares it with its
    contributors as it shares its own sales.
    """

    royalty_ppm: Annotated[int, Field(strict=True, ge=0, le=RESALE_ROYALTY_PPM_MAX)] = 0
    min_remaining_days: Annotated[int, Field(strict=True, ge=0, le=DAYS_MAX)] = Field(
        default=0, description="Units with less of their term left are not sold on."
    )


class MarkedColumn(Schema):
    """A numeric column of which values may be changed, each by no more than ``tolerance``."""

    name: ColumnName
    tolerance: Step


class FingerprintClause(Schema):
    """Each buyer's copy carries marks of its own, by which a leaked one can be recognized.

    Rows are known by ``keys``, whose values are never changed (docs/fingerprint.md).
    """

    keys: Annotated[list[ColumnName], Field(min_length=1, max_length=8)]
    columns: Annotated[list[MarkedColumn], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [*self.keys, *(column.name for column in self.columns)]
        if len(set(names)) != len(names):
            raise ValueError("a column is named twice")
        return self


class Policy(Schema):
    """What a buyer may do with the data. What is not allowed here is forbidden."""

    purposes: Annotated[
        list[Purpose],
        Field(min_length=1, max_length=len(Purpose), json_schema_extra=UNIQUE),
        AfterValidator(distinct),
    ]
    territory: Annotated[
        list[Region],
        Field(max_length=64, json_schema_extra=UNIQUE),
        AfterValidator(distinct),
    ] = Field(description="Where the data may be used; empty: anywhere.")
    redistribution: StrictBool
    derivative_use: StrictBool
    deletion_days: Days | None = Field(
        default=None, description="Days after the end of access to delete it; null: no duty."
    )
    period_days: Annotated[int, Field(strict=True, ge=1, le=DAYS_MAX)] | None = Field(
        default=None, description="Days of permitted use from the agreement; null: the plan's term."
    )
    meter_side: Literal["buyer_safe", "seller_safe"] = Field(
        default="buyer_safe",
        description="A delivery of which a fault left no proof is unbilled (buyer_safe), or billed "
        "and free to fetch again (seller_safe).",
    )
    sub_lease_units: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = Field(
        default=0,
        description="Units that each server process may meter by itself, and lose at a crash "
        "(docs/metering.md); 0: each delivery by itself. Only buyer_safe.",
    )
    resale: ResaleClause | None = Field(
        default=None, description="Resale of unused units; null: not allowed."
    )
    versions: Literal["pinned", "follow_latest"] = Field(
        default="pinned",
        description="A buyer reads the version that was bought, or the latest certified one and "
        "those since the one bought.",
    )
    breaking_notice_days: Annotated[int, Field(strict=True, ge=0, le=365)] = Field(
        default=14,
        description="A version that removes or retypes a column is followed so many days after it "
        "was certified.",
    )
    masks: Annotated[list[Mask], Field(max_length=MASKS_MAX)] = Field(
        default=[], description="Columns that buyers get less exactly, each at most once."
    )
    row_filter: (
        Annotated[str, StringConstraints(min_length=1, max_length=FILTER_MAX_CHARS)] | None
    ) = Field(
        default=None,
        description="Which rows are sold, in the filter language of the rows API, over the values "
        "before masks; null: all.",
    )
    fingerprint: FingerprintClause | None = Field(
        default=None, description="Marks by which a buyer's copy is recognized; null: none."
    )

    @model_validator(mode="after")
    def _sub_leases_are_buyer_safe(self) -> Self:
        if self.sub_lease_units and self.meter_side != "buyer_safe":
            raise ValueError("sub_lease_units needs meter_side buyer_safe")
        return self

    @model_validator(mode="after")
    def _masks_leave_marks(self) -> Self:
        masked = {mask.column: mask for mask in self.masks}
        if len(masked) < len(self.masks):
            raise ValueError("a column is masked twice")
        if self.fingerprint is not None:
            if any(column.name in masked for column in self.fingerprint.columns):
                raise ValueError("a column is both masked and marked")
            for name in self.fingerprint.keys:
                if name in masked and not isinstance(masked[name], PseudonymMask):
                    raise ValueError("keys of a fingerprint take no mask but pseudonym")
        return self
