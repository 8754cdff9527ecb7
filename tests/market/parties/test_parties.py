"""Reading and editing parties: who sees what, and who may change what."""

import asyncio
import uuid
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from market.parties.directory import (
    get_parties,
    get_party,
    get_standings,
    related,
    require_verified,
)
from market.parties.errors import PartyNotFound, PartyNotVerified
from tests.market.parties.factories import Member, make_party
from tests.market.parties.state import events_of, unchanged


def url(member: Member) -> str:
    return f"/v1/parties/{member.id}"


def matching(member: Member, version: int) -> dict[str, str]:
    return {**member.headers(), "If-Match": f'"{version}"'}


async def test_who_sees_what(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER, name="Seller", verified=False)
    edited = await client.patch(
        url(member),
        json={"contact": {"email": "who@seller.example"}, "tax_number": "91310000MA1FL0000X"},
        headers=matching(member, 1),
    )
    assert edited.status_code == 200
    for viewer in (
        member,
        await make_party(kernel, Role.OPERATOR),
        await make_party(kernel, Role.REGULATOR),
    ):
        shown = await client.get(url(member), headers=viewer.headers())
        assert shown.json() == edited.json()
        assert shown.headers["ETag"] == '"2"'
    for viewer in (await make_party(kernel, Role.BUYER), await make_party(kernel, Role.ARBITER)):
        shown = await client.get(url(member), headers=viewer.headers())
        assert shown.json() == {
            "id": member.id,
            "name": "Seller",
            "kind": "company",
            "jurisdiction": "CN",
            "status": "pending",
        }
        assert "ETag" not in shown.headers


@pytest.mark.parametrize(
    "id_",
    [
        "1",
        "prd_0190f3a1b2c37d4e8f90a1b2c3d4e5f6",
        "0190f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6",
        "pty_" + "G" * 32,
    ],
)
async def test_malformed_ids(client: httpx.AsyncClient, kernel: Kernel, id_: str) -> None:
    member = await make_party(kernel, Role.SELLER)
    refused = await client.get(f"/v1/parties/{id_}", headers=member.headers())
    assert (refused.status_code, refused.json()["param"]) == (422, "party_id")


async def test_unknown_parties(client: httpx.AsyncClient, kernel: Kernel) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    nobody = show("pty", new_id())
    answers = [
        await client.get(f"/v1/parties/{nobody}", headers=operator.headers()),
        await client.get(f"/v1/parties/{nobody}/decisions", headers=operator.headers()),
        await client.patch(
            f"/v1/parties/{nobody}", json={"name": "X"}, headers=matching(operator, 1)
        ),
        await client.post(
            f"/v1/parties/{nobody}/suspend", json={"reason": "x"}, headers=operator.headers()
        ),
    ]
    assert [(a.status_code, a.json()["code"]) for a in answers] == [(404, "party_not_found")] * 4


async def test_edits_need_the_current_version(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER, verified=False)
    body = {"contact": {"name": "Han Meimei"}}
    async with unchanged(kernel):
        missing = await client.patch(url(member), json=body, headers=member.headers())
        assert (missing.status_code, missing.json()["code"]) == (428, "if_match_required")
        for tag in ('"2"', '"0"', "1", "*", 'W/"1"', '"x"'):
            stale = await client.patch(
                url(member), json=body, headers={**member.headers(), "If-Match": tag}
            )
            assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    done = await client.patch(url(member), json=body, headers=matching(member, 1))
    assert (done.status_code, done.headers["ETag"]) == (200, '"2"')
    assert done.json()["contact"] == {"name": "Han Meimei", "email": None, "phone": None}
    assert (await events_of(kernel, member.party_id))[-1] == (
        "party.updated",
        {"party_id": member.id, "fields": ["contact"], "updated_by": member.id},
    )


async def test_one_of_parallel_edits_wins(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER, verified=False)
    answers = await asyncio.gather(
        *(
            client.patch(url(member), json={"name": f"Name {n}"}, headers=matching(member, 1))
            for n in range(8)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": None},
        {"kind": None},
        {"jurisdiction": None},
        {"name": ""},
        {"status": "verified"},
        {"roles": ["operator"]},
        {"id": "pty_0190f3a1b2c37d4e8f90a1b2c3d4e5f6"},
        {"owner_id": "x"},
        {"balance": 1_000_000},
        {"version": 7},
        {"affiliate_group": "not-a-uuid"},
        {"contact": {"email": "x"}},
        [],
        "name",
    ],
)
async def test_bad_edits_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, body: Any
) -> None:
    member = await make_party(kernel, Role.SELLER, verified=False)
    async with unchanged(kernel):
        refused = await client.patch(url(member), json=body, headers=matching(member, 1))
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_null_clears_what_may_be_empty(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER, verified=False)
    await client.patch(
        url(member),
        json={"contact": {"phone": "+861012345678"}, "tax_number": "1234567890"},
        headers=matching(member, 1),
    )
    cleared = await client.patch(
        url(member), json={"contact": None, "tax_number": None}, headers=matching(member, 2)
    )
    assert cleared.json()["contact"] == {"name": None, "email": None, "phone": None}
    assert cleared.json()["tax_number"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Other Name"},
        {"kind": "association"},
        {"jurisdiction": "US"},
        {"tax_number": "1234567890"},
        {"tax_number": None},
        {"contact": None, "name": "Other Name"},
    ],
)
async def test_a_verified_identity_is_the_operators_to_change(
    client: httpx.AsyncClient, kernel: Kernel, body: dict[str, Any]
) -> None:
    member = await make_party(kernel, Role.SELLER)
    operator = await make_party(kernel, Role.OPERATOR)
    async with unchanged(kernel):
        refused = await client.patch(url(member), json=body, headers=matching(member, 2))
    assert (refused.status_code, refused.json()["code"]) == (409, "identity_locked")
    done = await client.patch(url(member), json=body, headers=matching(operator, 2))
    assert done.status_code == 200
    assert done.json()["status"] == "verified"
    for name, value in body.items():
        if name != "contact":
            assert done.json()[name] == value


async def test_others_cannot_edit(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER)
    for role in (Role.SELLER, Role.BUYER, Role.ARBITER, Role.REGULATOR):
        other = await make_party(kernel, role)
        async with unchanged(kernel):
            refused = await client.patch(
                url(member), json={"contact": None}, headers=matching(other, 2)
            )
        assert (refused.status_code, refused.json()["code"]) == (404, "party_not_found")


async def test_affiliates_are_grouped_by_operators_only(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    a, b, c = [await make_party(kernel, Role.SELLER) for _ in range(3)]
    operator = await make_party(kernel, Role.OPERATOR)
    group = str(uuid.uuid4())
    async with unchanged(kernel):
        refused = await client.patch(
            url(a), json={"affiliate_group": group}, headers=matching(a, 2)
        )
    assert (refused.status_code, refused.json()["code"]) == (403, "role_required")
    for member in (a, b):
        done = await client.patch(
            url(member), json={"affiliate_group": group}, headers=matching(operator, 2)
        )
        assert done.json()["affiliate_group"] == group
    async with kernel.unit_of_work() as uow:
        found = await get_parties(uow, [a.party_id, b.party_id, c.party_id, new_id()])
        standings = await get_standings(uow, [a.party_id, b.party_id, c.party_id, new_id()])
        assert await get_standings(uow, []) == {}
    assert standings == {
        party.id: (party.id, party.status, party.affiliate_group) for party in found.values()
    }
    assert related(standings[a.party_id], standings[b.party_id])
    assert not related(standings[a.party_id], standings[c.party_id])
    assert len(found) == 3
    pa, pb, pc = found[a.party_id], found[b.party_id], found[c.party_id]
    assert related(pa, pb)
    assert related(pc, pc)
    assert not related(pa, pc)
    assert not related(pc, await _reload(kernel, (await make_party(kernel, Role.BUYER)).party_id))


async def _reload(kernel: Kernel, party_id: uuid.UUID) -> Any:
    async with kernel.unit_of_work() as uow:
        return await get_party(uow, party_id)


async def test_the_directory_for_other_packages(kernel: Kernel) -> None:
    pending = await make_party(kernel, Role.SELLER, verified=False)
    verified = await make_party(kernel, Role.SELLER)
    async with kernel.unit_of_work() as uow:
        assert (await require_verified(uow, verified.party_id)).id == verified.party_id
        assert await get_parties(uow, []) == {}
        with pytest.raises(PartyNotVerified):
            await require_verified(uow, pending.party_id)
        with pytest.raises(PartyNotFound):
            await get_party(uow, new_id())


async def test_lists_are_for_operators_and_regulators(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    for role in (Role.SELLER, Role.BUYER, Role.ARBITER):
        member = await make_party(kernel, role)
        refused = await client.get("/v1/parties", headers=member.headers())
        assert (refused.status_code, refused.json()["code"]) == (403, "role_required")


@pytest.mark.parametrize("overseer", [Role.OPERATOR, Role.REGULATOR])
async def test_lists_page_and_filter(
    client: httpx.AsyncClient, kernel: Kernel, overseer: Role
) -> None:
    viewer = await make_party(kernel, overseer)
    country = "IS" if overseer is Role.OPERATOR else "FI"
    made = [
        await make_party(kernel, *roles, jurisdiction=country, verified=verified)
        for roles, verified in (
            ((Role.SELLER,), True),
            ((Role.BUYER,), True),
            ((Role.SELLER, Role.BUYER), False),
            ((Role.BUYER,), False),
            ((Role.SELLER,), True),
        )
    ]

    async def listed(query: str) -> list[str]:
        answer = await client.get(
            f"/v1/parties?jurisdiction={country}{query}", headers=viewer.headers()
        )
        assert answer.status_code == 200
        return [item["id"] for item in answer.json()["items"]]

    ids = [member.id for member in made]
    assert await listed("") == ids
    assert await listed("&role=seller") == [ids[0], ids[2], ids[4]]
    assert await listed("&status=pending") == [ids[2], ids[3]]
    assert await listed("&status=pending&role=seller") == [ids[2]]
    assert await listed(f"&affiliate_group={uuid.uuid4()}") == []
    found: list[str] = []
    query = ""
    for _ in range(3):
        page = (
            await client.get(
                f"/v1/parties?jurisdiction={country}&limit=2{query}", headers=viewer.headers()
            )
        ).json()
        found += [item["id"] for item in page["items"]]
        query = f"&after={page['next_after']}"
    assert found == ids
    assert page["has_more"] is False
    assert page["next_after"] is None
    for bad in ("&limit=0", "&limit=201", "&limit=x", "&role=root", "&status=x", "&after=x"):
        refused = await client.get(
            f"/v1/parties?jurisdiction={country}{bad}", headers=viewer.headers()
        )
        assert refused.status_code == 422
