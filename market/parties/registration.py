"""New parties: public sign-up, staff made by an operator, the first operator."""

from typing import Final
from uuid import NAMESPACE_URL, UUID, uuid5

from sqlmodel import col, select

from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import Actor, Role
from market.parties.credentials import FreshSecret, fresh_secret, issue
from market.parties.directory import full_view
from market.parties.errors import OperatorExists, RulesOutdated
from market.parties.models import (
    Decision,
    DecisionKind,
    Party,
    PartyKind,
    PartyStatus,
    RulesAcceptance,
)
from market.parties.rules import current_rules
from market.parties.schemas import (
    Contact,
    EvidenceKind,
    IdentityEvidence,
    Registration,
    SignUp,
    StaffSignUp,
)
from market.parties.throttle import limit_sign_ups

FIRST_LABEL: Final = "first"


async def sign_up(kernel: Kernel, body: SignUp, *, address: str) -> Registration:
    """Register a pending organization with its first credential (public).

    Raises RulesOutdated (422), RateLimited (429) and HashingBusy (503).
    Emits ``party.registered`` and ``credential.created``.
    """
    await limit_sign_ups(kernel, address)
    # Nobody is logged in yet: one address cannot meet another's Idempotency-Keys.
    idempotency.bind_scope(uuid5(NAMESPACE_URL, f"market:sign-up:{address}"))
    if body.rules_version != current_rules().version:
        raise RulesOutdated(
            f"The current version is {current_rules().version}.", param="rules_version"
        )
    secret = await fresh_secret(kernel)
    async with kernel.unit_of_work() as uow:
        party = _new_party(uow, body, roles=frozenset(body.roles))
        party.tax_number = body.tax_number
        made = await _register(uow, party, secret, created_by=party.id)
        uow.session.add(
            RulesAcceptance(
                party_id=party.id, rules_version=body.rules_version, accepted_at=uow.now
            )
        )
        await uow.answer(made, headers=_location(party), secret=True)
    return made


async def appoint_staff(kernel: Kernel, actor: Actor, body: StaffSignUp) -> Registration:
    """Create a verified operator, arbiter or regulator; operators only.

    The secret is in this answer only; the operator hands it over. Raises RoleRequired (403).
    Emits ``party.registered``, ``party.verified`` and ``credential.created``.
    """
    actor.require(Role.OPERATOR)
    secret = await fresh_secret(kernel)
    async with kernel.unit_of_work() as uow:
        party = _new_party(uow, body, roles=frozenset({body.role}))
        made = await _appoint(uow, party, secret, decided_by=actor.party_id)
        await uow.answer(made, headers=_location(party), secret=True)
    return made


async def bootstrap_operator(
    kernel: Kernel, name: str, *, jurisdiction: str = "CN", recover: bool = False
) -> tuple[str, str]:
    """Create the first operator and return ``(client_id, client_secret)``; for the CLI only.

    With ``recover``, another one is made although there is an operator (its secret is lost).
    Raises OperatorExists (409) otherwise, and ValidationError for a name or jurisdiction that
    the API would refuse. Emits the events of :func:`appoint_staff`.
    """
    body = StaffSignUp(
        name=name, kind=PartyKind.COMPANY, jurisdiction=jurisdiction, role=Role.OPERATOR
    )
    secret = await fresh_secret(kernel)
    async with kernel.unit_of_work() as uow:
        # Two first starts at once must not make two operators.
        connection = await uow.raw()
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('parties.bootstrap_operator', 0))"
        )
        if not recover and await _operator_exists(uow):
            raise OperatorExists
        party = _new_party(uow, body, roles=frozenset({Role.OPERATOR}))
        made = await _appoint(uow, party, secret, decided_by=party.id)
    return show("crd", made.credential.client_id), made.credential.client_secret


def _new_party(uow: UnitOfWork, body: SignUp | StaffSignUp, *, roles: frozenset[Role]) -> Party:
    contact = body.contact or Contact()
    return Party(
        id=new_id(),
        name=body.name,
        kind=body.kind,
        jurisdiction=body.jurisdiction,
        roles=sorted(roles),
        status=PartyStatus.PENDING,
        contact_name=contact.name,
        contact_email=contact.email,
        contact_phone=contact.phone,
        version=1,
        created_at=uow.now,
        updated_at=uow.now,
    )


async def _appoint(
    uow: UnitOfWork, party: Party, secret: FreshSecret, *, decided_by: UUID
) -> Registration:
    party.status = PartyStatus.VERIFIED
    party.verified_at = uow.now
    made = await _register(uow, party, secret, created_by=decided_by)
    appointment = IdentityEvidence(
        kind=EvidenceKind.APPOINTMENT, reference=f"appointed by {show('pty', decided_by)}"
    )
    uow.session.add(
        Decision(
            id=new_id(),
            party_id=party.id,
            kind=DecisionKind.VERIFY,
            decided_by=decided_by,
            evidence=[appointment.model_dump(mode="json")],
            decided_at=uow.now,
        )
    )
    uow.emit(
        "party.verified",
        party.id,
        {"party_id": show("pty", party.id), "decided_by": show("pty", decided_by)},
        parties=[party.id],
    )
    return made


async def _register(
    uow: UnitOfWork, party: Party, secret: FreshSecret, *, created_by: UUID
) -> Registration:
    uow.session.add(party)
    await uow.session.flush()
    uow.emit(
        "party.registered",
        party.id,
        {
            "party_id": show("pty", party.id),
            "name": party.name,
            "kind": party.kind.value,
            "jurisdiction": party.jurisdiction,
            "roles": party.roles,
            "status": party.status.value,
        },
        parties=[party.id],
    )
    credential = issue(
        uow,
        party.id,
        secret=secret,
        label=FIRST_LABEL,
        roles=party.role_set,
        created_by=created_by,
    )
    return Registration(party=full_view(party), credential=credential)


async def _operator_exists(uow: UnitOfWork) -> bool:
    statement = select(Party.id).where(col(Party.roles).contains([Role.OPERATOR.value])).limit(1)
    return (await uow.session.exec(statement)).first() is not None


def _location(party: Party) -> dict[str, str]:
    return {"Location": f"/v1/parties/{show('pty', party.id)}"}
