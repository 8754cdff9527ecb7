"""Once per Delivery-Id: what a fault between the reservation and the answer leaves behind."""

import pytest

from contracts.delivery import once
from contracts.delivery.token_reader import token_reader
from contracts.metering import Hold, meter_of
from contracts.metering_scripts import keys_of
from market.kernel.context import Kernel
from market.kernel.errors import Unavailable
from market.kernel.ids import new_id
from tests.contracts.factories import Trade, mint
from tests.contracts.meter_actions import again, fact_of, reserve


@pytest.mark.parametrize("seller_safe", [False, True])
async def test_a_database_lost_after_reserving_holds_and_bills_nothing(
    kernel: Kernel, base: Trade, monkeypatch: pytest.MonkeyPatch, seller_safe: bool
) -> None:
    trade = await again(kernel, base)
    meter = meter_of(kernel)
    hold = await reserve(meter, trade, 10)
    await meter.release(hold)
    token = await mint(kernel, trade)
    token_id = (await token_reader(kernel).claims(token)).token_id
    whole = fact_of(trade, hold, 10)._replace(token_id=token_id)
    key = new_id().hex

    async def lost(*_arguments: object) -> None:
        raise Unavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(once, "find_earlier", lost)
        with pytest.raises(Unavailable):
            await once.reserve_once(kernel, whole, delivery_id=key, seller_safe=seller_safe)
    assert await kernel.redis.hlen(keys_of(trade.grant_id)[1]) == 0
    outcome = await once.reserve_once(kernel, whole, delivery_id=key, seller_safe=seller_safe)
    assert isinstance(outcome, Hold)
    assert outcome.remaining == 90
    await meter.release(outcome)
