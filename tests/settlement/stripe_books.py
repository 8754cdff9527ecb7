"""The fake Stripe's books: objects, balances per account and currency, events."""

import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    """A 4xx of Stripe's."""

    def __init__(self, code: str, *, status: int = 400, type_: str = "invalid_request_error"):
        super().__init__(code)
        self.status = status
        self.body = {"error": {"type": type_, "code": code, "message": code}}


@dataclass
class StripeBooks:
    """``objects`` by id; ``balances`` by account ("" is the platform) and currency."""

    objects: dict[str, Json] = field(default_factory=dict)
    balances: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    events: list[tuple[str, Json]] = field(default_factory=list)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    def only(self, kind: str) -> Json:
        """The newest object of a kind."""
        return next(made for made in reversed(self.objects.values()) if made["object"] == kind)

    def count(self, kind: str) -> int:
        """How many objects of a kind there are."""
        return sum(made["object"] == kind for made in self.objects.values())

    def _get(self, name: str) -> Json:
        if name not in self.objects:
            raise Refusal("resource_missing", status=404)
        return self.objects[name]

    def _make(self, prefix: str, kind: str, **fields: Any) -> Json:
        name = f"{prefix}_{next(self._numbers)}"
        made = {"id": name, "object": kind, "created": int(time.time()), "livemode": False}
        self.objects[name] = made | fields
        return self.objects[name]

    def _move(self, account: str, amount: int, source: Json, *, kind: str, fee: int = 0) -> Json:
        self.balances[account, source["currency"]] += amount - fee
        return self._make(
            "txn",
            "balance_transaction",
            amount=amount,
            fee=fee,
            net=amount - fee,
            currency=source["currency"],
            type=kind,
            reporting_category=kind,
            source=source["id"],
        )

    def _event(self, type_: str, made: Json, *, account: str | None = None) -> None:
        event: Json = {
            "id": f"evt_{next(self._numbers)}",
            "object": "event",
            "type": type_,
            "livemode": False,
            "created": int(time.time()),
            "data": {"object": {"id": made["id"], "object": made["object"]}},
        }
        if account is not None:
            event["account"] = account
        self.events.append(("platform" if account is None else "connect", event))
