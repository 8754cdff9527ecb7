"""Clients that trade over HTTP while things are killed, each with a durable record of answers."""

import random
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from market.demo.client import Participant, TryLater
from tests.e2e.ledger_client import Record

PAUSE_S = 0.1
LATER = frozenset({502, 503, 504})
PRICE_LOW, PRICE_HIGH = 980, 1_020
LOTS_MAX = 5
# Of these many orders that may still be open a client cancels one now and then.
REMEMBERED = 20
CANCEL_CHANCE, AMEND_CHANCE, IOC_CHANCE, BUNDLE_CHANCE = 0.2, 0.15, 0.2, 0.25


class Trader(threading.Thread):
    """Places, amends and cancels in turn; repeats under the same key until it is answered.

    With two ``plans`` it trades in both, and one that buys also in bundles of both.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        name: str,
        *,
        side: str,
        plans: Sequence[str],
        credential: dict[str, str],
        seed: int,
    ) -> None:
        super().__init__(name=name)
        self._url, self._side, self._plans = url, side, plans
        self._credential = credential
        self._chance = random.Random(f"{seed}/{name}")
        self._http = httpx.Client(base_url=url, timeout=20)
        self._person = self._log_in()
        self._ended = threading.Event()
        self._open: list[str] = []
        self.record = Record(folder / f"{name}.jsonl")
        self.answers = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self.record.opened():
                number = 0
                while not self._ended.is_set():
                    act = self._chance.random() if self._open else 1.0
                    if act < CANCEL_CHANCE:
                        self._cancel(self._open.pop(self._chance.randrange(len(self._open))))
                    elif act < CANCEL_CHANCE + AMEND_CHANCE:
                        self._amend(number, self._chance.choice(self._open))
                        number += 1
                    else:
                        bundles = self._side == "buy" and len(self._plans) > 1
                        together = bundles and self._chance.random() < BUNDLE_CHANCE
                        (self._bundle if together else self._place)(number)
                        number += 1
                    self.answers += 1
        except BaseException as error:  # noqa: BLE001 - reported by the test
            self.failure = error

    def close(self) -> None:
        """Close the connections."""
        self._person.close()
        self._http.close()

    def finish(self) -> None:
        """Wait for the answer to the request in hand."""
        self._ended.set()
        self.join()

    def repeat(self, line: dict[str, Any]) -> httpx.Response:
        """Ask for the answer of a recorded order or bundle again, by its key."""
        path = "/v1/bundles" if line["act"] == "bundle" else "/v1/orders"
        answer, _ = self._ask("POST", path, self._person.key(line["step"]), line["body"])
        return answer

    def _place(self, number: int) -> None:
        body: dict[str, Any] = {
            "plan_id": self._chance.choice(self._plans),
            "side": self._side,
            "type": "limit",
            "lots": self._chance.randint(1, LOTS_MAX),
            "price_minor": self._chance.randint(PRICE_LOW, PRICE_HIGH),
        }
        # Whoever sells begins with posted prices, and leaves them there: bundles find something.
        posted = self._side == "sell" and number < len(self._plans)
        if posted:
            body.update(plan_id=self._plans[number], lots=None, price_minor=PRICE_HIGH)
        elif self._chance.random() < IOC_CHANCE:
            body["time_in_force"] = "ioc"
        step = f"order {number}"
        answer, unsure = self._ask("POST", "/v1/orders", self._person.key(step), body)
        assert answer.status_code == 201, answer.text
        order = answer.json()
        self.record.add(
            {
                "act": "place",
                "step": step,
                "body": body,
                **_told(order),
                "unsure": unsure,
                "replayed": "Idempotency-Replayed" in answer.headers,
            }
        )
        if order["status"] in ("open", "partially_filled") and not posted:
            self._open = [*self._open[-REMEMBERED:], order["id"]]

    def _bundle(self, number: int) -> None:
        legs = [
            {
                "plan_id": plan,
                "side": self._side,
                "lots": self._chance.randint(1, 2),
                "price_minor": PRICE_HIGH,
            }
            for plan in self._plans
        ]
        step, body = f"bundle {number}", {"legs": legs}
        answer, unsure = self._ask("POST", "/v1/bundles", self._person.key(step), body)
        view = answer.json()
        if answer.status_code == 409 and view["code"] == "bundle_unfillable":
            return
        assert answer.status_code == 201, answer.text
        self.record.add(
            {
                "act": "bundle",
                "step": step,
                "body": body,
                "id": view["id"],
                "legs": [_told(order) for order in view["legs"]],
                "unsure": unsure,
                "replayed": "Idempotency-Replayed" in answer.headers,
            }
        )

    def _amend(self, number: int, order_id: str) -> None:
        step, price = f"amendment {number}", self._chance.randint(PRICE_LOW, PRICE_HIGH)
        path, key = f"/v1/orders/{order_id}", self._person.key(step)
        answer, unsure = self._ask("PATCH", path, key, {"price_minor": price})
        view = answer.json()
        if answer.status_code == 409 and view["code"] == "order_closed":
            return
        assert answer.status_code == 200, answer.text
        self.record.add(
            {
                "act": "amend",
                "id": order_id,
                "price": price,
                "status": view["status"],
                "filled": view["filled_lots"],
                "unsure": unsure,
                "replayed": "Idempotency-Replayed" in answer.headers,
            }
        )

    def _cancel(self, order_id: str) -> None:
        answer, unsure = self._ask("DELETE", f"/v1/orders/{order_id}", {}, None)
        assert answer.status_code in (200, 409), answer.text
        view = answer.json()
        if answer.status_code == 409:
            assert view["code"] == "order_closed"
        self.record.add(
            {
                "act": "cancel",
                "id": order_id,
                "unsure": unsure,
                # A cancel that was carried out unseen finds the order closed when it is repeated.
                "status": view["status"] if answer.status_code == 200 else None,
                "filled": view["filled_lots"] if answer.status_code == 200 else None,
            }
        )

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: Any
    ) -> tuple[httpx.Response, bool]:
        """The final answer, and whether the outcome was unknown before it came."""
        unsure = False
        while True:
            try:
                bearer = {"Authorization": f"Bearer {self._person.token}"}
                answer = self._http.request(method, path, headers={**headers, **bearer}, json=body)
            except (httpx.TransportError, TryLater):
                unsure = True
                time.sleep(PAUSE_S)
                continue
            if answer.status_code == 401:
                self._person.close()
                self._person = self._log_in()
            elif answer.status_code in LATER or "idempotency_key_in_use" in answer.text:
                assert answer.status_code == 409 or "Retry-After" in answer.headers, answer.text
                unsure = True
                time.sleep(PAUSE_S)
            else:
                return answer, unsure

    def _log_in(self) -> Participant:
        return Participant(self._url, "kills", self.name, self._credential)


def _told(order: dict[str, Any]) -> dict[str, Any]:
    """What a client was told of an order, as it is recorded."""
    return {
        "id": order["id"],
        "status": order["status"],
        "filled": order["filled_lots"],
        "trades": [trade["trade_id"] for trade in order["trades"]],
    }
