"""The offline proof finds every kind of tampering, and names the row."""

import tracemalloc
import uuid
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from market.kernel.context import Kernel
from settlement import verify
from settlement.chain import GENESIS_HASH, leaf_hash, link_hash, merkle_root
from settlement.checkpoints import CHECKPOINT_TYP, checkpoint_file, write_checkpoint
from settlement.commands import Applied, Capture, Void
from settlement.verify import Report, verify_ledger
from tests.settlement.conftest import Guarded
from tests.settlement.factories import available, book, fund, hold, now, transfer


async def check(guarded: Guarded, **options: object) -> Report:
    return await verify_ledger(guarded.superuser_url, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
async def history(guarded: Guarded) -> dict[str, uuid.UUID]:
    """A ledger with every kind of row; returns the ids of some."""
    kernel = guarded.kernel
    source = await fund(kernel, uuid.uuid4(), 10_000)
    target = available(uuid.uuid4())
    later = await now(kernel) + timedelta(days=9)
    kept, done, void = hold(source, 300, later), hold(source, 200, later), hold(source, 100, later)
    rest = uuid.uuid4()
    (paid, *_) = await book(kernel, transfer(source, target, 1_000), kept, done, void)
    (captured, *_) = await book(
        kernel,
        Capture("v:cap", done.hold_id, "sale", ((target, 50),), rehold=25, rehold_id=rest),
        Void("v:void", void.hold_id),
        transfer(source, target, 999_999, key="v:refused"),
    )
    for _ in range(5):
        await book(kernel, *(transfer(source, target, 1) for _ in range(7)))
    assert isinstance(paid, Applied)
    assert isinstance(captured, Applied)
    assert paid.transfer_id is not None
    assert captured.transfer_id is not None
    return {
        "captured": captured.transfer_id,
        "source": source.id,
        "target": target.id,
        "paid": paid.transfer_id,
        "kept": kept.hold_id,
        "done": done.hold_id,
    }


async def test_a_sound_ledger_verifies(guarded: Guarded, history: dict[str, uuid.UUID]) -> None:
    seen: list[tuple[str, int, int]] = []
    report = await check(guarded, progress=lambda *step: seen.append(step))
    assert report.findings == []
    assert report.ok
    assert report.links == report.head_number == 8
    assert report.commands == 1 + 4 + 3 + 35
    assert report.transfers == 1 + 1 + 1 + 35
    assert report.postings == 2 * report.transfers
    assert report.accounts == 3
    assert ("hash chain", 8, 8) in seen
    assert ("accounts", report.postings, report.postings) in seen
    assert seen[-1] == ("checkpoints", 0, 0)


TAMPERINGS: dict[str, tuple[str, str, str, str, str]] = {
    # name: table, change, undo, check, table of the finding
    "moved amount": (
        "posting",
        "UPDATE settlement.posting SET amount = amount + 1 "
        "WHERE account_id = '{target}' AND seq = 1",
        "UPDATE settlement.posting SET amount = amount - 1 "
        "WHERE account_id = '{target}' AND seq = 1",
        "balance",
        "posting",
    ),
    "moved balance": (
        "posting",
        "UPDATE settlement.posting SET balance = balance + 1 "
        "WHERE account_id = '{target}' AND seq = 3",
        "UPDATE settlement.posting SET balance = balance - 1 "
        "WHERE account_id = '{target}' AND seq = 3",
        "balance",
        "posting",
    ),
    "gap in seq": (
        "posting",
        "UPDATE settlement.posting SET seq = 1000 WHERE account_id = '{target}' AND seq = 5",
        "UPDATE settlement.posting SET seq = 5 WHERE account_id = '{target}' AND seq = 1000",
        "seq",
        "posting",
    ),
    "account balance": (
        "account",
        "UPDATE settlement.account SET posted = posted + 7 WHERE id = '{target}'",
        "UPDATE settlement.account SET posted = posted - 7 WHERE id = '{target}'",
        "account",
        "account",
    ),
    "held": (
        "account",
        "UPDATE settlement.account SET held = held + 7 WHERE id = '{source}'",
        "UPDATE settlement.account SET held = held - 7 WHERE id = '{source}'",
        "held",
        "account",
    ),
    "renamed account": (
        "account",
        "UPDATE settlement.account SET owner = '{paid}' WHERE id = '{target}'",
        "UPDATE settlement.account SET owner = '{target_owner}' WHERE id = '{target}'",
        "name",
        "account",
    ),
    "transfer kind": (
        "transfer",
        "UPDATE settlement.transfer SET kind = 'gift' WHERE id = '{paid}'",
        "UPDATE settlement.transfer SET kind = 'test' WHERE id = '{paid}'",
        "leaf",
        "transfer",
    ),
    "booking time": (
        "transfer",
        "UPDATE settlement.transfer SET booked_at = booked_at - interval '1 s' WHERE id = '{paid}'",
        "UPDATE settlement.transfer SET booked_at = booked_at + interval '1 s' WHERE id = '{paid}'",
        "leaf",
        "transfer",
    ),
    "hold expiry": (
        "hold",
        "UPDATE settlement.hold SET expires_at = expires_at + interval '1 d' WHERE id = '{kept}'",
        "UPDATE settlement.hold SET expires_at = expires_at - interval '1 d' WHERE id = '{kept}'",
        "leaf",
        "hold",
    ),
    "resolution": (
        "hold_resolution",
        "UPDATE settlement.hold_resolution SET captured = 51 WHERE hold_id = '{done}'",
        "UPDATE settlement.hold_resolution SET captured = 50 WHERE hold_id = '{done}'",
        "leaf",
        "transfer",
    ),
    "refusal": (
        "command",
        "UPDATE settlement.command SET code = 'other' WHERE key = 'v:refused'",
        "UPDATE settlement.command SET code = 'insufficient_funds' WHERE key = 'v:refused'",
        "leaf",
        "command",
    ),
    "root": (
        "batch",
        "UPDATE settlement.batch SET root = sha256(root) "
        "WHERE id = (SELECT batch_id FROM settlement.chain_link WHERE number = 4)",
        "UPDATE settlement.batch SET root = '{root}' "
        "WHERE id = (SELECT batch_id FROM settlement.chain_link WHERE number = 4)",
        "root",
        "batch",
    ),
    "link": (
        "chain_link",
        "UPDATE settlement.chain_link SET hash = sha256(hash) WHERE number = 4",
        "UPDATE settlement.chain_link SET hash = '{hash}' WHERE number = 4",
        "chain",
        "chain_link",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_found_and_named(
    guarded: Guarded, history: dict[str, uuid.UUID], name: str
) -> None:
    table, change, undo, wanted_check, wanted_table = TAMPERINGS[name]
    values = await _values(guarded.kernel, history)
    await guarded.tamper(table, change.format(**values))
    try:
        report = await check(guarded)
    finally:
        await guarded.tamper(table, undo.format(**values))
    assert (wanted_check, wanted_table) in {(f.check, f.table) for f in report.findings}
    row = next(f.row for f in report.findings if (f.check, f.table) == (wanted_check, wanted_table))
    known = {str(value) for value in values.values()} | {"v:refused", "4", str(values["batch"])}
    assert row.split("/")[0] in known
    assert (await check(guarded)).findings == []


async def test_deleted_and_added_rows_are_found(
    guarded: Guarded, history: dict[str, uuid.UUID]
) -> None:
    forged = uuid.uuid4()
    await guarded.tamper(
        "transfer",
        "INSERT INTO settlement.transfer (id, kind, event_at, booked_at) "
        f"VALUES ('{forged}', 'forged', now(), now())",
    )
    report = await check(guarded)
    assert [(f.check, f.table, f.row) for f in report.findings] == [
        ("unchained", "transfer", str(forged))
    ]
    await guarded.tamper("transfer", f"DELETE FROM settlement.transfer WHERE id = '{forged}'")
    await guarded.tamper(
        "hold_resolution",
        f"DELETE FROM settlement.hold_resolution WHERE hold_id = '{history['done']}'",
    )
    report = await check(guarded)
    assert ("leaf", "hold_resolution", str(history["done"])) in {
        (f.check, f.table, f.row) for f in report.findings
    }
    assert ("held", "account", str(history["source"])) in {
        (f.check, f.table, f.row) for f in report.findings
    }
    await guarded.tamper(
        "hold_resolution",
        "INSERT INTO settlement.hold_resolution SELECT r.resolved_hold_id, 'captured', 50, "
        "b.booked_at FROM settlement.command r JOIN settlement.batch b ON b.id = r.batch_id "
        "WHERE r.key = 'v:cap'",
    )
    assert (await check(guarded)).ok


async def test_a_rewritten_chain_disagrees_with_an_earlier_checkpoint(
    guarded: Guarded, history: dict[str, uuid.UUID]
) -> None:
    """Who owns the database can recompute every hash; the signed file outside says otherwise."""
    kernel = guarded.kernel
    assert await write_checkpoint(kernel) == 1
    assert await write_checkpoint(kernel) == 0
    path, jwks = checkpoint_file(kernel), kernel.keys.jwks()
    report = await check(guarded, checkpoint=path, jwks=jwks)
    assert report.findings == []
    assert report.checkpoints == 1
    link = "(SELECT batch_id FROM settlement.chain_link WHERE number = 8)"
    async with kernel.unit_of_work() as uow:
        row = await (await uow.raw()).fetchrow(
            "SELECT b.root, l.prev_hash FROM settlement.batch b JOIN settlement.chain_link l"
            " ON l.batch_id = b.id WHERE l.number = 8"
        )
        assert row is not None
        root, previous = row
        leaves = await (await uow.raw()).fetch(
            f"SELECT leaf_hash FROM settlement.command WHERE batch_id = {link} ORDER BY ordinal"
        )
    assert merkle_root([row[0] for row in leaves]) == root
    forged = link_hash(previous, 8, b"\x01" * 32)
    try:
        await guarded.tamper(
            "chain_link",
            f"UPDATE settlement.chain_link SET hash = '\\x{forged.hex()}' WHERE number = 8",
        )
        report = await check(guarded, checkpoint=path, jwks=jwks)
    finally:
        honest = link_hash(previous, 8, root)
        await guarded.tamper(
            "chain_link",
            f"UPDATE settlement.chain_link SET hash = '\\x{honest.hex()}' WHERE number = 8",
        )
    assert ("checkpoint", "chain_link", "8") in {(f.check, f.table, f.row) for f in report.findings}


async def test_checkpoints_that_we_did_not_sign_are_findings(
    guarded: Guarded, history: dict[str, uuid.UUID], tmp_path: Path
) -> None:
    kernel = guarded.kernel
    good = kernel.keys.sign(CHECKPOINT_TYP, {"number": 1, "hash": "00" * 32})
    other_typ = kernel.keys.sign("certificate+jws", {"number": 1, "hash": "00" * 32})
    lines = [
        orjson.dumps({"number": 1, "jws": other_typ}),
        b"not json",
        orjson.dumps({"number": 1, "jws": good[:-4] + "AAAA"}),
        orjson.dumps({"number": 1, "jws": good}),
    ]
    path = tmp_path / "checkpoints.jsonl"
    path.write_bytes(b"\n".join(lines))
    report = await check(guarded, checkpoint=path, jwks=kernel.keys.jwks())
    assert [(f.check, f.table, f.row) for f in report.findings] == [
        ("checkpoint", "file", "1"),
        ("checkpoint", "file", "2"),
        ("checkpoint", "file", "3"),
        ("checkpoint", "chain_link", "1"),
    ]


async def test_verification_can_start_at_a_link(
    guarded: Guarded, history: dict[str, uuid.UUID]
) -> None:
    whole = await check(guarded)
    part = await check(guarded, since=5)
    assert part.ok
    assert part.links == whole.links - 5
    assert (part.head_number, part.head_hash) == (whole.head_number, whole.head_hash)
    beyond = await check(guarded, since=10_000)
    assert [(f.check, f.row) for f in beyond.findings] == [("chain", "10000")]


async def test_memory_stays_flat(
    guarded: Guarded, history: dict[str, uuid.UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times the postings, not five times the memory (the bar at 10 million is 300 MiB)."""
    monkeypatch.setattr(verify, "COMMANDS_PER_READ", 200)
    monkeypatch.setattr(verify, "POSTINGS_PER_READ", 200)
    source = await fund(guarded.kernel, uuid.uuid4(), 10**9)
    target = available(uuid.uuid4())
    peaks = []
    for rounds in (10, 40):
        for _ in range(rounds):
            await book(guarded.kernel, *(transfer(source, target, 1) for _ in range(100)))
        tracemalloc.start()
        report = await check(guarded)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.ok
    assert report.postings > 10_000
    assert peaks[1] < 1.5 * peaks[0]


async def _values(kernel: Kernel, history: dict[str, uuid.UUID]) -> dict[str, object]:
    async with kernel.unit_of_work() as uow:
        connection = await uow.raw()
        link = await connection.fetchrow(
            "SELECT l.hash, l.batch_id, b.root FROM settlement.chain_link l JOIN settlement.batch b"
            " ON b.id = l.batch_id WHERE l.number = 4"
        )
        assert link is not None
        owner = await connection.fetchval(
            "SELECT owner FROM settlement.account WHERE id = $1", history["target"]
        )
    return {
        **history,
        "target_owner": owner,
        "hash": f"\\x{link['hash'].hex()}",
        "root": f"\\x{link['root'].hex()}",
        "batch": link["batch_id"],
    }


def test_merkle_root_is_rfc_6962() -> None:
    """Golden roots of RFC 6962 §2.1 test data (the first leaves of Certificate Transparency's
    reference tree): d = "", 0x00, 0x10."""
    leaves = [leaf_hash(data) for data in (b"", b"\x00", b"\x10")]
    assert (
        merkle_root(leaves[:1]).hex()
        == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert (
        merkle_root(leaves[:2]).hex()
        == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    )
    assert (
        merkle_root(leaves[:3]).hex()
        == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    )
    with pytest.raises(ValueError, match="at least one"):
        merkle_root([])
    assert len(GENESIS_HASH) == 32
