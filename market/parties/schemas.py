"""API shapes of market.parties."""

from collections.abc import Hashable, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from market.kernel.ids import CredentialId, PartyId
from market.kernel.schemas import LongText, Schema, ShortText
from market.kernel.security import Role
from market.parties.jurisdictions import Jurisdiction
from market.parties.models import DecisionKind, PartyKind, PartyStatus

EVIDENCE_MAX = 20

T = TypeVar("T", bound=Hashable)


def _distinct(values: list[T]) -> list[T]:
    if len(set(values)) != len(values):
        raise ValueError("values must not repeat")
    return values


_UNIQUE = {"uniqueItems": True}
TraderRoles = Annotated[
    list[Literal[Role.SELLER, Role.BUYER]],
    Field(min_length=1, max_length=2, json_schema_extra=_UNIQUE, examples=[["buyer"]]),
    AfterValidator(_distinct),
]
Roles = Annotated[
    list[Role],
    Field(min_length=1, max_length=len(Role), json_schema_extra=_UNIQUE),
    AfterValidator(_distinct),
]
StaffRole = Literal[Role.OPERATOR, Role.ARBITER, Role.REGULATOR]
TaxNumber = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Z][0-9A-Z./-]{3,39}$"),
    Field(description="Tax or registration number, for example a 统一社会信用代码."),
]
Email = Annotated[
    str,
    StringConstraints(
        max_length=254,
        pattern=r"^[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,8}$",
    ),
    Field(examples=["data@bureau.example"]),
]
Phone = Annotated[
    str,
    StringConstraints(pattern=r"^\+[1-9][0-9]{6,14}$"),
    Field(description="E.164, for example +861012345678."),
]
Sha256Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Contact(Schema):
    """Whom to reach. Seen by the party itself, operators and regulators only."""

    name: ShortText | None = None
    email: Email | None = None
    phone: Phone | None = None


class SignUp(Schema):
    """A new organization. Staff roles cannot be had this way."""

    name: ShortText = Field(examples=["Weather Bureau"])
    kind: PartyKind
    jurisdiction: Jurisdiction
    roles: TraderRoles
    rules_version: ShortText = Field(
        description="The version of GET /v1/rules that the organization accepts.",
        examples=["2026-11-01"],
    )
    tax_number: TaxNumber | None = None
    contact: Contact | None = None


class StaffSignUp(Schema):
    """A new operator, arbiter or regulator. One role each: duties stay separate."""

    name: ShortText
    kind: PartyKind
    jurisdiction: Jurisdiction
    role: StaffRole
    contact: Contact | None = None


class PublicParty(Schema):
    """What every logged-in organization may know about another."""

    id: PartyId
    name: str
    kind: PartyKind
    jurisdiction: str
    status: PartyStatus


class PartyView(PublicParty):
    """The whole record, for the party itself, operators and regulators."""

    roles: list[Role]
    tax_number: str | None
    contact: Contact
    affiliate_group: UUID | None = Field(
        description="Parties of one group are related: they do not trade or judge each other."
    )
    version: int
    created_at: datetime
    updated_at: datetime
    verified_at: datetime | None
    suspended_at: datetime | None


def _without_null(schema: dict[str, Any]) -> None:
    """OpenAPI of a field that may be absent but not null."""
    options = schema.pop("anyOf")
    schema.update(next(option for option in options if option.get("type") != "null"))
    schema.pop("default", None)


class PartyPatch(Schema):
    """The fields to change. ``null`` clears a field that may be empty.

    Identity (name, kind, jurisdiction, tax number) can be changed by the party itself until it is
    verified, later only by an operator; ``affiliate_group`` only by an operator.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    name: ShortText | None = Field(default=None, json_schema_extra=_without_null)
    kind: PartyKind | None = Field(default=None, json_schema_extra=_without_null)
    jurisdiction: Jurisdiction | None = Field(default=None, json_schema_extra=_without_null)
    tax_number: TaxNumber | None = None
    contact: Contact | None = None
    affiliate_group: UUID | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one field")
        for name in ("name", "kind", "jurisdiction"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


class EvidenceKind(StrEnum):
    """What proved an organization's identity."""

    BUSINESS_LICENSE = "business_license"
    REGISTRY_EXTRACT = "registry_extract"
    TAX_CERTIFICATE = "tax_certificate"
    AUTHORIZATION_LETTER = "authorization_letter"
    IDENTITY_DOCUMENT = "identity_document"
    APPOINTMENT = "appointment"


class IdentityEvidence(Schema):
    """One document that was checked; the document itself stays with the operator."""

    kind: EvidenceKind
    reference: ShortText = Field(description="Number or file reference of the document.")
    sha256: Sha256Hex | None = Field(default=None, description="Digest of the scanned document.")


class Verification(Schema):
    """An operator's confirmation of identity, with what proved it."""

    evidence: list[IdentityEvidence] = Field(min_length=1, max_length=EVIDENCE_MAX)
    reason: LongText | None = None


class Suspension(Schema):
    """An operator's exclusion of an organization, with the reason."""

    reason: LongText


class DecisionView(Schema):
    """One identity decision as it was recorded."""

    id: UUID
    party_id: PartyId
    kind: DecisionKind
    decided_by: PartyId
    reason: str | None
    evidence: list[IdentityEvidence]
    decided_at: datetime


class CredentialRequest(Schema):
    """A further credential of the caller's organization, for rotation or for a narrower use."""

    label: ShortText = Field(examples=["delivery job"])
    roles: Roles | None = Field(
        default=None, description="Some of your own roles; without it, all of them."
    )


class CredentialView(Schema):
    """A credential without its secret. ``id`` is the OAuth2 client_id."""

    id: CredentialId
    party_id: PartyId
    label: str
    roles: list[Role]
    created_at: datetime
    revoked_at: datetime | None


class NewCredential(CredentialView):
    """A credential with its secret, which is shown this once and stored hashed."""

    client_id: CredentialId
    client_secret: str


class Registration(Schema):
    """The new organization and its first credential."""

    party: PartyView
    credential: NewCredential


class ClauseView(Schema):
    """One clause; ``number`` is how rulings cite it."""

    number: str
    en: str
    zh: str


class RulesView(Schema):
    """One version of the exchange's rules."""

    version: str
    effective_on: date
    clauses: Sequence[ClauseView]


class AccessToken(Schema):
    """RFC 6749 §5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - a scheme name, not a secret
    expires_in: int = Field(description="Seconds.")
    scope: str = Field(description="The roles of the token, separated by spaces.")
