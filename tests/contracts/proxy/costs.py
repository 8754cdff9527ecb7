"""What a call was answered with, and what it cost."""

from typing import Any

import httpx

from contracts.metering_scripts import keys_of
from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.proxy.conftest import Offer


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["code"] == code
    return found


async def held_units(kernel: Kernel, offer: Offer) -> int:
    """Units that are reserved and neither used nor given back."""
    async with kernel.unit_of_work() as uow:
        query = (
            "SELECT sum(units - settled_units) FROM contracts.lease "
            "WHERE grant_id = $1 AND state <> 'closed'"
        )
        lent = await (await uow.raw()).fetchval(query, offer.trade.grant_id) or 0
    free = await kernel.redis.hget(keys_of(offer.trade.grant_id)[0], "avail")
    return int(lent) - int(free or 0)


async def uncharged(kernel: Kernel, offer: Offer) -> None:
    """Nothing was used, and nothing stays reserved: all units can still be called for."""
    assert await settled(kernel, offer.trade) == 0
    assert await held_units(kernel, offer) == 0
