"""Credentials: issue, list, revoke. A party may hold several, which is how it rotates."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import func
from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.kernel.settings import Settings
from market.parties.directory import after_id, lock_party
from market.parties.errors import (
    CredentialNotFound,
    LastCredential,
    RolesNotHeld,
    TooManyCredentials,
)
from market.parties.hashing import hasher
from market.parties.keys import KeyEnvironment, mint_secret
from market.parties.models import Credential
from market.parties.schemas import CredentialRequest, CredentialView, NewCredential

LIVE_CREDENTIALS_MAX: Final = 10


@dataclass(frozen=True, slots=True)
class FreshSecret:
    """A new secret and its hash, made before the unit of work opens: hashing takes 32 ms."""

    text: str
    hash: str


def key_environment(settings: Settings) -> KeyEnvironment:
    """The prefix of this exchange's keys."""
    return KeyEnvironment.SANDBOX if settings.is_sandbox else KeyEnvironment.LIVE


async def fresh_secret(kernel: Kernel) -> FreshSecret:
    """Mint and hash a secret. Raises HashingBusy (503)."""
    text = mint_secret(key_environment(kernel.settings))
    return FreshSecret(text, await hasher.hash(text))


def issue(
    uow: UnitOfWork,
    party_id: UUID,
    *,
    secret: FreshSecret,
    label: str,
    roles: frozenset[Role],
    created_by: UUID,
) -> NewCredential:
    """Add a credential inside an open unit of work. Emits ``credential.created``."""
    credential = Credential(
        id=new_id(),
        party_id=party_id,
        label=label,
        roles=sorted(roles),
        secret_hash=secret.hash,
        created_at=uow.now,
    )
    uow.session.add(credential)
    uow.emit(
        "credential.created",
        credential.id,
        {
            "credential_id": show("crd", credential.id),
            "party_id": show("pty", party_id),
            "roles": sorted(roles),
            "created_by": show("pty", created_by),
        },
        parties=[party_id],
    )
    return NewCredential(
        **dict(credential_view(credential)), client_id=credential.id, client_secret=secret.text
    )


def credential_view(credential: Credential) -> CredentialView:
    """What may be shown of a credential."""
    return CredentialView(
        id=credential.id,
        party_id=credential.party_id,
        label=credential.label,
        roles=[Role(role) for role in credential.roles],
        created_at=credential.created_at,
        revoked_at=credential.revoked_at,
    )


async def create_credential(kernel: Kernel, actor: Actor, body: CredentialRequest) -> NewCredential:
    """A further credential of the actor's own party; the secret is in this answer only.

    Raises RolesNotHeld (403) for roles that the actor itself lacks, so that a narrow credential
    cannot make a broad one, TooManyCredentials (409) and HashingBusy (503).
    """
    roles = frozenset(body.roles) if body.roles is not None else actor.roles
    if not roles <= actor.roles:
        raise RolesNotHeld(param="roles")
    secret = await fresh_secret(kernel)
    async with kernel.unit_of_work() as uow:
        await lock_party(uow, actor.party_id)
        if await _count_live(uow, actor.party_id) >= LIVE_CREDENTIALS_MAX:
            raise TooManyCredentials(f"At most {LIVE_CREDENTIALS_MAX} may be live.")
        made = issue(
            uow,
            actor.party_id,
            secret=secret,
            label=body.label,
            roles=roles,
            created_by=actor.party_id,
        )
        await uow.answer(made, secret=True)
    return made


async def list_credentials(
    kernel: Kernel, actor: Actor, page: PageQuery, *, live: bool | None = None
) -> Page[CredentialView]:
    """The actor's party's credentials, oldest first, revoked ones included unless ``live``."""
    statement = (
        select(Credential)
        .where(Credential.party_id == actor.party_id)
        .order_by(col(Credential.id))
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Credential.id) > after)
    if live is not None:
        revoked = col(Credential.revoked_at)
        statement = statement.where(revoked.is_(None) if live else revoked.is_not(None))
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()
    return Page[CredentialView].of(
        [credential_view(row) for row in rows], page.limit, [(row.id,) for row in rows]
    )


async def revoke_credential(kernel: Kernel, actor: Actor, credential_id: UUID) -> None:
    """End a credential of the actor's own party; its access tokens are refused from now on.

    Repeating it changes nothing. Raises CredentialNotFound (404) and LastCredential (409).
    Emits ``credential.revoked``.
    """
    async with kernel.unit_of_work() as uow:
        # The party's row serializes this: two parallel calls cannot revoke the last two.
        await lock_party(uow, actor.party_id)
        credential = await uow.session.get(Credential, credential_id)
        if credential is None or credential.party_id != actor.party_id:
            raise CredentialNotFound
        if credential.revoked_at is not None:
            return
        if await _count_live(uow, actor.party_id) == 1:
            raise LastCredential
        credential.revoked_at = uow.now
        credential.revoked_by = actor.party_id
        uow.emit(
            "credential.revoked",
            credential.id,
            {
                "credential_id": show("crd", credential.id),
                "party_id": show("pty", actor.party_id),
            },
            parties=[actor.party_id],
        )


async def _count_live(uow: UnitOfWork, party_id: UUID) -> int:
    statement = (
        select(func.count())
        .select_from(Credential)
        .where(Credential.party_id == party_id, col(Credential.revoked_at).is_(None))
    )
    return (await uow.session.exec(statement)).one()
