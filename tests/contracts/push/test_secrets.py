"""Sealed secrets of targets outlive the key that they were sealed under."""

import pytest

from contracts.outbound import sealing
from contracts.push import targets
from contracts.push.models import PushTarget
from market.kernel.context import Kernel
from market.kernel.envelope import Envelope
from market.kernel.ids import parse
from tests.contracts.push.conftest import MakeRoute


async def test_secrets_are_rewrapped_under_a_new_key(
    make_route: MakeRoute, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = await make_route()
    gone = (await route.register()).json()["id"]
    await route.post(f"/v1/push-targets/{gone}/retire")
    kept = (await route.register()).json()["id"]
    old = sealing.envelope_of(kernel)
    both = Envelope({**{"1": old._keys[bytes.fromhex(old.current)]}, "2": bytes(range(32))})
    monkeypatch.setitem(kernel.services, sealing.load_envelope, both)
    assert await targets.rewrap(kernel) >= 1
    assert await targets.rewrap(kernel) == 0
    async with kernel.unit_of_work() as uow:
        row = await uow.session.get(PushTarget, parse("ptg", kept))
        assert row is not None
        assert row.key_id == both.current
        retired = await uow.session.get(PushTarget, parse("ptg", gone))
        assert retired is not None
        assert retired.key_id == old.current
    monkeypatch.setitem(kernel.services, sealing.load_envelope, Envelope({"2": bytes(range(32))}))
    assert (await route.verify())["ok"]
    monkeypatch.setitem(kernel.services, sealing.load_envelope, old)
    answer = await route.post(f"/v1/push-targets/{kept}/verify")
    assert answer.json()["code"] == "secrets_unavailable"
    # Its row lives on in the database of the module's other tests.
    monkeypatch.setitem(kernel.services, sealing.load_envelope, both)
    await route.post(f"/v1/push-targets/{kept}/retire")
