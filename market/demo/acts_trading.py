"""Acts 4 to 6: search and orders, metered delivery, release, split and payout."""

import io
import time
from collections.abc import Callable
from typing import Any

import httpx
import pyarrow.parquet as parquet

from market.demo.acts_listing import (
    AIRLINES,
    BUREAU,
    FLIGHTS_LOT_ROWS,
    FLIGHTS_PRICE_MINOR,
    INSURER,
    LAB,
    LICENSE_PRICE_MINOR,
)
from market.demo.client import DemoFailed, Participant
from market.demo.stage import CURRENCY, Stage
from market.kernel.money import display

INSURER_TOP_UP_MINOR = 2_000_000
LAB_TOP_UP_MINOR = 12_000_000
# Background work runs every second or few; a step waits this long for it at most.
BACKGROUND_TIMEOUT_S = 60
PAGE_ROWS = 5
FIRST_ASK_LOTS, BUY_LOTS = 3, 5
BID_MINOR = 1_300


def search(stage: Stage) -> None:
    """Act 4a: the catalog in English and in Chinese."""
    transcript = stage.transcript
    transcript.act(4, "Search, top-up, orders: price-time priority and partial fills")
    lab = stage[LAB]
    for query in ("flight punctuality", "航班准点"):
        found = lab.get("/v1/catalog", q=query, limit=50)
        ids = [item["listing_id"] for item in found["items"]]
        if stage.products["flights"].listing_id not in ids and found["total"] <= len(ids):
            raise DemoFailed(f"the catalog did not find the flights by {query!r}")
        transcript.step(LAB, f"searches “{query}”", f"{found['total']} listings found")


def orders(stage: Stage) -> None:
    """Act 4b: money in, asks, a partial fill, a market order."""
    transcript = stage.transcript
    for name, amount_minor in ((INSURER, INSURER_TOP_UP_MINOR), (LAB, LAB_TOP_UP_MINOR)):
        money = {"amount_minor": amount_minor, "currency": CURRENCY}
        stage[name].post("/v1/top-ups", {"money": money, "card": "tok_success"}, step="top-up")
        transcript.step(name, f"tops up {display(amount_minor, CURRENCY)} by card")
    declined = stage[LAB].send(
        "POST",
        "/v1/top-ups",
        json={"money": {"amount_minor": 500, "currency": CURRENCY}, "card": "tok_declined"},
        headers=stage[LAB].key("declined"),
    )
    _refused(stage, LAB, "tries a declined card", declined, 402)
    plan = stage.products["flights"].plans["metered"]
    _ask(stage, AIRLINES, plan, FLIGHTS_PRICE_MINOR, FIRST_ASK_LOTS, "ask 1")
    bought = _buy(stage, INSURER, plan, lots=BUY_LOTS, price_minor=BID_MINOR, step="buy flights")
    transcript.step(
        INSURER,
        f"bids {BUY_LOTS} lots at {display(BID_MINOR, CURRENCY)}: {bought['filled_lots']} filled at"
        f" {display(FLIGHTS_PRICE_MINOR, CURRENCY)}, {bought['remaining_lots']} rest in the book",
        f"{bought['status']}",
    )
    _ask(stage, AIRLINES, plan, BID_MINOR, None, "posted price")
    rest = stage[INSURER].get(f"/v1/orders/{bought['id']}")
    if rest["status"] != "filled":
        raise DemoFailed(f"the rest of the bid was not filled: {rest['status']}")
    transcript.step(INSURER, "the rest is filled by the new posted price", rest["status"])
    stage.agreements["insurer"] = rest["trades"][-1]["agreement_id"]
    first = min(rest["trades"], key=lambda trade: int(trade["price_minor"]))
    stage.agreements["insurer"] = first["agreement_id"]
    license_plan = stage.products["flights"].plans["license"]
    _ask(stage, AIRLINES, license_plan, LICENSE_PRICE_MINOR, None, "posted license")
    licensed = stage[LAB].post(
        "/v1/orders",
        {
            "plan_id": license_plan,
            "side": "buy",
            "type": "market",
            "lots": 1,
            "protection_price_minor": LICENSE_PRICE_MINOR,
        },
        step="buy license",
    )
    stage.agreements["lab"] = licensed["trades"][0]["agreement_id"]
    transcript.step(
        LAB,
        f"market order: one license for {display(LICENSE_PRICE_MINOR, CURRENCY)}, now in escrow",
        stage.agreements["lab"],
    )


def _ask(
    stage: Stage, seller: str, plan: str, price_minor: int, lots: int | None, step: str
) -> None:
    order = {"plan_id": plan, "side": "sell", "price_minor": price_minor, "lots": lots}
    made = stage[seller].post("/v1/orders", order, step=step)
    amount = f"{lots} lots" if lots is not None else "unlimited"
    stage.transcript.step(
        seller, f"offers {amount} at {display(price_minor, CURRENCY)}", made["status"]
    )


def _buy(
    stage: Stage, buyer: str, plan: str, *, lots: int, price_minor: int, step: str
) -> dict[str, Any]:
    order = {"plan_id": plan, "side": "buy", "price_minor": price_minor, "lots": lots}
    made: dict[str, Any] = stage[buyer].post("/v1/orders", order, step=step)
    return made


def delivery(stage: Stage) -> None:
    """Act 5: rows with the metered token; refusals are not charged."""
    transcript = stage.transcript
    transcript.act(5, "The buyer pulls metered rows; refusals are not charged")
    buyer = stage[INSURER]
    grant = _grant(buyer, stage.agreements["insurer"])
    token = _mint(stage, buyer, grant["id"], "risk model")
    query = {
        "select": "carrier,flight,origin,dest,dep_delay",
        "filter": "origin = 'JFK' and dep_delay > 120",
        "limit": str(PAGE_ROWS),
    }
    page = _rows(buyer, token, query, "application/json")
    body = page.json()
    transcript.table(
        "GET /v1/delivery/rows as JSON",
        query["select"].split(","),
        [[str(value) for value in row.values()] for row in body["items"]],
    )
    _metered(stage, INSURER, page)
    _metered(
        stage, INSURER, _rows(buyer, token, {**query, "after": body["next_after"]}, "text/csv")
    )
    columns = _rows(
        buyer,
        token,
        {"select": "carrier,month,dep_delay,arr_delay", "limit": "1990"},
        "application/vnd.apache.parquet",
    )
    table = parquet.read_table(io.BytesIO(columns.content))
    _metered(stage, INSURER, columns, f"{table.num_rows:,} rows of Parquet read back")
    receipt = buyer.get(f"/v1/receipts/{columns.headers['receipt-id']}")
    transcript.step(INSURER, "holds a signed receipt", f"number {receipt['seq']}, {receipt['id']}")
    _refusals(stage, buyer, grant["id"], token)


def _refusals(stage: Stage, buyer: Participant, grant_id: str, token: dict[str, Any]) -> None:
    before = buyer.get(f"/v1/grants/{grant_id}")
    over = _ask_rows(buyer, token["token"], {"limit": "2000"})
    _refused(stage, INSURER, "asks for more than is left", over, 402)
    extra = _mint(stage, buyer, grant_id, "to be revoked")
    buyer.delete(f"/v1/tokens/{extra['id']}")
    revoked = _ask_rows(buyer, extra["token"], {"limit": "1"})
    _refused(stage, INSURER, "uses a revoked token", revoked, 410)
    brief = buyer.post(
        f"/v1/grants/{grant_id}/tokens", {"ttl_s": 1, "label": "one second"}, step="brief token"
    )
    time.sleep(2.1)
    expired = _ask_rows(buyer, brief["token"], {"limit": "1"})
    _refused(stage, INSURER, "uses an expired token", expired, expired.status_code)
    after = buyer.get(f"/v1/grants/{grant_id}")
    if after["settled_units"] != before["settled_units"]:
        raise DemoFailed("a refused delivery was charged")
    stage.transcript.step(
        INSURER, f"the meter stands at {after['settled_units']:,} rows", "refusals cost nothing"
    )


def settlement(stage: Stage) -> None:
    """Act 6: escrow released by use, split to the minor unit, paid out."""
    transcript = stage.transcript
    transcript.act(6, "Escrow is released by use, split exactly, paid out")
    buyer, seller = stage[INSURER], stage[AIRLINES]
    agreement_id = stage.agreements["insurer"]
    used = _grant(buyer, agreement_id)["settled_units"]
    due = used * FLIGHTS_PRICE_MINOR // FLIGHTS_LOT_ROWS

    def released() -> dict[str, Any] | None:
        agreement: dict[str, Any] = buyer.get(f"/v1/agreements/{agreement_id}")
        return agreement if agreement["released_minor"] >= due else None

    agreement = _await(released, "the release of used units")
    fee = agreement["terms"]["fee_ppm"]
    transcript.step(
        "Exchange",
        f"{used:,} rows used = {display(agreement['released_minor'], CURRENCY)} released",
        f"fee {fee / 10_000:g} %, contributor 20 % of the net",
    )
    transcript.amounts(
        "Available now",
        {name: available(stage[name]) for name in (AIRLINES, BUREAU, INSURER)},
        CURRENCY,
    )
    earned = available(seller)
    payout = seller.post(
        "/v1/payouts",
        {
            "money": {"amount_minor": earned, "currency": CURRENCY},
            "destination": "dst_success",
        },
        step="payout",
    )

    def paid() -> dict[str, Any] | None:
        found: dict[str, Any] = seller.get(f"/v1/payouts/{payout['id']}")
        return found if found["status"] == "paid" else None

    _await(paid, "the payout")
    transcript.step(AIRLINES, f"{display(earned, CURRENCY)} paid out to its bank", payout["id"])


def available(person: Participant) -> int:
    """A participant's available balance in minor units."""
    accounts = person.get("/v1/accounts", kind="available", currency=CURRENCY)["items"]
    own = [item for item in accounts if item["owner"] == person.party_id]
    return int(own[0]["available_minor"]) if own else 0


def _await(check: Callable[[], dict[str, Any] | None], what: str) -> dict[str, Any]:
    deadline = time.monotonic() + BACKGROUND_TIMEOUT_S
    while time.monotonic() < deadline:
        found = check()
        if found is not None:
            return found
        time.sleep(0.25)
    raise DemoFailed(f"{what} did not happen within {BACKGROUND_TIMEOUT_S} s")


def _grant(person: Participant, agreement_id: str) -> dict[str, Any]:
    agreement = person.get(f"/v1/agreements/{agreement_id}")
    grant: dict[str, Any] = person.get(f"/v1/grants/{agreement['grant_id']}")
    return grant


def _mint(stage: Stage, person: Participant, grant_id: str, label: str) -> dict[str, Any]:
    token: dict[str, Any] = person.post(
        f"/v1/grants/{grant_id}/tokens", {"ttl_s": 3_600, "label": label}, step=f"token {label}"
    )
    stage.tokens[label] = token
    stage.transcript.step(person.name, f"mints the token “{label}”", token["id"])
    return token


def _ask_rows(
    person: Participant, token: str, query: dict[str, str], media_type: str = "application/json"
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}", "Accept": media_type}
    return person.send("GET", "/v1/delivery/rows", params=query, headers=headers)


def _rows(
    person: Participant, token: dict[str, Any], query: dict[str, str], media_type: str
) -> httpx.Response:
    answer = _ask_rows(person, token["token"], query, media_type)
    if answer.status_code != 200:
        raise DemoFailed(f"rows were refused: {answer.status_code} {answer.text[:500]}")
    return answer


def _metered(stage: Stage, who: str, answer: httpx.Response, what: str = "") -> None:
    stage.transcript.step(
        who,
        what or f"read {answer.headers['content-type'].split(';')[0]}",
        f"charged {answer.headers['meter-charged']}, left {answer.headers['meter-remaining']}",
    )


def _refused(stage: Stage, who: str, what: str, answer: httpx.Response, status: int) -> None:
    if answer.status_code != status or answer.status_code < 400:
        raise DemoFailed(f"{who} {what}: expected {status}, got {answer.status_code}")
    problem = answer.json()
    stage.transcript.refusal(who, what, answer.status_code, problem["code"], problem["detail"])
