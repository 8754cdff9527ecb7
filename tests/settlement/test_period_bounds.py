"""Times that no database or calendar can reckon with are refused by the parameter's name."""

import httpx
import pytest

from market.kernel.context import Kernel
from market.kernel.ids import new_id, show
from market.kernel.security import Role
from tests.market.parties.factories import make_party
from tests.settlement.factories import available, fund

EDGES = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00")


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/accounts/{account}/statement", "from"),
        ("/v1/accounts/{account}/statement", "until"),
        ("/v1/accounts/{account}/balance", "as_of"),
        ("/v1/usage", "from"),
        ("/v1/usage", "until"),
        ("/v1/usage/export", "from"),
        ("/v1/instruments/{plan}/candles?interval=1m", "start"),
        ("/v1/instruments/{plan}/candles?interval=1m", "end"),
    ],
)
async def test_an_unreckonable_time_is_refused_by_its_parameter(
    client: httpx.AsyncClient, kernel: Kernel, path: str, param: str, edge: str
) -> None:
    buyer = await make_party(kernel, Role.BUYER)
    await fund(kernel, buyer.party_id, 1_000)
    account = show("acc", available(buyer.party_id).id)
    url = httpx.URL(path.format(account=account, plan=show("pln", new_id())))
    answer = await client.get(url.copy_merge_params({param: edge}), headers=buyer.headers())
    assert (answer.status_code, answer.json()["param"]) == (422, param), answer.text
    assert "the years 1000 to 8999" in answer.text
