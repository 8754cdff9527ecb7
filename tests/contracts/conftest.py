"""What tests of contracts trade in."""

import pytest

from market.kernel.context import Kernel
from tests.contracts.factories import Trade, make_trade, mint


@pytest.fixture(scope="module")
async def base(kernel: Kernel) -> Trade:
    """An agreement for 100 rows; more of them are made from it."""
    return await make_trade(kernel, lots=1, lot_units=100)


@pytest.fixture(scope="module")
async def trade(kernel: Kernel) -> Trade:
    """An agreement for a million rows."""
    return await make_trade(kernel, lots=1_000, lot_units=1_000)


@pytest.fixture(scope="module")
async def token(kernel: Kernel, trade: Trade) -> str:
    """A token for the grant of ``trade``."""
    return await mint(kernel, trade)
