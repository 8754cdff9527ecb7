"""Changing a party's own record."""

from typing import Final
from uuid import UUID

from market.kernel.context import Kernel
from market.kernel.http import require_version
from market.kernel.ids import show
from market.kernel.security import Actor, Role, RoleRequired
from market.parties.directory import flush_identity, full_view, lock_party
from market.parties.errors import IdentityLocked, PartyNotFound
from market.parties.models import Party, PartyStatus
from market.parties.schemas import Contact, PartyPatch, PartyView

IDENTITY_FIELDS: Final = frozenset({"name", "kind", "jurisdiction", "tax_number"})


async def edit_party(
    kernel: Kernel, actor: Actor, party_id: UUID, body: PartyPatch, *, expected_version: int
) -> PartyView:
    """Change the named fields of a party; by itself or by an operator.

    Raises PartyNotFound (404) for anybody else, RoleRequired (403) when the party sets its own
    affiliate group, IdentityLocked (409) when it renames itself after verification,
    IdentityTaken (409), PreconditionFailed (412).
    Emits ``party.updated`` with the names of the fields, not the values.
    """
    is_operator = actor.has(Role.OPERATOR)
    if not is_operator and actor.party_id != party_id:
        raise PartyNotFound
    fields = body.model_fields_set
    if "affiliate_group" in fields and not is_operator:
        raise RoleRequired("Only operators group affiliates.", param="affiliate_group")
    async with kernel.unit_of_work() as uow:
        party = await lock_party(uow, party_id)
        require_version(expected_version, party.version)
        locked = sorted(fields & IDENTITY_FIELDS)
        if locked and party.status is not PartyStatus.PENDING and not is_operator:
            raise IdentityLocked(param=locked[0])
        party.version += 1
        party.updated_at = uow.now
        _apply(party, body)
        await flush_identity(uow)
        uow.emit(
            "party.updated",
            party.id,
            {
                "party_id": show("pty", party.id),
                "fields": sorted(fields),
                "updated_by": show("pty", actor.party_id),
            },
            parties=[party.id],
        )
        return full_view(party)


def _apply(party: Party, body: PartyPatch) -> None:
    for name in sorted(body.model_fields_set - {"contact"}):
        setattr(party, name, getattr(body, name))
    if "contact" in body.model_fields_set:
        contact = body.contact or Contact()
        party.contact_name = contact.name
        party.contact_email = contact.email
        party.contact_phone = contact.phone
