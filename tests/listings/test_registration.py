"""Registration, review and certificates over HTTP."""

import asyncio
from typing import Any

import httpx
import pyarrow as pa
import pytest

from listings.certificates import profile_digest, verify_certificate
from listings.errors import CertificateNotFound
from listings.offers import get_certificate_for, get_version
from market.kernel.context import Kernel
from market.kernel.ids import new_id, parse, show
from market.kernel.security import InvalidToken, Role
from tests.listings.factories import flights_table, make_version, product_body
from tests.market.parties.factories import Member, make_party


@pytest.fixture(scope="module")
async def seller(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.SELLER, name="Weather Bureau")


@pytest.fixture(scope="module")
async def operator(kernel: Kernel) -> Member:
    return await make_party(kernel, Role.OPERATOR)


async def post(
    client: httpx.AsyncClient, member: Member, path: str, body: Any = None
) -> httpx.Response:
    return await client.post(path, json=body, headers=member.headers())


async def registered(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, *, rows: int = 10, **changes: Any
) -> dict[str, Any]:
    """A draft with one version."""
    answer = await post(client, seller, "/v1/products", product_body(**changes))
    assert answer.status_code == 201, answer.text
    product: dict[str, Any] = answer.json()
    await make_version(kernel, seller, parse("prd", product["id"]), flights_table(rows))
    return product


async def show_product(
    client: httpx.AsyncClient, member: Member, product_id: str
) -> dict[str, Any]:
    answer = await client.get(f"/v1/products/{product_id}", headers=member.headers())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_the_walk_to_a_certificate(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller)
    path = f"/v1/products/{product['id']}"
    assert product["status"] == "draft"
    submitted = (await post(client, seller, f"{path}/submit")).json()
    assert (submitted["status"], submitted["certificate_id"]) == ("in_review", None)
    approved = await post(client, operator, f"{path}/approve")
    assert approved.status_code == 200, approved.text
    assert approved.json()["status"] == "registered"
    certificate = await client.get(f"/v1/certificates/{approved.json()['certificate_id']}")
    assert certificate.status_code == 200
    claims = verify_certificate(certificate.json()["jws"], kernel.keys.jwks())
    version = (await client.get(f"{path}/versions/1", headers=seller.headers())).json()
    assert claims["product_id"] == product["id"]
    assert claims["owner_id"] == seller.id
    assert claims["owner_name"] == "Weather Bureau"
    assert claims["version_id"] == version["id"]
    assert claims["sha256"] == version["sha256"]
    assert claims["grade"] == "general"
    assert claims["rights"] == {
        "holding": True,
        "processing_use": True,
        "product_operation": True,
    }
    assert claims["profile_sha256"] == profile_digest(version["profile"])
    assert version["status"] == "certified"
    decisions = (await client.get(f"{path}/decisions", headers=seller.headers())).json()
    assert [(each["action"], each["to_status"]) for each in decisions] == [
        ("submit", "in_review"),
        ("approve", "registered"),
    ]
    async with kernel.unit_of_work() as uow:
        types = await (await uow.raw()).fetch(
            "SELECT type FROM kernel.outbox WHERE data->>'product_id' = $1 ORDER BY seq",
            product["id"],
        )
    assert [row["type"] for row in types] == [
        "product.created",
        "version.uploaded",
        "product.submitted",
        "product.registered",
        "certificate.issued",
    ]


async def test_a_forged_certificate_is_refused(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller, rows=11)
    await post(client, seller, f"/v1/products/{product['id']}/submit")
    approved = await post(client, operator, f"/v1/products/{product['id']}/approve")
    answer = await client.get(f"/v1/certificates/{approved.json()['certificate_id']}")
    jws, jwks = answer.json()["jws"], kernel.keys.jwks()
    assert verify_certificate(f" {jws}\n", jwks)["iss"] == kernel.settings.issuer
    head, body, signature = jws.split(".")
    for forged in (
        f"{head}.{body[:-2]}AA.{signature}",
        f"{head}.{body}.{signature[:-4]}AAAA",
        "not a token",
        "x" * 20_000,
        kernel.keys.sign("at+jwt", {"certificate_id": "crt"}),
        kernel.keys.sign("certificate+jws", {"certificate_id": "crt"}),
    ):
        with pytest.raises(InvalidToken):
            verify_certificate(forged, jwks)
    with pytest.raises(InvalidToken):
        verify_certificate(jws, {"keys": []})


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"owner_id": show("pty", new_id())}, "owner_id"),
        ({"status": "registered"}, "status"),
        ({"grade": "general"}, "grade"),
        ({"category": "spells"}, "category"),
        ({"regions": []}, "regions"),
        ({"regions": ["CN", "CN"]}, "regions"),
        ({"regions": ["china"]}, "regions.0"),
        ({"name": {"zh": "仅中文"}}, "name.en"),
        ({"name": {"en": "a\x00b"}}, "name.en"),
        ({"description": " "}, "description"),
        ({"people_count": -1}, "people_count"),
        ({"people_count": 1.5}, "people_count"),
        ({"contains_personal_data": None}, "contains_personal_data"),
        ({"update_cycle": "sometimes"}, "update_cycle"),
        ({"impacts": [{"element": "field"}]}, "impacts.0.object"),
    ],
)
async def test_bad_registrations(
    client: httpx.AsyncClient, seller: Member, changes: dict[str, Any], param: str
) -> None:
    before = await client.get("/v1/products?limit=200", headers=seller.headers())
    answer = await post(client, seller, "/v1/products", product_body(**changes))
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed"), answer.text
    assert answer.json()["param"] == param
    after = await client.get("/v1/products?limit=200", headers=seller.headers())
    assert after.json() == before.json()


async def test_rights_need_a_basis(client: httpx.AsyncClient, seller: Member) -> None:
    body = product_body()
    body["rights"]["holding"] = {"held": True}
    answer = await post(client, seller, "/v1/products", body)
    assert answer.status_code == 422
    body["rights"]["holding"] = {"held": False}
    assert (await post(client, seller, "/v1/products", body)).status_code == 201


async def test_illegal_steps_change_nothing(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    answer = await post(client, seller, "/v1/products", product_body())
    product_id = answer.json()["id"]
    path = f"/v1/products/{product_id}"
    empty = await post(client, seller, f"{path}/submit")
    assert (empty.status_code, empty.json()["code"]) == (409, "version_missing")
    early = await post(client, operator, f"{path}/approve")
    assert (early.status_code, early.json()["code"]) == (409, "illegal_transition")
    await make_version(kernel, seller, parse("prd", product_id), flights_table(12))
    assert (await post(client, seller, f"{path}/submit")).status_code == 200
    before = await show_product(client, seller, product_id)
    for member, step, body in (
        (seller, "submit", None),
        (seller, "approve", None),
        (seller, "reject", {"reason": "no"}),
        (operator, "submit", None),
    ):
        refused = await post(client, member, f"{path}/{step}", body)
        assert refused.status_code in {403, 409}, (step, refused.text)
    tag = (await client.get(path, headers=seller.headers())).headers["ETag"]
    held = await client.patch(
        path, json={"description": "x"}, headers={**seller.headers(), "If-Match": tag}
    )
    assert (held.status_code, held.json()["code"]) == (409, "not_editable")
    assert await show_product(client, seller, product_id) == before
    assert (await post(client, operator, f"{path}/approve")).status_code == 200
    again = await post(client, operator, f"{path}/approve")
    assert (again.status_code, again.json()["code"]) == (409, "illegal_transition")
    assert (await post(client, seller, f"{path}/submit")).status_code == 409


async def test_two_operators_approve_once(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller, rows=13)
    await post(client, seller, f"/v1/products/{product['id']}/submit")
    other = await make_party(kernel, Role.OPERATOR)
    answers = await asyncio.gather(
        *(
            post(client, member, f"/v1/products/{product['id']}/approve")
            for member in (operator, other, operator, other)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]


async def test_rejection_revision_and_second_review(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller, rows=14)
    path = f"/v1/products/{product['id']}"
    await post(client, seller, f"{path}/submit")
    missing = await post(client, operator, f"{path}/reject", {})
    assert missing.status_code == 422
    rejected = (await post(client, operator, f"{path}/reject", {"reason": "源说明不足"})).json()
    assert (rejected["status"], rejected["status_reason"]) == ("rejected", "源说明不足")
    shown = await client.get(path, headers=seller.headers())
    tag = shown.headers["ETag"]
    fixed = await client.patch(
        path,
        json={"source_statement": "Contract 17, annex 2."},
        headers={**seller.headers(), "If-Match": tag},
    )
    assert fixed.status_code == 200, fixed.text
    assert (fixed.json()["status"], fixed.json()["status_reason"]) == ("draft", None)
    assert fixed.headers["ETag"] != tag
    stale = await client.patch(
        path, json={"description": "x"}, headers={**seller.headers(), "If-Match": tag}
    )
    assert (stale.status_code, stale.json()["code"]) == (412, "stale_version")
    assert (await post(client, seller, f"{path}/submit")).json()["status"] == "in_review"
    assert (await post(client, operator, f"{path}/approve")).json()["status"] == "registered"


async def test_patches_must_fit_together(client: httpx.AsyncClient, seller: Member) -> None:
    answer = await post(client, seller, "/v1/products", product_body())
    path = f"/v1/products/{answer.json()['id']}"
    headers = {**seller.headers(), "If-Match": '"1"'}
    assert (await client.patch(path, json={}, headers=seller.headers())).status_code == 428
    for patch in ({"people_count": 5}, {"name": None}, {"description": None}):
        refused = await client.patch(path, json=patch, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (422, "product_invalid")
    good = await client.patch(
        path, json={"contains_personal_data": True, "people_count": 5}, headers=headers
    )
    assert good.json()["assessment"]["requirements"] == ["deidentification_required"]
    evidence = {"method": "aggregation", "evidence": "k = 50, report 3"}
    headers["If-Match"] = good.headers["ETag"]
    good = await client.patch(path, json={"deidentification": evidence}, headers=headers)
    assert good.json()["assessment"]["requirements"] == []
    headers["If-Match"] = good.headers["ETag"]
    good = await client.patch(path, json={"deidentification": None}, headers=headers)
    assert good.json()["deidentification"] is None


async def test_grades_gate_the_review(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    serious = {"element": "scale", "object": "public_interest", "degree": "serious"}
    product = await registered(client, kernel, seller, rows=15, impacts=[serious])
    path = f"/v1/products/{product['id']}"
    assert product["assessment"]["grade"] == "important"
    refused = await post(client, seller, f"{path}/submit")
    assert (refused.status_code, refused.json()["code"]) == (422, "filing_required")
    tag = (await client.get(path, headers=seller.headers())).headers["ETag"]
    await client.patch(
        path,
        json={"filing_reference": "备案 2026-0001"},
        headers={**seller.headers(), "If-Match": tag},
    )
    assert (await post(client, seller, f"{path}/submit")).status_code == 200
    approved = (await post(client, operator, f"{path}/approve")).json()
    certificate = await client.get(f"/v1/certificates/{approved['certificate_id']}")
    assert certificate.json()["claims"]["grade"] == "important"


async def test_detected_identifiers_need_evidence(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member
) -> None:
    answer = await post(client, seller, "/v1/products", product_body())
    path = f"/v1/products/{answer.json()['id']}"
    table = pa.table({"mail": [f"u{i}@example.com" for i in range(9)]})
    await make_version(kernel, seller, parse("prd", answer.json()["id"]), table)
    refused = await post(client, seller, f"{path}/submit")
    assert (refused.status_code, refused.json()["code"]) == (422, "deidentification_required")
    assert "mail" in refused.json()["detail"]
    assert (await show_product(client, seller, answer.json()["id"]))["status"] == "draft"


async def test_unverified_sellers_cannot_submit(client: httpx.AsyncClient, kernel: Kernel) -> None:
    unknown = await make_party(kernel, Role.SELLER, verified=False)
    answer = await post(client, unknown, "/v1/products", product_body())
    assert answer.status_code == 201
    refused = await post(client, unknown, f"/v1/products/{answer.json()['id']}/submit")
    assert (refused.status_code, refused.json()["code"]) == (403, "party_not_verified")


async def test_foreign_products_do_not_exist(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller, rows=16)
    path = f"/v1/products/{product['id']}"
    other = await make_party(kernel, Role.SELLER)
    buyer = await make_party(kernel, Role.BUYER)
    regulator = await make_party(kernel, Role.REGULATOR)
    nowhere = f"/v1/products/{show('prd', new_id())}"
    for member in (other, buyer):
        for tail in ("", "/versions", "/versions/1", "/decisions"):
            foreign = await client.get(path + tail, headers=member.headers())
            missing = await client.get(nowhere + tail, headers=member.headers())
            assert (foreign.status_code, missing.status_code) == (404, 404)
            assert foreign.json()["code"] == missing.json()["code"] == "product_not_found"
    assert (await post(client, other, f"{path}/submit")).status_code == 404
    headers = {**other.headers(), "If-Match": '"1"'}
    stolen = await client.patch(path, json={"description": "x"}, headers=headers)
    assert stolen.status_code == 404
    for member in (operator, regulator):
        assert (await client.get(path, headers=member.headers())).status_code == 200
    assert (await post(client, regulator, f"{path}/approve")).status_code == 403
    assert (await client.get(path)).status_code == 401
    gone = await client.get(f"{path}/versions/9", headers=seller.headers())
    assert (gone.status_code, gone.json()["code"]) == (404, "version_not_found")
    assert (await client.get(f"/v1/certificates/{show('crt', new_id())}")).status_code == 404
    listed = await client.get("/v1/products", headers=other.headers())
    assert listed.json()["items"] == []


async def test_a_registered_product_gets_more_versions(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller, rows=17)
    path, product_id = f"/v1/products/{product['id']}", parse("prd", product["id"])
    await post(client, seller, f"{path}/submit")
    first = (await post(client, operator, f"{path}/approve")).json()
    second = await make_version(kernel, seller, product_id, flights_table(18))
    assert second.status == "draft"
    assert (await post(client, seller, f"{path}/submit")).json()["status"] == "registered"
    queue = await client.get("/v1/reviews?limit=200", headers=operator.headers())
    waiting = [each for each in queue.json()["items"] if each["id"] == product["id"]]
    assert [(each["kind"], each["version"]) for each in waiting] == [("version", 2)]
    assert waiting[0]["owner_name"] == "Weather Bureau"
    refused = await post(client, operator, f"{path}/reject", {"reason": "drift"})
    assert refused.json()["status"] == "registered"
    async with kernel.unit_of_work() as uow:
        assert (await get_version(uow, second.id)).status == "rejected"
        with pytest.raises(CertificateNotFound):
            await get_certificate_for(uow, second.id)
    assert (await post(client, seller, f"{path}/submit")).status_code == 200
    last = (await post(client, operator, f"{path}/approve")).json()
    assert last["certificate_id"] != first["certificate_id"]
    async with kernel.unit_of_work() as uow:
        assert show("crt", (await get_certificate_for(uow, second.id)).id) == last["certificate_id"]


async def test_a_new_upload_revises_a_rejected_product(
    client: httpx.AsyncClient, kernel: Kernel, seller: Member, operator: Member
) -> None:
    product = await registered(client, kernel, seller, rows=19)
    path = f"/v1/products/{product['id']}"
    await post(client, seller, f"{path}/submit")
    await post(client, operator, f"{path}/reject", {"reason": "broken rows"})
    await make_version(kernel, seller, parse("prd", product["id"]), flights_table(20))
    found = await show_product(client, seller, product["id"])
    assert (found["status"], found["latest_version"]) == ("draft", 2)


async def test_own_products_page_without_gaps(client: httpx.AsyncClient, kernel: Kernel) -> None:
    member = await make_party(kernel, Role.SELLER)
    made = [
        (await post(client, member, "/v1/products", product_body())).json()["id"] for _ in range(7)
    ]
    seen: list[str] = []
    after = ""
    for _ in range(10):
        answer = await client.get(f"/v1/products?limit=3{after}", headers=member.headers())
        seen += [each["id"] for each in answer.json()["items"]]
        if not answer.json()["has_more"]:
            break
        after = f"&after={answer.json()['next_after']}"
    assert seen == made
    drafts = await client.get("/v1/products?status=registered", headers=member.headers())
    assert drafts.json()["items"] == []
    bad = await client.get("/v1/products?after=zzz", headers=member.headers())
    assert (bad.status_code, bad.json()["code"]) == (422, "cursor_invalid")
