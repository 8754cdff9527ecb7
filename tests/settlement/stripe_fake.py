"""A small, stateful Stripe behind HTTP: what the Stripe rail uses, with its money and its faults.

Idempotency keys are honored as by Stripe's v1: the first answer is stored, also a 500; other
parameters under the same key are refused. Balances are kept, so over-refunds, over-reversals and
payouts beyond an account's balance are refused. Events pile up in ``events``; tests deliver them.
"""

import asyncio
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from tests.settlement.stripe_acts import StripeActs
from tests.settlement.stripe_books import Json, Refusal
from tests.settlement.stripe_form import nest, public

# Written with two decimals, paid out without (docs.stripe.com/currencies).
WHOLE_UNITS = frozenset({"huf", "isk", "twd", "ugx"})


@dataclass
class Fault:
    """What happens to the next request that fits: before or after its effect.

    ``how``: "hang" answers too late, "error" is a 500; ``effect`` tells whether it is done.
    """

    method: str
    path: str
    how: str
    effect: bool


@dataclass(frozen=True)
class Sent:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class StripeFake(StripeActs):
    """The API. ``answers`` by Idempotency-Key; ``sent`` is what came in."""

    answers: dict[str, tuple[str, int, Json]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    down: bool = False
    hang_s: float = 1.5

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        target = scope["path"] + (f"?{query}" if query else "")
        self.sent.append(Sent(scope["method"], target, headers, body))
        status, answer = await self._answer(scope["method"], scope["path"], query, headers, body)
        payload = json.dumps(public(answer)).encode()
        start = [(b"content-type", b"application/json"), (b"request-id", b"req_fake")]
        await send({"type": "http.response.start", "status": status, "headers": start})
        await send({"type": "http.response.body", "body": payload})

    async def _answer(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Json]:
        if self.down:
            return 500, {"error": {"type": "api_error", "message": "down"}}
        params = nest(parse_qsl(query if method == "GET" else body.decode()))
        key = headers.get("idempotency-key") if method == "POST" else None
        account = headers.get("stripe-account", "")
        print_ = f"{method} {path} {account} {json.dumps(params, sort_keys=True)}"
        if key in self.answers:
            first, status, stored = self.answers[key]
            if first != print_:
                refusal = Refusal("idempotency_mismatch", type_="idempotency_error")
                return refusal.status, refusal.body
            return status, stored
        fault = self._fault(method, path)
        answer = self._done(method, path, params, account, skip=fault and not fault.effect)
        if fault is not None and fault.how == "error":
            answer = (500, {"error": {"type": "api_error", "message": "broken"}})
        # Stripe keeps an answer from the moment at which it began to work.
        if key is not None and (fault is None or fault.effect or fault.how == "error"):
            self.answers[key] = (print_, *answer)
        if fault is not None and fault.how == "hang":
            await asyncio.sleep(self.hang_s)
        return answer

    def _done(
        self, method: str, path: str, params: Json, account: str, *, skip: Any
    ) -> tuple[int, Json]:
        if skip:
            return 500, {"error": {"type": "api_error", "message": "broken"}}
        try:
            return 200, self._route(method, path.removeprefix("/v1/"), params, account)
        except Refusal as refusal:
            return refusal.status, refusal.body

    def _fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and re.fullmatch(fault.path, path):
                self.faults.remove(fault)
                return fault
        return None

    def _route(self, method: str, path: str, params: Json, account: str) -> Json:
        parts = path.split("/")
        if method == "GET":
            return self._read(parts, params, account)
        makers = {
            "customers": self._customer,
            "checkout/sessions": self._session,
            "payment_intents": self._payment,
            "refunds": self._refund,
            "accounts": self._account,
            "account_links": self._link,
            "transfers": self._transfer,
        }
        if path in makers:
            return makers[path](params)
        match parts:
            case ["payment_methods", name, "detach"]:
                self._get(name)["customer"] = None
                return self._get(name)
            case ["balance_settings"]:
                self._get(account)["schedule"] = params["payments"]["payouts"]["schedule"]
                return {"object": "balance_settings", "payments": params["payments"]}
            case ["transfers", name, "reversals"]:
                return self._reversal(name, params)
            case ["payouts"]:
                return self._payout(params, account)
        raise Refusal("unknown_route", status=404)

    def _customer(self, params: Json) -> Json:
        return self._make("cus", "customer", metadata=params["metadata"])

    def _link(self, params: Json) -> Json:
        self._get(params["account"])
        url = f"https://connect.example/{next(self._numbers)}"
        return {"object": "account_link", "url": url, "created": 0, "expires_at": 0}

    def _read(self, parts: list[str], params: Json, account: str) -> Json:
        lists = {
            ("customers",): "customer",
            ("checkout", "sessions"): "checkout.session",
            ("payment_intents",): "payment_intent",
            ("refunds",): "refund",
            ("accounts",): "account",
            ("transfers",): "transfer",
            ("payouts",): "payout",
            ("disputes",): "dispute",
            ("balance_transactions",): "balance_transaction",
        }
        if tuple(parts) in lists:
            return self._list(lists[tuple(parts)], params, account)
        match parts:
            case ["customers", name, "payment_methods"]:
                return self._list("payment_method", params, account, customer=name)
            case ["customers", name, "payment_methods", method]:
                found = self._get(method)
                if found["customer"] != name:
                    raise Refusal("resource_missing", status=404)
                return found
            case ["transfers", name, "reversals"]:
                return self._list("transfer_reversal", params, account, transfer=name)
            case ["transfers", _, "reversals", name]:
                return self._get(name)
        found = self._get(parts[-1])
        if found.get("_account", "") != account:
            raise Refusal("resource_missing", status=404)
        return self._shown(found, params)

    def _shown(self, found: Json, params: Json) -> Json:
        if "payment_intent" in _values(params.get("expand")) and found.get("payment_intent"):
            return found | {"payment_intent": self._get(found["payment_intent"])}
        return found

    def _list(self, kind: str, params: Json, account: str, **fixed: Any) -> Json:
        filters = ("transfer_group", "payment_intent")
        asked = {name: params[name] for name in filters if name in params}
        wanted = fixed | asked
        rows = [
            made
            for made in reversed(self.objects.values())
            if made["object"] == kind
            and made.get("_account", "") == account
            and all(made.get(name) == value for name, value in wanted.items())
            and made["created"] >= int(params.get("created", {}).get("gte", 0))
        ]
        limit = int(params.get("limit", 10))
        names = [row["id"] for row in rows]
        if "ending_before" in params:
            rows = rows[: names.index(params["ending_before"])][-limit:]
            more = False
        else:
            start = names.index(params["starting_after"]) + 1 if "starting_after" in params else 0
            more = len(rows) > start + limit
            rows = rows[start : start + limit]
        if "data.source" in _values(params.get("expand")):
            rows = [row | {"source": self._get(row["source"])} for row in rows]
        return {"object": "list", "data": rows, "has_more": more, "url": "/"}

    def _session(self, params: Json) -> Json:
        price = params["line_items"]["0"]["price_data"]
        session = self._make(
            "cs_test",
            "checkout.session",
            status="open",
            payment_status="unpaid",
            amount_total=int(price["unit_amount"]),
            currency=price["currency"],
            customer=params["customer"],
            metadata=params["metadata"],
            payment_intent=None,
            client_reference_id=params["client_reference_id"],
        )
        session["url"] = f"https://checkout.example/{session['id']}"
        session["_intent"] = params["payment_intent_data"]
        return session

    def _payment(self, params: Json) -> Json:
        method = self._get(params["payment_method"])
        if method["customer"] != params["customer"]:
            raise Refusal("payment_method_not_of_customer")
        if method["_decline"] is not None:
            raise Refusal(method["_decline"], status=402, type_="card_error")
        payment = self._make(
            "pi",
            "payment_intent",
            status="succeeded",
            amount=int(params["amount"]),
            amount_received=int(params["amount"]),
            currency=params["currency"],
            customer=params["customer"],
            metadata=params["metadata"],
        )
        self._move("", payment["amount"], payment, kind="charge")
        self._event("payment_intent.succeeded", payment)
        return payment

    def _refund(self, params: Json) -> Json:
        payment = self._get(params["payment_intent"])
        amount = int(params["amount"])
        if payment.setdefault("_refunded", 0) + amount > payment["amount_received"]:
            raise Refusal("amount_too_large")
        payment["_refunded"] += amount
        made = self._make(
            "re",
            "refund",
            status="succeeded",
            amount=amount,
            currency=payment["currency"],
            payment_intent=payment["id"],
            metadata=params["metadata"],
        )
        self._move("", -amount, made, kind="refund")
        self._event("refund.created", made)
        return made

    def _account(self, params: Json) -> Json:
        if params["country"] == "KP":
            raise Refusal("country_unsupported")
        return self._make(
            "acct",
            "account",
            type=params["type"],
            country=params["country"],
            metadata=params["metadata"],
            details_submitted=False,
            payouts_enabled=False,
            requirements={"currently_due": ["external_account"], "past_due": []},
        )

    def _transfer(self, params: Json) -> Json:
        amount = int(params["amount"])
        if self.balances["", params["currency"]] < amount:
            raise Refusal("balance_insufficient")
        made = self._make(
            "tr",
            "transfer",
            amount=amount,
            amount_reversed=0,
            currency=params["currency"],
            destination=params["destination"],
            transfer_group=params["transfer_group"],
            metadata=params["metadata"],
        )
        self._move("", -amount, made, kind="transfer")
        self.balances[params["destination"], params["currency"]] += amount
        return made

    def _reversal(self, transfer_id: str, params: Json) -> Json:
        transfer = self._get(transfer_id)
        amount = int(params["amount"])
        if transfer["amount_reversed"] + amount > transfer["amount"]:
            raise Refusal("transfer_already_reversed")
        place = (transfer["destination"], transfer["currency"])
        if self.balances[place] < amount:
            raise Refusal("balance_insufficient")
        transfer["amount_reversed"] += amount
        made = self._make(
            "trr",
            "transfer_reversal",
            amount=amount,
            currency=transfer["currency"],
            transfer=transfer_id,
            metadata=params["metadata"],
        )
        self.balances[place] -= amount
        self._move("", amount, made, kind="transfer_reversal")
        return made

    def _payout(self, params: Json, account: str) -> Json:
        amount = int(params["amount"])
        if params["currency"] in WHOLE_UNITS and amount % 100:
            raise Refusal("parameter_invalid_integer")
        place = (account, params["currency"])
        if self.balances[place] < amount:
            raise Refusal("balance_insufficient")
        self.balances[place] -= amount
        return self._make(
            "po",
            "payout",
            amount=amount,
            currency=params["currency"],
            status="pending",
            metadata=params["metadata"],
            _account=account,
        )


def _values(found: Any) -> list[str]:
    return list(found.values()) if isinstance(found, dict) else []
