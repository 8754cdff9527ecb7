"""Evidence: in turn, in time, verbatim, hashed, and never changed by anybody."""

import base64
import hashlib
from typing import Any

import httpx
import psycopg
import pytest

from contracts.dispute_models import EVIDENCE_INLINE_MAX_BYTES
from contracts.evidence import PER_SIDE_MAX
from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.settings import Settings
from tests.conftest import TestDatabase
from tests.contracts.dispute_factories import (
    Court,
    in_review,
    make_court,
    open_dispute,
    opened,
    relate,
    text,
)

HTML = '<script>alert("1")</script><img src=x onerror=alert(2)> 中文 \u202e\x00end\r\n'
PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 100


async def upload(
    court: Court,
    who: Any,
    content: bytes,
    media_type: str,
    *,
    query: str = "kind=sample&title=File",
) -> httpx.Response:
    return await court.client.post(
        f"/v1/disputes/{court.dispute_id}/evidence/files?{query}",
        content=content,
        headers={**who.headers(), "Content-Type": media_type},
    )


def blobs(kernel: Kernel) -> list[str]:
    folder = kernel.settings.home / "blobs" / "evidence"
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


async def test_html_is_kept_verbatim_and_never_runs(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client)
    body = text(HTML, media_type="text/html", title="<b>bold</b>")
    made = (await court.post(court.buyer, "evidence", body, expect=201)).json()
    raw = HTML.encode()
    assert made["sha256"] == hashlib.sha256(raw).hexdigest()
    assert (made["number"], made["byte_count"], made["title"]) == (4, len(raw), "<b>bold</b>")
    assert (made["side"], made["submitted_by"]) == ("claimant", court.buyer.id)
    for who in (court.seller, court.buyer, court.operator, court.arbiters[0], court.regulator):
        answer = await court.get(who, f"evidence/{made['id']}/content")
        assert answer.content == raw
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="{made["id"]}.txt"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    digest = base64.b64encode(hashlib.sha256(raw).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    listed = await court.get(court.seller, "evidence")
    assert listed.headers["content-type"] == "application/json"
    assert (await court.get(court.seller, f"evidence/{made['id']}")).json() == made


async def test_files_go_to_the_blob_store(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    answer = await upload(court, court.seller, PNG, "image/png")
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["side"], made["kind"], made["media_type"]) == ("respondent", "sample", "image/png")
    assert made["sha256"] == hashlib.sha256(PNG).hexdigest()
    read = await court.get(court.buyer, f"evidence/{made['id']}/content")
    assert (read.content, read.headers["content-type"]) == (PNG, "image/png")
    assert read.headers["content-disposition"] == f'attachment; filename="{made["id"]}.png"'
    assert len(blobs(kernel)) == 1
    csv = await upload(court, court.seller, b"=HYPERLINK(1)", "text/csv; charset=utf-8")
    assert csv.status_code == 201
    served = await court.get(court.buyer, f"evidence/{csv.json()['id']}/content")
    assert served.headers["content-type"] == "text/plain; charset=utf-8"


async def test_an_upload_is_idempotent(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    url = f"/v1/disputes/{court.dispute_id}/evidence/files?kind=sample&title=File"
    headers = {**court.buyer.headers(new_id().hex), "Content-Type": "image/png"}
    before = blobs(kernel)
    first = await client.post(url, content=PNG, headers=headers)
    again = await client.post(url, content=PNG, headers=headers)
    assert (first.status_code, again.content) == (201, first.content)
    other = await client.post(url, content=PNG + b"x", headers=headers)
    assert other.json()["code"] == "idempotency_key_reused"
    assert len(blobs(kernel)) == len(before) + 1
    assert (await court.facts())["counts"]["evidence"] == 4


@pytest.mark.parametrize(
    ("content", "media_type", "query", "status", "code"),
    [
        (b"<svg/>", "image/svg+xml", "kind=sample&title=t", 415, "evidence_type"),
        (b"MZ", "application/octet-stream", "kind=sample&title=t", 415, "evidence_type"),
        (b"data", "", "kind=sample&title=t", 415, "evidence_type"),
        (b"<script>", "image/png", "kind=sample&title=t", 422, "evidence_invalid"),
        (b"not pdf %PDF-", "application/pdf", "kind=sample&title=t", 422, "evidence_invalid"),
        (b"\xff\xfe\x00", "text/plain", "kind=sample&title=t", 422, "evidence_invalid"),
        (b"{", "application/json", "kind=sample&title=t", 422, "evidence_invalid"),
        (b"", "text/plain", "kind=sample&title=t", 422, "evidence_invalid"),
        (b"x", "text/plain", "kind=usage_total&title=t", 422, "validation_failed"),
        (b"x", "text/plain", "kind=sample", 422, "validation_failed"),
        (b"x", "text/plain", "kind=sample&title=", 422, "validation_failed"),
        (b"x" * ((1 << 20) + 1), "text/plain", "kind=sample&title=t", 413, "too_large"),
    ],
)
async def test_bad_files_leave_nothing(
    kernel: Kernel,
    client: httpx.AsyncClient,
    content: bytes,
    media_type: str,
    query: str,
    status: int,
    code: str,
) -> None:
    court = await opened(kernel, client, arbiters=0)
    facts, files = await court.facts(), blobs(kernel)
    refused = await upload(court, court.buyer, content, media_type, query=query)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert (await court.facts(), blobs(kernel)) == (facts, files)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (text(""), 422, "validation_failed"),
        (text("x" * (EVIDENCE_INLINE_MAX_BYTES + 1)), 422, "validation_failed"),
        (text("中" * 30_000), 413, "evidence_too_large"),
        (text("{]", media_type="application/json"), 422, "evidence_invalid"),
        (text("[" * 60_000, media_type="application/json"), 422, "evidence_invalid"),
        (text(media_type="image/png"), 422, "validation_failed"),
        (text(kind="agreement_terms"), 422, "validation_failed"),
        (text(side="system"), 422, "validation_failed"),
        (text(sha256="0" * 64), 422, "validation_failed"),
        (text(title="a\nb"), 422, "validation_failed"),
        (text(title="x" * 201), 422, "validation_failed"),
        ({**text(), "content": ["a"]}, 422, "validation_failed"),
        ({**text(), "content": None}, 422, "validation_failed"),
        ([], 422, "validation_failed"),
        (None, 422, "validation_failed"),
    ],
)
async def test_bad_texts_leave_nothing(
    kernel: Kernel, client: httpx.AsyncClient, body: Any, status: int, code: str
) -> None:
    court = await opened(kernel, client, arbiters=0)
    facts = await court.facts()
    refused = await court.post(court.buyer, "evidence", body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert await court.facts() == facts


async def test_lone_surrogates_are_refused(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client, arbiters=0)
    body = b'{"kind":"statement","title":"t","content":"\\ud800"}'
    headers = {**court.buyer.headers(), "Content-Type": "application/json"}
    url = f"/v1/disputes/{court.dispute_id}/evidence"
    refused = await client.post(url, content=body, headers=headers)
    assert refused.status_code in (400, 422)
    assert (await court.facts())["counts"]["evidence"] == 3


async def test_only_in_turn(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client)
    await court.post(court.seller, "evidence", text("early answer"), expect=201)
    await court.post(court.buyer, "escalate", expect=200)
    wrong = await court.post(court.buyer, "evidence/complete")
    assert (wrong.status_code, wrong.json()["code"]) == (403, "dispute_side")
    await court.post(court.buyer, "evidence", text("claim"), expect=201)
    await court.post(court.seller, "evidence/complete", expect=200)
    assert (await court.get(court.buyer)).json()["turn"] == "claimant"
    facts, files = await court.facts(), blobs(kernel)
    for refused in (
        await court.post(court.seller, "evidence", text("late")),
        await upload(court, court.seller, PNG, "image/png"),
        await court.post(court.seller, "evidence/complete"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "evidence_closed")
    assert (await court.facts(), blobs(kernel)) == (facts, files)
    await court.post(court.buyer, "evidence", text("rebuttal"), expect=201)
    await court.post(court.buyer, "evidence/complete", expect=200)
    assert await court.status() == "under_review"
    for who in (court.buyer, court.seller):
        refused = await court.post(who, "evidence", text("late"))
        assert (refused.status_code, refused.json()["code"]) == (409, "evidence_closed")


async def test_past_the_deadline_before_the_job_has_run(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client)
    await court.post(court.buyer, "escalate", expect=200)
    court = await court.later(days=7)
    facts = await court.facts()
    refused = await court.post(court.seller, "evidence", text("just too late"))
    assert (refused.status_code, refused.json()["code"]) == (409, "dispute_deadline_passed")
    assert await court.facts() == facts


async def test_an_arbiter_may_ask_for_more(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await in_review(kernel, client)
    question = {"question": "Which rows are missing?"}
    for who, status, code in (
        (court.buyer, 403, "role_required"),
        (court.arbiters[1], 403, "arbiter_not_assigned"),
    ):
        refused = await court.post(who, "evidence-requests", question)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    before = (await court.get(court.buyer)).json()
    asked = (await court.post(court.arbiters[0], "evidence-requests", question, expect=200)).json()
    assert (asked["status"], asked["turn"]) == ("under_review", "both")
    assert asked["deadline_at"] > before["deadline_at"]
    for who in (court.seller, court.buyer):
        await court.post(who, "evidence", text(f"answer of {who.id}"), expect=201)
    early = await court.post(
        court.arbiters[0], "rulings", {"buyer_ppm": 1, "access": "keep", "reasons": "Too early."}
    )
    assert (early.status_code, early.json()["code"]) == (409, "dispute_state")
    court = await court.later(days=3)
    late = await court.post(court.buyer, "evidence", text("after the window"))
    assert (late.status_code, late.json()["code"]) == (409, "evidence_closed")
    assert (await court.facts())["counts"]["evidence"] == 7
    steps = (await court.get(court.buyer, "timeline")).json()["items"]
    assert [s["data"] for s in steps if s["kind"] == "evidence_requested"] == [question]


async def test_a_related_arbiter_reads_no_evidence(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    court = await opened(kernel, client)
    made = (await court.post(court.seller, "evidence", text("secret"), expect=201)).json()
    await relate(court, court.arbiters[0].party_id, court.buyer.party_id)
    for path in ("evidence", f"evidence/{made['id']}", f"evidence/{made['id']}/content"):
        refused = await court.get(court.arbiters[0], path, expect=403)
        assert refused.json()["code"] == "arbiter_conflict"
        assert "secret" not in refused.text
        await court.get(court.arbiters[1], path)


async def test_evidence_of_another_dispute_is_not_found(
    kernel: Kernel, client: httpx.AsyncClient
) -> None:
    one, other = await opened(kernel, client), await opened(kernel, client)
    foreign = (await other.get(other.buyer, "evidence")).json()["items"][0]["id"]
    for evidence_id in (foreign, show("evd", new_id())):
        for path in (f"evidence/{evidence_id}", f"evidence/{evidence_id}/content"):
            refused = await one.get(one.buyer, path, expect=404)
            assert refused.json()["code"] == "evidence_not_found"


async def test_a_changed_blob_raises_the_alarm(
    kernel: Kernel, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    court = await opened(kernel, client)
    made = (await upload(court, court.buyer, PNG, "image/png")).json()
    key = f"evidence/{court.uuid.hex}/{made['id'].removeprefix('evd_')}"
    await kernel.blobs.put(key, PNG + b"tampered")
    refused = await court.get(court.seller, f"evidence/{made['id']}/content", expect=503)
    assert refused.json()["code"] == "evidence_corrupt"
    assert b"tampered" not in refused.content
    await kernel.blobs.delete(key)
    gone = await court.get(court.seller, f"evidence/{made['id']}/content", expect=404)
    assert gone.json()["code"] == "blob_not_found"


async def test_a_side_has_a_bound(kernel: Kernel, client: httpx.AsyncClient) -> None:
    court = await opened(kernel, client, arbiters=0)
    async with kernel.unit_of_work() as uow:
        await (await uow.raw()).execute(
            "INSERT INTO contracts.evidence (id, dispute_id, number, side, submitted_by, round, "
            "kind, title, media_type, byte_count, sha256, content, submitted_at) "
            "SELECT gen_random_uuid(), $1, 3 + n, 'claimant', $2, 1, 'other', 'n', 'text/plain', "
            "1, encode(sha256('x'), 'hex'), 'x', now() FROM generate_series(1, $3::int) n",
            court.uuid,
            court.buyer.party_id,
            PER_SIDE_MAX,
        )
    files = blobs(kernel)
    for refused in (
        await court.post(court.buyer, "evidence", text()),
        await upload(court, court.buyer, PNG, "image/png"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "evidence_limit")
    assert blobs(kernel) == files
    await court.post(court.seller, "evidence", text(), expect=201)
    page = (await court.get(court.buyer, "evidence?limit=100")).json()
    rest = (await court.get(court.buyer, f"evidence?after={page['next_after']}")).json()
    numbers = [item["number"] for item in [*page["items"], *rest["items"]]]
    assert numbers == list(range(1, PER_SIDE_MAX + 5))
    bad = await court.get(court.buyer, "evidence?after=WyJ4Il0", expect=422)
    assert bad.json()["code"] == "cursor_invalid"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE contracts.evidence SET title = 'edited'",
        "UPDATE contracts.evidence SET content = 'x' WHERE false",
        "DELETE FROM contracts.evidence",
        "TRUNCATE contracts.evidence CASCADE",
        "UPDATE contracts.ruling SET buyer_ppm = 0",
        "DELETE FROM contracts.ruling",
        "DELETE FROM contracts.dispute_step",
        "UPDATE contracts.dispute_outcome SET jws = 'x'",
        "DELETE FROM contracts.ruling_acceptance",
        "DELETE FROM contracts.ruling_review",
        "UPDATE contracts.dispute_offer SET buyer_ppm = 0",
        "DELETE FROM contracts.appeal",
    ],
)
async def test_the_database_refuses_edits(
    kernel: Kernel, client: httpx.AsyncClient, database: TestDatabase, statement: str
) -> None:
    await _some_court(kernel, client)
    with (
        psycopg.connect(database.url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement)
    # Not even the owner can.
    with (
        psycopg.connect(database.owner_url) as connection,
        pytest.raises(psycopg.errors.RestrictViolation),
    ):
        connection.execute(statement)


def test_the_guards_hold_for_replication_too(database: TestDatabase) -> None:
    """``session_replication_role = replica`` skips triggers that are not ENABLE ALWAYS."""
    with psycopg.connect(database.owner_url) as connection:
        rows = connection.execute(
            "SELECT c.relname, t.tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
            "WHERE t.tgname = 'dispute_guard' OR c.relname = ANY(%s) AND NOT t.tgisinternal",
            (
                [
                    "appeal",
                    "dispute_offer",
                    "dispute_outcome",
                    "dispute_step",
                    "evidence",
                    "ruling",
                    "ruling_acceptance",
                    "ruling_review",
                ],
            ),
        ).fetchall()
    assert len(rows) == 9
    assert {enabled for _, enabled in rows} == {"A"}


_made: list[Court] = []


async def _some_court(kernel: Kernel, client: httpx.AsyncClient) -> Court:
    if not _made:
        _made.append(await opened(kernel, client))
    return _made[0]


async def test_the_database_checks_hashes_itself(
    kernel: Kernel, client: httpx.AsyncClient, database: TestDatabase
) -> None:
    court = await _some_court(kernel, client)
    with (
        psycopg.connect(database.url) as connection,
        pytest.raises(psycopg.errors.CheckViolation, match="evidence_hash_true"),
    ):
        connection.execute(
            "INSERT INTO contracts.evidence (id, dispute_id, number, side, submitted_by, round, "
            "kind, title, media_type, byte_count, sha256, content, submitted_at) VALUES "
            "(gen_random_uuid(), %s, 99, 'claimant', %s, 1, 'other', 't', 'text/plain', 1, "
            "repeat('0', 64), 'x', now())",
            (court.uuid, court.buyer.party_id),
        )


async def test_a_lost_answer_keeps_the_blob(
    kernel: Kernel,
    client: httpx.AsyncClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A 503 may come after the commit: only a true refusal removes the file."""
    from market.kernel.db import DatabaseUnavailable

    court = await open_dispute(await make_court(kernel, client))
    files = blobs(kernel)

    async def lost(*_: object, **__: object) -> None:
        raise DatabaseUnavailable("The database connection was lost.")

    monkeypatch.setattr("contracts.evidence.add", lost)
    answer = await upload(court, court.buyer, PNG, "image/png")
    assert answer.status_code == 503
    assert len(blobs(kernel)) == len(files) + 1
