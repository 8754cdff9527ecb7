"""A token's own quota at the proxy: taken before the upstream is asked, billed when it answered."""

import asyncio
import json
import uuid
from typing import Any

import pytest

from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.outbound import servers
from tests.contracts.proxy.conftest import MakeOffer, Offer, operation
from tests.contracts.proxy.costs import held_units, problem
from tests.contracts.test_token_limits import mint

DATA = {"price": 7}
BODY = json.dumps(DATA).encode()


async def with_quota(offer: Offer, units: int) -> str:
    """From here the offer's calls are made with a token of so many units; gives its id."""
    minted = await mint(offer.client, offer.trade, quota=units)
    offer.token = minted["token"]
    return str(minted["id"])


async def remaining(offer: Offer, token_id: str) -> int:
    """What is left of the quota, as the seller sees it."""
    answer = await offer.client.get(f"/v1/tokens/{token_id}", headers=offer.trade.seller.headers())
    assert answer.status_code == 200, answer.text
    return int(answer.json()["quota_remaining"])


def refused(answer: Any, left: int, unit: str) -> None:
    found = problem(answer, 402, "token_quota_exhausted")
    assert (found["remaining"], found["unit"]) == (left, unit)


@pytest.mark.parametrize("meter_side", ["buyer_safe", "seller_safe"])
async def test_calls_end_with_the_quota_and_the_upstream_is_not_asked(
    kernel: Kernel, make_offer: MakeOffer, meter_side: str
) -> None:
    offer = await make_offer({"meter_side": meter_side}, x=servers.json_of(DATA))
    await offer.register(operation())
    wide = offer.token
    token_id = await with_quota(offer, 2)
    key = uuid.uuid4().hex
    first = await offer.call(Delivery_Id=key)
    assert (first.status_code, first.json()) == (200, DATA)
    assert (first.headers["meter-charged"], first.headers["meter-remaining"]) == ("1", "1")
    assert (await offer.call()).headers["meter-remaining"] == "0"
    assert len(offer.server.asked) == 2
    refused(await offer.call(), 0, "call")
    assert len(offer.server.asked) == 2
    # What was paid for is repeated from what was kept; other tokens of the grant go on.
    again = await offer.call(Delivery_Id=key)
    assert (again.content, again.headers["meter-charged"]) == (first.content, "0")
    assert len(offer.server.asked) == 2
    assert await settled(kernel, offer.trade) == 2
    assert await remaining(offer, token_id) == 0
    offer.token = wide
    assert (await offer.call()).headers["meter-remaining"] == "97"
    assert await settled(kernel, offer.trade) == 3


async def test_of_many_calls_for_the_last_unit_one_reaches_the_upstream(
    kernel: Kernel, make_offer: MakeOffer
) -> None:
    offer = await make_offer(x=servers.json_of(DATA))
    await offer.register(operation())
    token_id = await with_quota(offer, 1)
    answers = await asyncio.gather(*(offer.call() for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + 7 * [402]
    assert len(offer.server.asked) == 1
    assert await settled(kernel, offer.trade) == 1
    assert await remaining(offer, token_id) == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_failures_give_the_quota_back(
    kernel: Kernel, make_offer: MakeOffer, stream: bool
) -> None:
    offer = await make_offer(
        x=servers.json_of(DATA), bad=servers.json_of({}, status=500), cut=servers.raw(b"")
    )
    await offer.register(*(operation(name, stream=stream) for name in ("x", "bad", "cut")))
    token_id = await with_quota(offer, 1)
    for name in ("bad", "cut", "bad"):
        assert (await offer.call(name)).status_code == 502
        assert await remaining(offer, token_id) == 1
    answer = await offer.call()
    assert (answer.status_code, answer.json()) == (200, DATA)
    assert await settled(kernel, offer.trade) == 1
    assert await remaining(offer, token_id) == 0
    assert await held_units(kernel, offer) == 0
    refused(await offer.call(), 0, "call")


@pytest.mark.parametrize("stream", [False, True])
async def test_bytes_need_room_for_the_limit_and_take_what_was_sent(
    kernel: Kernel, make_offer: MakeOffer, stream: bool
) -> None:
    offer = await make_offer({"unit": "mib", "lot_units": 1}, x=servers.plain(BODY))
    await offer.register(operation(max_bytes=1_000, stream=stream))
    token_id = await with_quota(offer, 1_000 + len(BODY) - 1)
    answer = await offer.call()
    assert (answer.status_code, answer.content) == (200, BODY)
    assert await settled(kernel, offer.trade) == len(BODY)
    assert await remaining(offer, token_id) == 999
    refused(await offer.call(), 999, "byte")
    assert len(offer.server.asked) == 1
    assert await settled(kernel, offer.trade) == len(BODY)
    assert await held_units(kernel, offer) == 0
