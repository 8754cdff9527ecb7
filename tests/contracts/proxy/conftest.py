"""A trade by calls whose product has an upstream on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import show
from market.kernel.settings import Settings
from tests.contracts.factories import Trade, make_trade, mint
from tests.contracts.outbound.servers import Answer, Upstream, serving

SECRET = "sk-test-0123456789"


@pytest.fixture(scope="module")
def settings(settings: Settings) -> Settings:
    """Upstreams of these tests are on this machine."""
    return settings.model_copy(update={"upstream_loopback": True})


class Offer:
    """A trade, its upstream server, and how a buyer calls it."""

    def __init__(
        self, client: httpx.AsyncClient, trade: Trade, server: Upstream, token: str
    ) -> None:
        self.client = client
        self.trade = trade
        self.server = server
        self.token = token
        self.upstream_id = ""

    async def register(self, *operations: dict[str, Any], **body: Any) -> httpx.Response:
        """Put the server behind the product, by its seller."""
        product = show("prd", self.trade.agreement.product_id)
        answer = await self.client.post(
            f"/v1/products/{product}/upstreams",
            json={"base_url": self.server.url, "operations": list(operations), **body},
            headers=self.trade.seller.headers(),
        )
        if answer.status_code == 201:
            self.upstream_id = answer.json()["id"]
        return answer

    async def set_secret(self, value: str = SECRET) -> httpx.Response:
        """Set or rotate the secret."""
        return await self.client.put(
            f"/v1/upstreams/{self.upstream_id}/secret",
            json={"value": value},
            headers=self.trade.seller.headers(),
        )

    async def call(
        self, operation: str = "x", parameters: dict[str, Any] | None = None, **headers: str
    ) -> httpx.Response:
        """A buyer's call."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            f"/v1/delivery/proxy/{operation}",
            json={"parameters": parameters or {}},
            headers={"Authorization": f"Bearer {self.token}", **named},
        )

    async def violations(self) -> list[dict[str, Any]]:
        """The evidence, as the buyer sees it."""
        answer = await self.client.get(
            f"/v1/agreements/{self.trade.id}/proxy-violations",
            headers=self.trade.buyer.headers(),
        )
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items


MakeOffer = Callable[..., Awaitable[Offer]]


@pytest.fixture
async def make_offer(client: httpx.AsyncClient, kernel: Kernel) -> AsyncIterator[MakeOffer]:
    """Offers whose keyword ``name`` answers ``/name``; ``trade`` holds its options."""
    async with AsyncExitStack() as stack:

        async def make(trade: dict[str, Any] | None = None, **answers: Answer) -> Offer:
            server = await stack.enter_async_context(serving(**answers))
            options = {"unit": "call", "lots": 1, "lot_units": 100, "price_minor": 1_000}
            made = await make_trade(kernel, **{**options, **(trade or {})})
            return Offer(client, made, server, await mint(kernel, made))

        yield make


def operation(name: str = "x", **fields: Any) -> dict[str, Any]:
    """An operation that asks ``/name`` without parameters."""
    return {"name": name, "path": f"/{name}", **fields}
