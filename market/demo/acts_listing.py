"""Acts 1 to 3: parties, registration with certificate and listing, valuation."""

from pathlib import Path
from typing import Any

from market.demo.client import Participant
from market.demo.stage import CURRENCY, Product, Stage
from market.kernel.money import display

BUREAU = "Weather Bureau"
AIRLINES = "Airline Association"
INSURER = "Insurer"
LAB = "Research Lab"
NEAR_ARBITER = "Arbiter Near"
FREE_ARBITER = "Arbiter Free"
REGULATOR = "Regulator"

CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

# The bureau's weather goes into the association's flight delays: 20 % of the seller's net.
BUREAU_SHARE_PPM = 200_000
FLIGHTS_LOT_ROWS = 1_000
FLIGHTS_PRICE_MINOR = 1_250
LICENSE_PRICE_MINOR = 9_999_900


def parties(stage: Stage) -> None:
    """Act 1: sign-up, verification, staff, log-in by client credentials."""
    stage.transcript.act(1, "Parties register, are verified and log in")
    rules = stage.operator.get("/v1/rules")["version"]
    wanted = {
        BUREAU: ["seller"],
        AIRLINES: ["seller"],
        INSURER: ["buyer"],
        LAB: ["buyer"],
    }
    for name, roles in wanted.items():
        person = stage.participant(name)
        party = person.sign_up(
            {
                "name": name,
                "kind": "public_body" if name == BUREAU else "company",
                "jurisdiction": "CN",
                "roles": roles,
                "rules_version": rules,
            }
        )
        _verify(stage, person)
        stage.transcript.step(name, f"registered as {', '.join(roles)}, verified", party["id"])
    for name, role in (
        (NEAR_ARBITER, "arbiter"),
        (FREE_ARBITER, "arbiter"),
        (REGULATOR, "regulator"),
    ):
        person = stage.participant(name)
        made = stage.operator.post(
            "/v1/staff",
            {"name": name, "kind": "public_body", "jurisdiction": "CN", "role": role},
            step=f"appoint {name}",
        )
        person.adopt(made)
        stage.transcript.step(name, f"appointed as {role}", person.party_id)


def _verify(stage: Stage, person: Participant) -> None:
    stage.operator.post(
        f"/v1/parties/{person.party_id}/verify",
        {"evidence": [{"kind": "business_license", "reference": f"register of {person.name}"}]},
        step=f"verify {person.name}",
        expect=200,
    )


def products(stage: Stage) -> None:
    """Act 2: upload, profile, grade, review, certificate, listing, plans."""
    stage.transcript.act(2, "Sellers register data, operators review, listings go live")
    _register(
        stage,
        BUREAU,
        "weather",
        {
            "name": {"en": "New York airport weather 2013", "zh": "纽约机场气象数据2013"},
            "description": "Hourly observations at EWR, JFK and LGA.",
            "category": "weather",
            "update_cycle": "yearly",
        },
        stage.files.weather,
        CSV,
    )
    _register(
        stage,
        AIRLINES,
        "flights",
        {
            "name": {"en": "Flight punctuality New York 2013", "zh": "纽约航班准点数据2013"},
            "description": "Every departure from New York with delays, carrier and route.",
            "category": "transport",
            "update_cycle": "yearly",
        },
        stage.files.flights,
        PARQUET,
    )
    _plan(stage, BUREAU, "weather", "metered", price_minor=800)
    _plan(stage, AIRLINES, "flights", "metered", price_minor=FLIGHTS_PRICE_MINOR)
    _plan(stage, AIRLINES, "flights", "license", price_minor=LICENSE_PRICE_MINOR)
    flights = stage.products["flights"]
    stage[AIRLINES].put(
        f"/v1/listings/{flights.listing_id}/shares",
        {"shares": [{"party_id": stage[BUREAU].party_id, "ppm": BUREAU_SHARE_PPM}]},
        **{"If-Match": '"0"'},
    )
    stage.transcript.step(AIRLINES, f"grants {BUREAU} 20 % of its net as contributor")


def _register(
    stage: Stage,
    seller: str,
    name: str,
    facts: dict[str, Any],
    file: Path,
    media_type: str,
) -> None:
    person, transcript = stage[seller], stage.transcript
    right = {"held": True, "basis": "Collected in the course of our own public duties."}
    product = person.post(
        "/v1/products",
        {
            **facts,
            "source_statement": "Own observation; published by the R package nycflights13 (CC0).",
            "rights": {"holding": right, "processing_use": right, "product_operation": right},
            "contains_personal_data": False,
            "regions": ["US-NY"],
        },
        step=f"product {name}",
    )
    path = f"/v1/products/{product['id']}"
    with transcript.transfer(f"{name} upload", file.stat().st_size) as advance:
        version = person.upload(
            f"{path}/versions", file, media_type, step=f"upload {name}", advance=advance
        )
    transcript.step(
        seller,
        f"{version['row_count']:,} rows profiled, grade {version['grade']}",
        f"quality {version['quality']['overall']}, sha256 {version['sha256'][:12]}…",
    )
    person.post(f"{path}/submit", {}, step=f"submit {name}", expect=200)
    reason = {"reason": "Source, rights and grade checked."}
    approved = stage.operator.post(f"{path}/approve", reason, step=f"approve {name}", expect=200)
    certificate = stage.operator.get(f"/v1/certificates/{approved['certificate_id']}")
    transcript.step("Operator", "reviewed; certificate issued", certificate["id"])
    listing = person.post(
        "/v1/listings",
        {
            "product_id": product["id"],
            "title": facts["name"],
            "summary": facts["description"],
            "policy": {
                "purposes": ["internal_analytics", "risk_management", "academic_research"],
                "territory": ["CN"],
                "redistribution": False,
                "derivative_use": True,
                "deletion_days": 30,
            },
        },
        step=f"listing {name}",
    )
    path = f"/v1/listings/{listing['id']}"
    person.post(f"{path}/submit", {}, step=f"submit listing {name}", expect=200)
    stage.operator.post(f"{path}/approve", reason, step=f"approve listing {name}", expect=200)
    transcript.step(seller, "listing is live", listing["id"])
    stage.products[name] = Product(product["id"], listing["id"])


def _plan(stage: Stage, seller: str, product: str, kind: str, *, price_minor: int) -> None:
    terms: dict[str, Any] = {
        "kind": kind,
        "currency": CURRENCY,
        "price_minor": price_minor,
        "term_days": 365,
        "acceptance_window_days": 7,
    }
    per = "license of a year"
    if kind == "metered":
        terms |= {"unit": "row", "lot_units": FLIGHTS_LOT_ROWS}
        per = f"{FLIGHTS_LOT_ROWS:,} rows"
    offer = stage.products[product]
    plan = stage[seller].post(
        f"/v1/listings/{offer.listing_id}/plans", terms, step=f"plan {product} {kind}"
    )
    offer.plans[kind] = plan["id"]
    stage.transcript.step(
        seller, f"{product}: {kind} plan, {display(price_minor, CURRENCY)} per {per}", plan["id"]
    )


def valuation(stage: Stage) -> None:
    """Act 3: the flights valued by cost, income and market approach."""
    stage.transcript.act(3, "A valuation by cost, income and market approach")
    result = stage[AIRLINES].post("/v1/valuations", _valuation_input(stage), step="valuation")
    stage.transcript.table(
        f"Valuation {result['id']} ({result['method_version']})",
        ("approach", "value", "low", "high"),
        [
            (
                approach["approach"],
                display(approach["value_minor"], CURRENCY),
                display(approach["low_minor"], CURRENCY),
                display(approach["high_minor"], CURRENCY),
            )
            for approach in result["approaches"]
        ],
    )
    suggestion = result["suggestion"]
    stage.transcript.step(
        AIRLINES,
        f"suggested price {display(suggestion['price_minor'], CURRENCY)} per 1,000 rows",
        f"range {display(suggestion['low_minor'], CURRENCY)}"
        f" to {display(suggestion['high_minor'], CURRENCY)}",
    )


def _valuation_input(stage: Stage) -> dict[str, Any]:
    def money(amount: int, low: int, high: int) -> dict[str, int]:
        return {"amount_minor": amount, "low_minor": low, "high_minor": high}

    def factor(ppm: int) -> dict[str, int]:
        return {"ppm": ppm, "low_ppm": ppm - 50_000, "high_ppm": ppm + 50_000}

    return {
        "listing_id": stage.products["flights"].listing_id,
        "currency": CURRENCY,
        "basis": {"unit": "row", "lot_units": FLIGHTS_LOT_ROWS, "lots_expected": 50_000},
        "cost": {
            "lines": [
                {
                    "kind": "direct",
                    "label": "Collection and cleaning",
                    "cost": money(42_000_000, 40_000_000, 45_000_000),
                },
                {
                    "kind": "indirect",
                    "label": "Platform",
                    "cost": money(9_000_000, 9_000_000, 9_500_000),
                },
            ],
            "return_rate": factor(150_000),
            "quality": factor(950_000),
            "circulation": factor(850_000),
            "monopoly": factor(100_000),
            "risk": factor(50_000),
        },
        "income": {
            "method": "direct",
            "discount_rate": factor(100_000),
            "terms": [
                {"revenue": money(22_000_000, 18_000_000, 25_000_000)},
                {"revenue": money(24_000_000, 19_000_000, 28_000_000)},
                {"revenue": money(26_000_000, 20_000_000, 31_000_000)},
            ],
        },
        "market": {
            "reference": {
                "price": money(60_000_000, 55_000_000, 66_000_000),
                "source": "Annual license of a comparable punctuality feed, seller's own contract.",
            },
        },
    }
