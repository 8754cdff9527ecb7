"""Readers of metered data that write down what reached them, for the meter's kill test."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import httpx

PAGE_MAX = 20
PAUSE_S = 0.05
# A busy machine's answer must not count as lost: it is billed, and that would look unpaid for.
ANSWER_TIMEOUT_S = 120
# Answers that say "not now": nothing was delivered, and the same id may be used again.
LATER = frozenset({409, 429, 503})


class Received(NamedTuple):
    """A page that arrived: its rows, the bytes of its body, the units said to be charged.

    Asked for at ``begun``.
    """

    rows: int
    size: int
    units: int
    begun: float
    at: float


class Lost(NamedTuple):
    """A request for ``rows`` rows that got no answer, or not all of one."""

    rows: int
    at: float


@dataclass
class Book:
    """What the readers of one grant know, by Delivery-Id."""

    received: dict[str, Received] = field(default_factory=dict)
    lost: dict[str, Lost] = field(default_factory=dict)
    refused: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)


class Reader:
    """One client: page after page, each under an id of its own, never repeated once lost.

    Without ``names`` the server chooses the ids, and those of lost requests stay unknown.
    """

    def __init__(
        self, url: str, token: str, name: str, book: Book, seed: int, *, names: bool
    ) -> None:
        self._url, self._token, self._name, self._book = url, token, name, book
        self._seed, self._names = seed, names

    async def run(self, ended: asyncio.Event) -> None:
        """Until told to end."""
        number = 0
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(timeout=ANSWER_TIMEOUT_S, limits=limits) as client:
            while not ended.is_set():
                key = f"{self._name}-{number:08d}"
                # The same page under the same id, however often it is refused.
                rows = random.Random(f"{self._seed}:{number}").randint(1, PAGE_MAX)
                number += await self._read(client, key, rows)

    async def _read(self, client: httpx.AsyncClient, key: str, rows: int) -> bool:
        """Whether the id is used up: answered with data, or lost on the way."""
        begun = time.time()
        try:
            answer = await fetch(client, self._url, self._token, key if self._names else None, rows)
        except httpx.ConnectError:
            await asyncio.sleep(PAUSE_S)
            return False
        except httpx.TransportError as error:
            self._book.lost[key] = Lost(rows, time.time())
            self._book.causes[type(error).__name__] += 1
            await asyncio.sleep(PAUSE_S)
            return True
        if answer.status_code in LATER:
            refused = self._book.refused
            refused[answer.status_code] = refused.get(answer.status_code, 0) + 1
            await asyncio.sleep(PAUSE_S)
            return False
        if answer.status_code != 200 or len(answer.json()["items"]) != rows:
            self._book.wrong.append(f"{key}: {answer.status_code} {answer.text[:300]}")
            return True
        self._book.received[answer.headers["Delivery-Id"]] = Received(
            rows, len(answer.content), int(answer.headers["Meter-Charged"]), begun, time.time()
        )
        return True


async def fetch(
    client: httpx.AsyncClient, url: str, token: str, key: str | None, rows: int
) -> httpx.Response:
    """The first ``rows`` rows under the Delivery-Id ``key``. Raises httpx.TransportError."""
    named = {} if key is None else {"Delivery-Id": key}
    return await client.get(
        f"{url}/v1/delivery/rows",
        params={"limit": str(rows)},
        headers={"Authorization": f"Bearer {token}", **named},
    )
