"""A market with everything in it, for the contract test: two peers who must not see each other.

Alice and Bob own one object of every kind each; all they trade with is Carol, so nothing they own
may be shown to the other. Made by the real services and over HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.dispute_factories import claim, ruling, text
from tests.contracts.factories import bearer, grant_of, make_agreement
from tests.listings.factories import listing_body, make_listing, make_product
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan

ROWS = 50
LOT_ROWS = 1_000
LOTS = 1_000
PRICE_MINOR = 1_000
LICENSE_MINOR = 10_001
MONEY_MINOR = 100_000_000
PEERS = ("alice", "bob")

# Path parameter → prefix and table of what it names.
_TABLES = {
    "account_id": ("acc", "settlement.account"),
    "agreement_id": ("agr", "contracts.agreement"),
    "certificate_id": ("crt", "listings.certificate"),
    "credential_id": ("crd", "parties.credential"),
    "dispute_id": ("dsp", "contracts.dispute"),
    "evidence_id": ("evd", "contracts.evidence"),
    "grant_id": ("grt", "contracts.access_grant"),
    "listing_id": ("lst", "listings.listing"),
    "order_id": ("ord", 'matching."order"'),
    "party_id": ("pty", "parties.party"),
    "payout_id": ("pay", "settlement.payout"),
    "plan_id": ("pln", "pricing.plan"),
    "product_id": ("prd", "listings.product"),
    "receipt_id": ("rcp", "contracts.receipt"),
    "ruling_id": ("rul", "contracts.ruling"),
    "token_id": ("tok", "contracts.delivery_token"),
    "top_up_id": ("top", "settlement.top_up"),
    "valuation_id": ("val", "pricing.valuation"),
}


@dataclass(frozen=True)
class ApiWorld:
    """``users`` by name, in the order in which they are tried; ``ids`` by path parameter.

    ``kept`` are the ids without which a user could not go on: its party and its credential.
    """

    users: Mapping[str, Member]
    delivery_token: str
    ids: Mapping[str, Sequence[str]]
    kept: Sequence[str]


async def make_world(kernel: Kernel, client: httpx.AsyncClient) -> ApiWorld:
    """Everything, through ``client`` where the API offers it."""
    carol = await make_party(kernel, Role.SELLER, Role.BUYER, name="Carol")
    arbiter = await make_party(kernel, Role.ARBITER, name="Arbiter")
    users = {
        name: await make_party(kernel, Role.SELLER, Role.BUYER, name=name.title()) for name in PEERS
    }
    users["operator"] = await make_party(kernel, Role.OPERATOR, name="Operator")
    users["arbiter"] = arbiter
    token = ""
    for name in PEERS:
        peer = _Peer(kernel, client, users[name], carol, arbiter)
        await peer.offers()
        await peer.money()
        token = await peer.reads_data()
        await peer.disputes()
    kept = [member.id for member in users.values()]
    kept += [show("crd", member.actor.credential_id) for member in users.values()]
    return ApiWorld(users, token, await _ids(kernel), kept)


async def _ids(kernel: Kernel) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        for parameter, (prefix, table) in _TABLES.items():
            rows = await raw.fetch(f"SELECT id FROM {table} ORDER BY id LIMIT 40")
            found[parameter] = [show(prefix, row["id"]) for row in rows]
            assert found[parameter], f"the world has no {parameter}"
    return found


@dataclass(frozen=True)
class _Peer:
    """One of the two, and the third party it deals with."""

    kernel: Kernel
    client: httpx.AsyncClient
    me: Member
    carol: Member
    arbiter: Member

    async def post(self, who: Member, path: str, body: Any) -> dict[str, Any]:
        answer = await self.client.post(path, json=body, headers=who.headers())
        assert answer.status_code in (200, 201), f"{path}: {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    async def offers(self) -> None:
        """A live listing with plan, shares, valuation and price; a draft of each; a credential."""
        made = await make_listing(self.kernel, self.me, rows=ROWS)
        plan = await make_plan(self.kernel, self.me, made.listing_id, price_minor=PRICE_MINOR)
        await make_product(self.kernel, self.me, rows=ROWS, certified=False)
        await self.post(self.me, "/v1/listings", listing_body(show("prd", made.product_id)))
        listing = show("lst", made.listing_id)
        await self.post(self.me, "/v1/valuations", _valuation(listing))
        order = {"side": "sell", "price_minor": PRICE_MINOR, "lots": None}
        await self.post(self.me, "/v1/orders", {"plan_id": show("pln", plan.id), **order})
        await self.post(self.me, "/v1/credentials", {"label": "spare"})

    async def money(self) -> None:
        """Money in by card, some of it out again."""
        paid = {"amount_minor": MONEY_MINOR, "currency": "CNY"}
        await self.post(self.me, "/v1/top-ups", {"money": paid, "card": "tok_success"})
        taken = {"amount_minor": 1_000, "currency": "CNY"}
        body = {"money": taken, "destination": "dst_success"}
        await self.post(self.me, "/v1/payouts", body)

    async def reads_data(self) -> str:
        """A metered agreement with Carol, and a delivery on it; its token."""
        made = await make_listing(self.kernel, self.carol, rows=ROWS)
        plan = await make_plan(
            self.kernel, self.carol, made.listing_id, price_minor=PRICE_MINOR, lot_units=LOT_ROWS
        )
        agreement = await make_agreement(self.kernel, self.me, self.carol, plan, lots=LOTS)
        grant = show("grt", (await grant_of(self.kernel, agreement.id)).id)
        body = {"ttl_s": 86_400, "label": "test"}
        token = (await self.post(self.me, f"/v1/grants/{grant}/tokens", body))["token"]
        await self.post(self.me, f"/v1/grants/{grant}/tokens", {**body, "label": "spare"})
        rows = await self.client.get(
            "/v1/delivery/rows", params={"limit": 2}, headers=bearer(token)
        )
        assert rows.status_code == 200, rows.text
        return str(token)

    async def disputes(self) -> None:
        """A dispute being negotiated, and one that has been ruled on."""
        made = await make_listing(self.kernel, self.carol, rows=ROWS)
        plan = await make_plan(
            self.kernel, self.carol, made.listing_id, kind="license", price_minor=LICENSE_MINOR
        )
        first = await self._dispute(plan)
        offer = {"buyer_ppm": 500_000, "access": "keep"}
        await self.post(self.me, f"{first}/offers", offer)
        await self.post(self.me, f"{first}/evidence", text())
        second = await self._dispute(plan)
        await self.post(self.me, f"{second}/escalate", None)
        await self.post(self.me, f"{second}/evidence", text("rows missing"))
        for side in (self.carol, self.me):
            await self.post(side, f"{second}/evidence/complete", None)
        await self.post(self.arbiter, f"{second}/assign", {})
        await self.post(self.arbiter, f"{second}/rulings", ruling())
        await self._dispute(plan)
        # Left undisputed, to be accepted.
        await make_agreement(self.kernel, self.me, self.carol, plan)

    async def _dispute(self, plan: Any) -> str:
        agreement = await make_agreement(self.kernel, self.me, self.carol, plan)
        body = {"agreement_id": _agreement(agreement.id), "reason": "incomplete", "claim": claim()}
        made = await self.post(self.me, "/v1/disputes", body)
        return f"/v1/disputes/{made['id']}"


def _agreement(value: UUID) -> str:
    return show("agr", value)


def _valuation(listing: str) -> dict[str, Any]:
    quote = {"price": {"amount_minor": 50_000}, "source": "Quote of a bureau, 2026-01"}
    parts = ("quality", "supply_demand", "date", "capacity")
    factors = {part: {"ppm": 1_000_000} for part in parts}
    return {
        "listing_id": listing,
        "currency": "CNY",
        "basis": {"unit": "row", "lot_units": LOT_ROWS, "lots_expected": 100},
        "market": {"reference": quote, "factors": factors},
    }
