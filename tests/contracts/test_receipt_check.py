"""Receipts that a party kept, checked without the exchange."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from contracts.receipt_check import ReceiptInvalid, check
from market.cli import app
from market.kernel.clock import Clock
from market.kernel.context import Kernel
from market.kernel.security import Keyring
from tests.contracts.factories import bearer, make_trade, mint, settled

Receipts = list[dict[str, Any]]


@pytest.fixture(scope="module")
async def kept(client: httpx.AsyncClient, kernel: Kernel) -> Receipts:
    """Five receipts as the API lists them."""
    trade = await make_trade(kernel, lots=1, lot_units=100)
    token = await mint(kernel, trade)
    for limit in range(1, 6):
        path = f"/v1/delivery/rows?limit={limit}"
        assert (await client.get(path, headers=bearer(token))).status_code == 200
    assert await settled(kernel, trade) == 15
    listed = await client.get(f"/v1/agreements/{trade.id}/receipts", headers=trade.buyer.headers())
    items: Receipts = listed.json()["items"]
    return items


def _lines(receipts: Receipts, show: Callable[[dict[str, Any]], str]) -> bytes:
    return "\n".join(show(receipt) for receipt in receipts).encode()


def test_every_form_of_a_whole_chain(kernel: Kernel, kept: Receipts) -> None:
    jwks = kernel.keys.jwks()
    expected = check(json.dumps(kept).encode(), jwks)
    assert (expected.receipts, expected.first_seq, expected.last_seq) == (5, 1, 5)
    assert (expected.units, expected.rows, expected.from_start) == (15, 15, True)
    assert expected.head_sha256 == kept[-1]["sha256"]
    assert expected.agreement == kept[0]["agreement_id"]
    for content in (
        json.dumps({"items": kept, "has_more": False}, indent=1).encode(),
        json.dumps([receipt["jws"] for receipt in kept]).encode(),
        _lines(kept, json.dumps),
        _lines(kept, lambda receipt: json.dumps(receipt["jws"])),
        _lines(kept, lambda receipt: str(receipt["jws"])) + b"\n\n",
        _lines([{"items": kept[:2]}, {"items": kept[2:]}], json.dumps),
    ):
        assert check(content, jwks) == expected


def test_a_part_of_a_chain_says_so(kernel: Kernel, kept: Receipts) -> None:
    tail = check(json.dumps(kept[2:]).encode(), kernel.keys.jwks())
    assert (tail.receipts, tail.first_seq, tail.from_start) == (3, 3, False)
    one = check(json.dumps(kept[0], indent=2).encode(), kernel.keys.jwks())
    assert (one.receipts, one.units) == (1, 1)


def _forged(receipts: Receipts) -> Receipts:
    head, _, signature = receipts[2]["jws"].split(".")
    body = receipts[3]["jws"].split(".")[1]
    return [*receipts[:2], {"jws": f"{head}.{body}.{signature}"}, *receipts[3:]]


@pytest.mark.parametrize(
    ("change", "number", "reason"),
    [
        (_forged, 3, "not signed by these keys"),
        (lambda all_: [*all_[:2], *all_[3:]], 3, "one is missing"),
        (lambda all_: [all_[0], all_[2], all_[1]], 2, "missing or moved"),
        (lambda all_: [*all_, all_[0]], 6, "missing or moved"),
        (lambda all_: [*all_[:3], {**all_[3], "usage_id": "use_0"}], 4, "says usage_id"),
        (lambda all_: [{**all_[0], "sha256": "0" * 64}], 1, "says sha256"),
        (lambda all_: [*all_[:1], {"seq": 2}], 2, "has no signed text"),
        (lambda all_: [*all_[:1], 7], 2, "has no signed text"),
        (lambda all_: [{"jws": "not.a.token"}], 1, "not signed by these keys"),
    ],
)
def test_the_first_bad_one_is_named(
    kernel: Kernel, kept: Receipts, change: Callable[[Receipts], Receipts], number: int, reason: str
) -> None:
    with pytest.raises(ReceiptInvalid, match=reason) as refused:
        check(json.dumps(change(kept)).encode(), kernel.keys.jwks())
    assert refused.value.number == number


def _ring() -> Keyring:
    return Keyring([Ed25519PrivateKey.generate()], issuer="x", clock=Clock())


def test_links_are_checked_although_all_is_signed() -> None:
    keys = _ring()
    counts = {"units": 1, "rows": 1, "bytes": 1}
    first = keys.sign("receipt+jws", {"agreement": "agr_a", "seq": 1, "prev": "", **counts})

    def second(**claims: object) -> str:
        return keys.sign("receipt+jws", {"agreement": "agr_a", "seq": 2, **counts, **claims})

    for text, reason in (
        (second(prev="0" * 64), "does not name the one before it"),
        (second(prev="0" * 64, agreement="agr_b"), "belongs to another agreement"),
        (second(prev="", rows=None), "lacks a count"),
        (keys.sign("certificate+jws", {"seq": 2}), "another type"),
    ):
        with pytest.raises(ReceiptInvalid, match=reason) as refused:
            check(f"{first}\n{text}".encode(), keys.jwks())
        assert refused.value.number == 2
    with pytest.raises(ReceiptInvalid, match="does not begin a chain"):
        check(second(prev="").encode(), keys.jwks())


def test_keys_of_others_and_files_without_receipts(kernel: Kernel, kept: Receipts) -> None:
    with pytest.raises(ReceiptInvalid, match="unknown key"):
        check(json.dumps(kept).encode(), _ring().jwks())
    for content in (b"", b"[]", b'{"items": []}', b"\xff\xfe", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"no receipts|decode|nested"):
            check(content, kernel.keys.jwks())


def test_the_command_line(kernel: Kernel, kept: Receipts, tmp_path: Path) -> None:
    file, keys = tmp_path / "receipts.json", tmp_path / "jwks.json"
    keys.write_text(json.dumps(kernel.keys.jwks()))
    command = ["receipt", "verify", str(file), "--jwks", str(keys)]
    file.write_text(json.dumps(kept))
    good = CliRunner().invoke(app, command)
    assert good.exit_code == 0, good.output
    assert json.loads(good.output)["units"] == 15
    file.write_text(json.dumps([kept[0], kept[2]]))
    bad = CliRunner().invoke(app, command)
    assert bad.exit_code == 1
    assert "Not verified: receipt 2 of the file has sequence 3 after 1" in bad.output
