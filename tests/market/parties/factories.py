"""Parties for every test, made by the real services (no rows written behind their back)."""

import itertools
import uuid
from dataclasses import dataclass, replace

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Actor, Role
from market.parties.models import STAFF_ROLES, PartyKind
from market.parties.registration import appoint_staff, sign_up
from market.parties.rules import current_rules
from market.parties.schemas import (
    EvidenceKind,
    IdentityEvidence,
    Registration,
    SignUp,
    StaffSignUp,
    Verification,
)
from market.parties.tokens import mint_access_token
from market.parties.verification import verify_party

EVIDENCE = IdentityEvidence(kind=EvidenceKind.BUSINESS_LICENSE, reference="test license 1")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Member:
    """An organization with one credential and an access token of it."""

    party_id: uuid.UUID
    client_id: str
    client_secret: str
    actor: Actor
    token: str

    @property
    def id(self) -> str:
        """The party's id on the wire."""
        return show("pty", self.party_id)

    def headers(self, key: str | None = None) -> dict[str, str]:
        """Authorization and an Idempotency-Key (a fresh one by default)."""
        return {
            "Authorization": f"Bearer {self.token}",
            "Idempotency-Key": key or uuid.uuid4().hex,
        }

    def with_fresh_token(self, kernel: Kernel) -> "Member":
        """The same member with a new token, for tests that moved the clock."""
        token = mint_access_token(
            kernel, self.party_id, self.actor.credential_id, roles=self.actor.roles
        )
        return replace(self, token=token.access_token)


async def make_party(
    kernel: Kernel,
    *roles: Role,
    name: str | None = None,
    verified: bool = True,
    jurisdiction: str = "CN",
    kind: PartyKind = PartyKind.COMPANY,
) -> Member:
    """Register a party: sellers and buyers by sign-up, staff (one role) by appointment."""
    name = name or f"{roles[0].value} {next(_numbers)}"
    if roles[0] in STAFF_ROLES:
        assert len(roles) == 1, "staff has one role"
        made = await appoint_staff(
            kernel,
            _any_operator(),
            StaffSignUp.model_validate(
                {"name": name, "kind": kind, "jurisdiction": jurisdiction, "role": roles[0]}
            ),
        )
        return member_of(kernel, made)
    made = await sign_up(
        kernel,
        SignUp.model_validate(
            {
                "name": name,
                "kind": kind,
                "jurisdiction": jurisdiction,
                "roles": list(roles),
                "rules_version": current_rules().version,
            }
        ),
        address=f"factory-{uuid.uuid4().hex}",
    )
    if verified:
        await verify_party(
            kernel, _any_operator(), made.party.id, Verification(evidence=[EVIDENCE])
        )
    return member_of(kernel, made)


def member_of(kernel: Kernel, made: Registration) -> Member:
    """A member that is logged in with its new credential."""
    roles = frozenset(made.party.roles)
    token = mint_access_token(kernel, made.party.id, made.credential.id, roles=roles)
    return Member(
        party_id=made.party.id,
        client_id=show("crd", made.credential.client_id),
        client_secret=made.credential.client_secret,
        actor=Actor(
            party_id=made.party.id,
            credential_id=made.credential.id,
            roles=roles,
            token_id=uuid.uuid4().hex,
        ),
        token=token.access_token,
    )


def _any_operator() -> Actor:
    return Actor(
        party_id=new_id(),
        credential_id=new_id(),
        roles=frozenset({Role.OPERATOR}),
        token_id=uuid.uuid4().hex,
    )
