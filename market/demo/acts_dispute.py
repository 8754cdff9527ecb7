"""Acts 7 and 8: dispute, ruling, trace; the ledger proves itself."""

from contracts.trace import verify_trace
from market.demo.acts_listing import (
    AIRLINES,
    BUREAU,
    FREE_ARBITER,
    LAB,
    NEAR_ARBITER,
    REGULATOR,
)
from market.demo.acts_trading import available
from market.demo.client import DemoFailed
from market.demo.stage import CURRENCY, Stage
from market.kernel.ids import new_id
from market.kernel.money import display

RULED_BUYER_PPM = 400_000


def dispute(stage: Stage) -> None:
    """Act 7a: the lab disputes its license; money is frozen, evidence comes from both sides."""
    transcript = stage.transcript
    transcript.act(7, "A dispute, evidence from both sides, a ruling")
    agreement_id = stage.agreements["lab"]
    opened = stage[LAB].post(
        "/v1/disputes",
        {
            "agreement_id": agreement_id,
            "reason": "quality",
            "claim": {
                "statement": "8,255 flights have no departure delay; the offer named none missing.",
                "buyer_ppm": 500_000,
                "access": "keep",
                "escalate": True,
            },
        },
        step="open dispute",
    )
    stage.dispute_id = opened["id"]
    transcript.step(
        LAB,
        f"opens a dispute; {display(opened['frozen']['amount_minor'], CURRENCY)} frozen",
        opened["id"],
    )
    path = f"/v1/disputes/{stage.dispute_id}"
    stage[LAB].post(f"{path}/escalate", {}, step="escalate", expect=200)
    _evidence(stage, LAB, "quality_report", "Share of missing departure delays: 2.45 %.")
    _evidence(stage, AIRLINES, "statement", "Cancelled flights have no delay; the listing says so.")
    # The respondent answers first, then the claimant may rebut.
    for who in (AIRLINES, LAB):
        stage[who].post(f"{path}/evidence/complete", {}, step=f"rest {who}", expect=200)


def _evidence(stage: Stage, who: str, kind: str, content: str) -> None:
    made = stage[who].post(
        f"/v1/disputes/{stage.dispute_id}/evidence",
        {"kind": kind, "title": f"Evidence of the {who}", "content": content},
        step=f"evidence {who}",
    )
    stage.transcript.step(who, f"submits evidence ({kind})", f"sha256 {made['sha256'][:12]}…")


def ruling(stage: Stage) -> None:
    """Act 7b: the queue, the conflict check, the ruling; money and access move together."""
    transcript = stage.transcript
    path = f"/v1/disputes/{stage.dispute_id}"
    _relate(stage)
    queue = stage[FREE_ARBITER].get("/v1/arbitration/queue", limit=200)["items"]
    transcript.step(FREE_ARBITER, f"sees {len(queue)} case(s) in the arbitration queue")
    refused = stage[NEAR_ARBITER].send(
        "POST", f"{path}/assign", json={}, headers=stage[NEAR_ARBITER].key("assign")
    )
    if refused.status_code != 403:
        raise DemoFailed(f"a related arbiter was not refused: {refused.text[:300]}")
    problem = refused.json()
    transcript.refusal(NEAR_ARBITER, "tries to take it", 403, problem["code"], problem["detail"])
    stage[FREE_ARBITER].post(f"{path}/assign", {}, step="assign", expect=200)
    preview = stage[FREE_ARBITER].get(f"{path}/ruling-preview", buyer_ppm=RULED_BUYER_PPM)
    transcript.amounts(
        "What a split of 40 : 60 would pay",
        {
            "buyer": preview["amounts"]["buyer_minor"],
            "seller": preview["amounts"]["seller_minor"],
            "contributor": sum(share["amount_minor"] for share in preview["amounts"]["shares"]),
            "platform fee": preview["amounts"]["fee_minor"],
        },
        CURRENCY,
    )
    _rule(stage, path)
    before = {name: available(stage[name]) for name in (LAB, AIRLINES, BUREAU)}
    for name in (LAB, AIRLINES):
        stage[name].post(f"{path}/ruling/accept", {}, step="accept ruling", expect=200)
        transcript.step(name, "accepts the ruling")
    closed = stage[LAB].get(path)
    if closed["outcome"] is None:
        raise DemoFailed(f"the dispute is {closed['status']}, without an outcome")
    gained = {name: available(stage[name]) - amount for name, amount in before.items()}
    transcript.amounts("Moved in one transaction with access", gained, CURRENCY)
    agreement = stage[LAB].get(f"/v1/agreements/{stage.agreements['lab']}")
    grant = stage[LAB].get(f"/v1/grants/{agreement['grant_id']}")
    transcript.step("Exchange", f"the agreement is {agreement['status']}, access {grant['status']}")


def _relate(stage: Stage) -> None:
    """The operator records that one arbiter belongs to the seller's group."""
    group = str(new_id())
    for name in (NEAR_ARBITER, AIRLINES):
        path = f"/v1/parties/{stage[name].party_id}"
        etag = stage.operator.send("GET", path).headers["etag"]
        answer = stage.operator.send(
            "PATCH", path, json={"affiliate_group": group}, headers={"If-Match": etag}
        )
        if answer.status_code != 200:
            raise DemoFailed(f"the affiliation was refused: {answer.text[:300]}")


def _rule(stage: Stage, path: str) -> None:
    ruled = stage[FREE_ARBITER].post(
        f"{path}/rulings",
        {
            "buyer_ppm": RULED_BUYER_PPM,
            "access": "revoke",
            "reasons": "The gaps lower the value but the data is usable; the offer was silent.",
            "clauses": ["agreement: quality", "rules 6"],
        },
        step="ruling",
    )
    stage.transcript.step(
        FREE_ARBITER, "rules: 40 % back to the buyer, access revoked", ruled["id"]
    )


def trace(stage: Stage) -> None:
    """Act 7c: the regulator reads the whole trade as one signed chain and checks it."""
    found = stage[REGULATOR].get(f"/v1/agreements/{stage.agreements['lab']}/trace")
    keys = stage[REGULATOR].get("/.well-known/jwks.json")
    verify_trace(found, keys)
    sections = " → ".join(dict.fromkeys(link["section"] for link in found["links"]))
    stage.transcript.step(
        REGULATOR, f"reads the trace of {len(found['links'])} links, chain checked", sections
    )


def books(stage: Stage) -> None:
    """Act 8: the trial balance."""
    found = stage[REGULATOR].get("/v1/ledger/trial-balance")
    for currency in found["currencies"]:
        stage.transcript.table(
            f"Trial balance {currency['currency']}",
            ("accounts", "count", "debit", "credit"),
            [
                (
                    line["kind"],
                    str(line["account_count"]),
                    display(line["debit_minor"], currency["currency"]),
                    display(line["credit_minor"], currency["currency"]),
                )
                for line in currency["lines"]
            ]
            + [
                (
                    "total",
                    "",
                    display(currency["debit_minor"], currency["currency"]),
                    display(currency["credit_minor"], currency["currency"]),
                )
            ],
        )
    if not found["balanced"]:
        raise DemoFailed("the trial balance does not balance")
