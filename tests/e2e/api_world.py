"""A market with everything in it, for the contract test: two peers who must not see each other.

Alice and Bob own one object of every kind each; all they trade with is Carol, so nothing they own
may be shown to the other. Made by the real services and over HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from market.demand.jobs import match_standing
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.security import Role
from tests.contracts.dispute_factories import claim, ruling, text
from tests.contracts.factories import bearer, grant_of, make_agreement
from tests.listings.factories import listing_body, make_listing, make_product
from tests.market.parties.factories import Member, make_party
from tests.pricing.factories import make_plan
from tests.settlement.factories import fund, now

ROWS = 50
LOT_ROWS = 1_000
LOTS = 1_000
PRICE_MINOR = 1_000
LICENSE_MINOR = 10_001
IDS_MAX = 40
MONEY_MINOR = 100_000_000
PEERS = ("alice", "bob")

# Path parameter → prefix and table of what it names.
_TABLES = {
    "account_id": ("acc", "settlement.account"),
    "agreement_id": ("agr", "contracts.agreement"),
    "alert_id": ("alr", "demand.alert"),
    "auction_id": ("auc", "auctions.auction"),
    "bid_id": ("bid", "auctions.bid"),
    "bundle_id": ("bnd", "matching.bundle"),
    "certificate_id": ("crt", "listings.certificate"),
    "credential_id": ("crd", "parties.credential WHERE label = 'spare'"),
    "dispute_id": ("dsp", "contracts.dispute"),
    "evidence_id": ("evd", "contracts.evidence"),
    "grant_id": ("grt", "contracts.access_grant"),
    "listing_id": ("lst", "listings.listing"),
    "order_id": ("ord", 'matching."order"'),
    "payout_id": ("pay", "settlement.payout"),
    "plan_id": ("pln", "pricing.plan"),
    "product_id": ("prd", "listings.product"),
    "request_quote_id": ("quo", "demand.quote"),
    "receipt_id": ("rcp", "contracts.receipt"),
    "request_id": ("req", "demand.request"),
    "ruling_id": ("rul", "contracts.ruling"),
    "target_id": ("ptg", "contracts.push_target"),
    "token_id": ("tok", "contracts.delivery_token"),
    "top_up_id": ("top", "settlement.top_up"),
    "upstream_id": ("ups", "contracts.upstream"),
    "valuation_id": ("val", "pricing.valuation"),
}


@dataclass(frozen=True)
class ApiWorld:
    """``users`` by name, in the order in which they are tried; they trade with ``partner_id``.

    ``ids`` by path parameter: what there is around Alice, who speaks first. ``kept`` are the ids
    without which a user could not go on: its party and its credential.
    """

    users: Mapping[str, Member]
    delivery_token: str
    delivery_grant: str
    partner_id: str
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
    ids: dict[str, list[str]] = {}
    for name in PEERS:
        peer = _Peer(kernel, client, users[name], carol, arbiter)
        await peer.offers()
        await peer.money()
        await peer.reads_data()
        await peer.disputes()
        await peer.asks()
        await peer.bids()
        await peer.bundles()
        ids = ids or await _ids(kernel, users["alice"])
    # A reader whose grant nobody disputes or ends.
    reader = await make_party(kernel, Role.BUYER, name="Dora")
    token, grant = await _Peer(kernel, client, reader, carol, arbiter).reads_data()
    kept = [member.id for member in users.values()]
    kept += [show("crd", member.actor.credential_id) for member in users.values()]
    return ApiWorld(users, token, grant, carol.id, ids, kept)


async def _ids(kernel: Kernel, alice: Member) -> dict[str, list[str]]:
    found = {"party_id": [alice.id]}
    async with kernel.unit_of_work() as uow:
        raw = await uow.raw()
        for parameter, (prefix, table) in _TABLES.items():
            rows = await raw.fetch(f"SELECT id FROM {table} ORDER BY id LIMIT {IDS_MAX}")
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
        """A live listing with plan, valuation and price; drafts, submitted ones; a credential."""
        made = await make_listing(self.kernel, self.me, rows=ROWS)
        plan = await make_plan(self.kernel, self.me, made.listing_id, price_minor=PRICE_MINOR)
        offer = listing_body(show("prd", made.product_id))
        for submitted in (False, True, True):
            product_id, _ = await make_product(self.kernel, self.me, rows=ROWS, certified=False)
            draft = await self.post(self.me, "/v1/listings", offer)
            if submitted:
                await self.post(self.me, f"/v1/products/{show('prd', product_id)}/submit", None)
                await self.post(self.me, f"/v1/listings/{draft['id']}/submit", None)
        # A port that nobody listens on: calls end at once.
        operations = [{"name": "flights", "path": "/flights"}]
        upstream = {"base_url": "http://127.0.0.1:1", "operations": operations}
        await self.post(self.me, f"/v1/products/{offer['product_id']}/upstreams", upstream)
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

    async def reads_data(self) -> tuple[str, str]:
        """A metered agreement with Carol, and a delivery on it; its token and grant."""
        made = await make_listing(self.kernel, self.carol, rows=ROWS)
        plan = await make_plan(
            self.kernel, self.carol, made.listing_id, price_minor=PRICE_MINOR, lot_units=LOT_ROWS
        )
        agreement = await make_agreement(self.kernel, self.me, self.carol, plan, lots=LOTS)
        grant = show("grt", (await grant_of(self.kernel, agreement.id)).id)
        body = {"ttl_s": 86_400, "label": "test"}
        token = (await self.post(self.me, f"/v1/grants/{grant}/tokens", body))["token"]
        await self.post(self.me, f"/v1/grants/{grant}/tokens", {**body, "label": "spare"})
        # A port that nobody listens on.
        target = {"kind": "webhook", "url": "http://127.0.0.1:1/"}
        await self.post(self.me, "/v1/push-targets", target)
        rows = await self.client.get(
            "/v1/delivery/rows", params={"limit": 2}, headers=bearer(token)
        )
        assert rows.status_code == 200, rows.text
        return str(token), grant

    async def disputes(self) -> None:
        """One dispute in each stage: negotiated, answered, before the arbiters, ruled on."""
        made = await make_listing(self.kernel, self.carol, rows=ROWS)
        plan = await make_plan(
            self.kernel, self.carol, made.listing_id, kind="license", price_minor=LICENSE_MINOR
        )
        negotiated = await self._dispute(plan)
        offer = {"buyer_ppm": 500_000, "access": "keep"}
        await self.post(self.carol, f"{negotiated}/offers", offer)
        await self.post(self.me, f"{negotiated}/evidence", text())
        await self._answered(plan)
        await self._argued(plan)
        for _ in range(2):
            ruled = await self._argued(plan)
            await self.post(self.arbiter, f"{ruled}/assign", {})
        await self.post(self.arbiter, f"{ruled}/rulings", ruling())
        # Left undisputed, to be accepted.
        await make_agreement(self.kernel, self.me, self.carol, plan)

    async def asks(self) -> None:
        """Requests that only Carol sees, a quote of hers on each, an alert about her listing."""
        wanted = {"title": "Flights", "text": "Delays.", "invited": [self.carol.id]}
        asked = [await self.post(self.me, "/v1/requests", wanted) for _ in range(2)]
        await self.post(self.me, "/v1/requests", {**wanted, "standing": True, "draft": False})
        await self.post(self.me, "/v1/requests", {**wanted, "draft": True})
        made = await make_listing(self.kernel, self.carol, rows=ROWS)
        plan = await make_plan(
            self.kernel, self.carol, made.listing_id, kind="license", price_minor=LICENSE_MINOR
        )
        valid_until = (await now(self.kernel) + timedelta(days=60)).isoformat()
        terms = {"price_minor": LICENSE_MINOR, "lots": 1, "valid_until": valid_until}
        quote = {"plan_id": show("pln", plan.id), **terms}
        for request in asked:
            await self.post(self.carol, f"/v1/requests/{request['id']}/quotes", quote)
        while await match_standing(self.kernel):
            pass

    async def bids(self) -> None:
        """A living bid in each of two auctions of Carol's."""
        made = await make_listing(self.kernel, self.carol, rows=ROWS)
        plan = await make_plan(
            self.kernel, self.carol, made.listing_id, kind="license", price_minor=LICENSE_MINOR
        )
        closes_at = (await now(self.kernel) + timedelta(days=60)).isoformat()
        offer = {"plan_id": show("pln", plan.id), "rule": "random_sampling", "closes_at": closes_at}
        await fund(self.kernel, self.me.party_id, 2 * LICENSE_MINOR)
        for _ in range(2):
            auction = await self.post(self.carol, "/v1/auctions", offer)
            path = f"/v1/auctions/{auction['id']}/bids"
            await self.post(self.me, path, {"amount_minor": LICENSE_MINOR})

    async def bundles(self) -> None:
        """Two bundles of Carol's posted prices."""
        legs = []
        for _ in range(2):
            made = await make_listing(self.kernel, self.carol, rows=ROWS)
            plan = await make_plan(
                self.kernel, self.carol, made.listing_id, price_minor=PRICE_MINOR
            )
            terms = {"plan_id": show("pln", plan.id), "price_minor": PRICE_MINOR}
            await self.post(self.carol, "/v1/orders", {**terms, "side": "sell", "lots": None})
            legs.append({**terms, "side": "buy", "lots": 1})
        for _ in range(2):
            await self.post(self.me, "/v1/bundles", {"legs": legs})

    async def _argued(self, plan: Any) -> str:
        dispute = await self._answered(plan)
        await self.post(self.me, f"{dispute}/evidence/complete", None)
        return dispute

    async def _answered(self, plan: Any) -> str:
        dispute = await self._dispute(plan)
        await self.post(self.me, f"{dispute}/escalate", None)
        await self.post(self.carol, f"{dispute}/evidence/complete", None)
        return dispute

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
