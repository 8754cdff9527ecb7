"""Offline check of receipts that a party has kept: one of them, or an agreement's chain.

A file is what the API gave: a receipt, a page or an array of them, the same one a line, or the bare
signed texts. Only what is signed counts; what stands beside it must say the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts import receipts
from market.kernel.errors import MarketError
from market.kernel.security import verify_with_jwks

# What the API shows beside the signed text, and the claim that it repeats.
_REPEATED = {
    "id": "receipt",
    "agreement_id": "agreement",
    "usage_id": "usage",
    "seq": "seq",
    "prev_sha256": "prev",
}


class ReceiptInvalid(ValueError):
    """The first receipt that does not hold; ``number`` counts from 1 in the file."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"receipt {number} of the file {reason}")
        self.number = number


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file of receipts proves. ``from_start``: none before its first is missing.

    ``head_sha256`` is what the agreement's next receipt must name; ``units``, ``rows`` and
    ``bytes`` are sums.
    """

    agreement: str
    receipts: int
    first_seq: int
    last_seq: int
    from_start: bool
    units: int
    rows: int
    bytes: int
    head_sha256: str


def check(content: bytes, jwks: Mapping[str, Any]) -> Checked:
    """Check every receipt of a file and how they follow one another.

    Raises ReceiptInvalid for the first that does not hold; ValueError for a file without receipts
    or keys that cannot be read.
    """
    if not isinstance(jwks, Mapping):
        raise ValueError("the keys are not a JWKS")
    payloads: list[dict[str, Any]] = []
    previous = ""
    for number, entry in enumerate(_entries(content), start=1):
        jws = entry.get("jws") if isinstance(entry, dict) else entry
        if not isinstance(jws, str):
            raise ReceiptInvalid(number, "has no signed text (jws)")
        payload = _signed(number, jws, jwks)
        _require_link(number, payload, payloads, previous)
        previous = receipts.digest(jws)
        if isinstance(entry, dict):
            _require_same(number, entry, payload, previous)
        payloads.append(payload)
    if not payloads:
        raise ValueError("the file has no receipts")
    first = payloads[0]
    return Checked(
        agreement=first["agreement"],
        receipts=len(payloads),
        first_seq=first["seq"],
        last_seq=payloads[-1]["seq"],
        from_start=first["seq"] == 1,
        units=sum(payload["units"] for payload in payloads),
        rows=sum(payload["rows"] for payload in payloads),
        bytes=sum(payload["bytes"] for payload in payloads),
        head_sha256=previous,
    )


def _entries(content: bytes) -> Iterator[object]:
    """Receipts in the order of the file. A line that is not JSON is taken for a signed text."""
    text = content.decode("utf-8-sig")
    try:
        whole = json.loads(text)
    except json.JSONDecodeError:
        whole = None
    except RecursionError:
        raise ValueError("the file is nested too deeply") from None
    if whole is not None:
        yield from _flat(whole)
        return
    for line in text.splitlines():
        if line.strip():
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                found = line.strip()
            yield from _flat(found)


def _flat(found: object) -> Iterator[object]:
    if isinstance(found, dict) and isinstance(found.get("items"), list):
        found = found["items"]
    if isinstance(found, list):
        yield from found
    else:
        yield found


def _signed(number: int, jws: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    try:
        payload = verify_with_jwks(receipts.TYP, jws, jwks)
    except MarketError as error:
        raise ReceiptInvalid(number, f"is not signed by these keys: {error.detail}") from error
    counts = [payload.get(name) for name in ("seq", "units", "rows", "bytes")]
    if any(type(count) is not int for count in counts):
        raise ReceiptInvalid(number, "lacks a count")
    if not isinstance(payload.get("agreement"), str):
        raise ReceiptInvalid(number, "names no agreement")
    return payload


def _require_link(
    number: int, payload: dict[str, Any], before: list[dict[str, Any]], previous: str
) -> None:
    seq, prev = payload["seq"], payload.get("prev")
    if not before:
        if seq < 1 or (seq == 1) != (prev == ""):
            raise ReceiptInvalid(number, "does not begin a chain as it says")
        return
    if payload.get("agreement") != before[-1].get("agreement"):
        raise ReceiptInvalid(number, "belongs to another agreement")
    if seq != before[-1]["seq"] + 1:
        last = before[-1]["seq"]
        raise ReceiptInvalid(number, f"has sequence {seq} after {last}: one is missing or moved")
    if prev != previous:
        raise ReceiptInvalid(number, f"(sequence {seq}) does not name the one before it")


def _require_same(number: int, entry: dict[str, Any], payload: dict[str, Any], digest: str) -> None:
    told = {**{name: payload.get(claim) for name, claim in _REPEATED.items()}, "sha256": digest}
    for name, signed in told.items():
        if name in entry and entry[name] != signed:
            raise ReceiptInvalid(number, f"says {name} {entry[name]!r}, but signed is {signed!r}")
