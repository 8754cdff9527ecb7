"""A live market with one plan on sale, and a buyer with money."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from market import serving
from market.kernel.context import open_kernel
from market.kernel.ids import show
from market.kernel.security import Role
from market.kernel.settings import Settings
from tests.contracts.factories import make_trade, mint
from tests.market.matching.factories import open_scene, placed
from tests.market.parties.factories import make_party
from tests.settlement.factories import fund


@dataclass(frozen=True)
class Shop:
    """What the snippets' environment variables say."""

    url: str
    client_id: str
    client_secret: str
    listing: str
    plan: str
    delivery_token: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables of docs/clients.md."""
        return {
            "MARKET_URL": self.url,
            "CLIENT_ID": self.client_id,
            "CLIENT_SECRET": self.client_secret,
            "PLAN_ID": self.plan,
            "DELIVERY_TOKEN": self.delivery_token,
        }


@pytest.fixture(scope="module")
def url(settings: Settings) -> Iterator[str]:
    """The app on a real socket."""
    with serving.bind("127.0.0.1", 0) as listener, serving.in_thread(settings, listener) as address:
        yield address


@pytest.fixture(scope="module")
async def shop(settings: Settings, url: str) -> AsyncIterator[Shop]:
    """Lots of 100 rows at 1,000 each, without an end, and a token of another grant."""
    kernel = open_kernel(settings)
    try:
        scene = await open_scene(kernel)
        buyer = await make_party(kernel, Role.BUYER)
        await fund(kernel, buyer.party_id, 100_000)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await placed(client, scene.seller, scene.body("sell", None, 1_000))
        owned = await make_trade(kernel)
        yield Shop(
            url=url,
            client_id=buyer.client_id,
            client_secret=buyer.client_secret,
            listing=show("lst", scene.listing_id),
            plan=scene.plan,
            delivery_token=await mint(kernel, owned),
        )
    finally:
        await kernel.close()
