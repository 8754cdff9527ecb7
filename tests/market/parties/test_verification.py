import asyncio
from typing import Any

import asyncpg
import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.db import plain_url
from market.kernel.security import Role
from tests.conftest import TestDatabase
from tests.market.parties.factories import EVIDENCE, Member, make_party
from tests.market.parties.state import events_of, unchanged

PROOF = {"evidence": [EVIDENCE.model_dump(mode="json")]}


async def post(
    client: httpx.AsyncClient, actor: Member, target: Member, verb: str, body: Any
) -> httpx.Response:
    return await client.post(f"/v1/parties/{target.id}/{verb}", json=body, headers=actor.headers())


async def test_verify_then_suspend_leaves_a_record(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    member = await make_party(kernel, Role.SELLER, verified=False)
    digest = "a" * 64
    verified = await post(
        client,
        operator,
        member,
        "verify",
        {
            "evidence": [
                {"kind": "business_license", "reference": "No. 7", "sha256": digest},
                {"kind": "authorization_letter", "reference": "letter 12"},
            ],
            "reason": "checked at the registry",
        },
    )
    assert verified.status_code == 200
    assert verified.json()["status"] == "verified"
    assert verified.json()["version"] == 2
    suspended = await post(client, operator, member, "suspend", {"reason": "complaint 9"})
    assert suspended.json()["status"] == "suspended"
    assert suspended.json()["suspended_at"] is not None
    regulator = await make_party(kernel, Role.REGULATOR)
    shown = await client.get(f"/v1/parties/{member.id}/decisions", headers=regulator.headers())
    items = shown.json()["items"]
    assert [(item["kind"], item["reason"], item["decided_by"]) for item in items] == [
        ("verify", "checked at the registry", operator.id),
        ("suspend", "complaint 9", operator.id),
    ]
    assert items[0]["evidence"] == [
        {"kind": "business_license", "reference": "No. 7", "sha256": digest},
        {"kind": "authorization_letter", "reference": "letter 12", "sha256": None},
    ]
    fact = {"party_id": member.id, "decided_by": operator.id}
    assert (await events_of(kernel, member.party_id))[1:] == [
        ("party.verified", fact),
        ("party.suspended", fact),
    ]


async def test_decisions_are_private(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER)
    own = await client.get(f"/v1/parties/{member.id}/decisions", headers=member.headers())
    assert [item["kind"] for item in own.json()["items"]] == ["verify"]
    for role in (Role.BUYER, Role.ARBITER):
        other = await make_party(kernel, role)
        refused = await client.get(f"/v1/parties/{member.id}/decisions", headers=other.headers())
        assert (refused.status_code, refused.json()["code"]) == (404, "party_not_found")


@pytest.mark.parametrize("role", [Role.SELLER, Role.BUYER, Role.ARBITER, Role.REGULATOR])
async def test_only_operators_decide(client: httpx.AsyncClient, kernel: Kernel, role: Role) -> None:
    actor = await make_party(kernel, role)
    target = await make_party(kernel, Role.SELLER, verified=False)
    async with unchanged(kernel):
        for verb, body in (("verify", PROOF), ("suspend", {"reason": "x"})):
            # A role is refused before the body is judged.
            for sent in (body, {"unknown": 1}):
                refused = await post(client, actor, target, verb, sent)
                assert (refused.status_code, refused.json()["code"]) == (403, "role_required")


async def test_nobody_decides_about_itself_or_twice(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    member = await make_party(kernel, Role.SELLER)
    async with unchanged(kernel):
        own = await post(client, operator, operator, "suspend", {"reason": "x"})
        assert (own.status_code, own.json()["code"]) == (409, "self_review")
        again = await post(client, operator, member, "verify", PROOF)
        assert (again.status_code, again.json()["code"]) == (409, "party_already_verified")
    assert (await post(client, operator, member, "suspend", {"reason": "x"})).status_code == 200
    async with unchanged(kernel):
        again = await post(client, operator, member, "suspend", {"reason": "x"})
        assert (again.status_code, again.json()["code"]) == (409, "party_already_suspended")


async def test_parallel_decisions_have_one_effect(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    member = await make_party(kernel, Role.SELLER, verified=False)
    answers = await asyncio.gather(
        *(post(client, operator, member, "verify", PROOF) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert [name for name, _ in await events_of(kernel, member.party_id)] == [
        "party.registered",
        "party.verified",
    ]


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("verify", {}),
        ("verify", {"evidence": []}),
        ("verify", {"evidence": [{"kind": "rumor", "reference": "x"}]}),
        ("verify", {"evidence": [{"kind": "business_license"}]}),
        ("verify", {"evidence": [{"kind": "business_license", "reference": "x"}] * 21}),
        ("verify", {"evidence": [{**PROOF["evidence"][0], "sha256": "xyz"}]}),
        ("verify", {**PROOF, "status": "verified"}),
        ("suspend", {}),
        ("suspend", {"reason": ""}),
        ("suspend", {"reason": "x" * 10_001}),
        ("suspend", {"reason": "nul\x00"}),
        ("suspend", {"reason": "x", "until": "tomorrow"}),
    ],
)
async def test_bad_decisions_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, verb: str, body: dict[str, Any]
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    member = await make_party(kernel, Role.SELLER, verified=False)
    async with unchanged(kernel):
        refused = await post(client, operator, member, verb, body)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_one_identity_is_verified_once(client: httpx.AsyncClient, kernel: Kernel) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    first, second, third = [await make_party(kernel, Role.SELLER, verified=False) for _ in range(3)]
    for member in (first, second, third):
        await client.patch(
            f"/v1/parties/{member.id}",
            json={"tax_number": "91310000MA1FL1234X"},
            headers={**member.headers(), "If-Match": '"1"'},
        )
    answers = await asyncio.gather(
        post(client, operator, first, "verify", PROOF),
        post(client, operator, second, "verify", PROOF),
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    loser = next(answer for answer in answers if answer.status_code == 409)
    assert loser.json()["code"] == "identity_taken"
    # A suspended organization cannot come back under a new sign-up.
    winner = first if answers[0].status_code == 200 else second
    await post(client, operator, winner, "suspend", {"reason": "fraud"})
    async with unchanged(kernel):
        evading = await post(client, operator, third, "verify", PROOF)
    assert (evading.status_code, evading.json()["code"]) == (409, "identity_taken")


async def test_an_impostor_does_not_block_the_owner_of_a_tax_number(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    impostor, owner, second = [
        await make_party(kernel, Role.SELLER, verified=False) for _ in range(3)
    ]
    for member in (impostor, owner, second):
        await client.patch(
            f"/v1/parties/{member.id}",
            json={"tax_number": "91500000MA5U0000XX"},
            headers={**member.headers(), "If-Match": '"1"'},
        )
    refusal = {"reason": "not who they say"}
    assert (await post(client, operator, impostor, "suspend", refusal)).status_code == 200
    assert (await post(client, operator, owner, "verify", PROOF)).status_code == 200
    # Suspending one that was never verified works beside the verified owner too.
    assert (await post(client, operator, second, "suspend", refusal)).status_code == 200


async def test_an_operator_cannot_give_a_taken_tax_number(
    client: httpx.AsyncClient, kernel: Kernel
) -> None:
    operator = await make_party(kernel, Role.OPERATOR)
    members = [await make_party(kernel, Role.SELLER) for _ in range(2)]

    async def give(member: Member) -> httpx.Response:
        return await client.patch(
            f"/v1/parties/{member.id}",
            json={"tax_number": "91440300MA5EX9999X"},
            headers={**operator.headers(), "If-Match": '"2"'},
        )

    assert (await give(members[0])).status_code == 200
    async with unchanged(kernel):
        refused = await give(members[1])
    assert (refused.status_code, refused.json()["code"]) == (409, "identity_taken")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE parties.decision SET reason = 'edited'",
        "DELETE FROM parties.decision",
        "TRUNCATE parties.decision",
        "UPDATE parties.rules_acceptance SET rules_version = 'other'",
        "DELETE FROM parties.rules_acceptance",
    ],
)
async def test_the_record_cannot_be_changed_even_by_the_owner(
    kernel: Kernel, database: TestDatabase, statement: str
) -> None:
    await make_party(kernel, Role.SELLER)
    async with unchanged(kernel):
        for url, error in (
            (database.url, asyncpg.InsufficientPrivilegeError),
            (database.owner_url, asyncpg.RestrictViolationError),
        ):
            connection = await asyncpg.connect(plain_url(url))
            try:
                with pytest.raises(error):
                    await connection.execute(statement)
            finally:
                await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE parties.party SET roles = '{operator}'",
        "UPDATE parties.party SET id = gen_random_uuid()",
        "DELETE FROM parties.party",
        "UPDATE parties.credential SET roles = '{operator}'",
        "UPDATE parties.credential SET secret_hash = '$argon2id$mine'",
        "UPDATE parties.credential SET party_id = gen_random_uuid()",
        "DELETE FROM parties.credential",
        "ALTER TABLE parties.decision DISABLE TRIGGER ALL",
    ],
)
async def test_the_application_role_cannot_gain_roles_or_swap_secrets(
    kernel: Kernel, database: TestDatabase, statement: str
) -> None:
    await make_party(kernel, Role.SELLER)
    async with unchanged(kernel):
        connection = await asyncpg.connect(plain_url(database.url))
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        finally:
            await connection.close()


@pytest.mark.parametrize(
    ("roles", "accepted"),
    [
        ("{seller,buyer}", True),
        ("{regulator}", True),
        ("{}", False),
        ("{seller,operator}", False),
        ("{root}", False),
    ],
)
async def test_the_database_keeps_trade_and_staff_apart(
    kernel: Kernel, database: TestDatabase, roles: str, accepted: bool
) -> None:
    connection = await asyncpg.connect(plain_url(database.owner_url))
    insert = (
        "INSERT INTO parties.party (id, name, kind, jurisdiction, roles, status, version,"
        " created_at, updated_at) VALUES (gen_random_uuid(), 'Direct', 'company', 'CN',"
        f" '{roles}', 'pending', 1, now(), now())"
    )
    try:
        if accepted:
            assert await connection.execute(insert) == "INSERT 0 1"
        else:
            async with unchanged(kernel):
                with pytest.raises(asyncpg.CheckViolationError):
                    await connection.execute(insert)
    finally:
        await connection.close()
