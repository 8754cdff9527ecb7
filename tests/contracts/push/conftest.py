"""A buyer with a verified target on loopback, and what happens to its pushes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from contracts.push.delivering import run_pushes
from contracts.push.following import LOOK_S, follow_versions
from contracts.schemas import TokenBody
from contracts.tokens import mint
from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.settings import Settings
from tests.contracts.factories import Trade, make_trade
from tests.contracts.outbound.servers import Answer, Upstream, plain, serving
from tests.settlement.factories import move_clock

OK = plain(b"")


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Settings:
    """Targets of these tests are on this machine."""
    return settings.model_copy(
        update={"upstream_loopback": True, "delivery_page_max_rows": 100_000}
    )


class Route:
    """A trade, a token of its buyer, a target and the server behind it."""

    def __init__(
        self, client: httpx.AsyncClient, kernel: Kernel, trade: Trade, server: Upstream
    ) -> None:
        self.client = client
        self.kernel = kernel
        self.trade = trade
        self.server = server
        self.secret = ""
        self.target_id = ""
        self.token_id = ""

    async def post(self, path: str, body: Any = None) -> httpx.Response:
        """By the buyer, whose session a moved clock has ended."""
        return await self.client.post(path, json=body, headers=self.trade.buyer.headers())

    async def get(self, path: str) -> Any:
        """By the buyer."""
        answer = await self.client.get(path, headers=self.trade.buyer.headers())
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def register(self, **body: Any) -> httpx.Response:
        """The server as the buyer's target; null leaves a field out."""
        given = {"kind": "webhook", "url": f"{self.server.url}/hook", **body}
        sent = {name: value for name, value in given.items() if value is not None}
        answer = await self.post("/v1/push-targets", sent)
        if answer.status_code == 201:
            self.target_id = answer.json()["id"]
            self.secret = answer.json()["signing_secret"]
        return answer

    async def verify(self) -> Any:
        """Ping it."""
        answer = await self.post(f"/v1/push-targets/{self.target_id}/verify")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def mint(self, **limits: Any) -> None:
        """The token that pushes are made with."""
        body = TokenBody(ttl_s=86_400 * 30, label="push", **limits)
        minted = await mint(self.kernel, self.trade.buyer.actor, self.trade.grant_id, body)
        self.token_id = show("tok", minted.id)

    async def start(self, **body: Any) -> httpx.Response:
        """Order a push."""
        given = {"target_id": self.target_id, "token_id": self.token_id, **body}
        return await self.post(f"/v1/grants/{self.trade.grant}/pushes", given)

    async def push(self, **body: Any) -> str:
        """Order a push that is accepted; gives its id."""
        answer = await self.start(**body)
        assert answer.status_code == 201, answer.text
        started: str = answer.json()["id"]
        return started

    async def work(self) -> None:
        """What the worker does until nothing is due."""
        while await run_pushes(self.kernel):
            pass

    async def later(self, **time: float) -> None:
        """Move the clock and work; the buyer logs in again."""
        await move_clock(self.kernel, timedelta(**time))
        async with self.kernel.unit_of_work():
            pass
        buyer = self.trade.buyer.with_fresh_token(self.kernel)
        self.trade = replace(self.trade, buyer=buyer)
        await self.work()

    async def follow(self) -> None:
        """A minute later: look for later versions, and push them."""
        await self.later(seconds=LOOK_S + 1)
        while await follow_versions(self.kernel):
            pass
        await self.work()

    async def chain(self) -> list[Any]:
        """The buyer's pushes, first to last."""
        pushes: list[Any] = (await self.get("/v1/pushes"))["items"]
        return pushes[::-1]

    async def state(self, push_id: str) -> Any:
        """The push as its buyer sees it."""
        return await self.get(f"/v1/pushes/{push_id}")

    @property
    def parts(self) -> list[Any]:
        """The requests that carried rows."""
        return [asked for asked in self.server.asked if "push-part" in asked.headers]


MakeRoute = Callable[..., Awaitable[Route]]


@pytest.fixture
async def make_route(client: httpx.AsyncClient, kernel: Kernel) -> AsyncIterator[MakeRoute]:
    """Routes to a server that answers ``/hook``; ``trade`` holds the trade's options."""
    async with AsyncExitStack() as stack:

        async def make(
            hook: Answer = OK, trade: dict[str, Any] | None = None, *, verified: bool = True
        ) -> Route:
            server = await stack.enter_async_context(serving(hook=OK))
            made = await make_trade(kernel, **(trade or {}))
            route = Route(client, kernel, made, server)
            assert (await route.register()).status_code == 201
            if verified:
                assert (await route.verify())["ok"]
            server.answers["/hook"] = hook
            server.asked.clear()
            await route.mint()
            return route

        yield make
