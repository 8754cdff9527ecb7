"""Commands and refusals survive the way to another process unchanged."""

import dataclasses
from datetime import UTC, datetime
from typing import get_args
from uuid import uuid4

import orjson
import pytest

from market.kernel.errors import Unavailable
from market.kernel.ids import show
from market.matching.bundle_schemas import BundleRequest
from market.matching.commands import (
    Amend,
    Cancel,
    Command,
    Control,
    ControlAction,
    Place,
    PlaceBundle,
)
from market.matching.errors import EngineBusy
from market.matching.schemas import AmendRequest, OrderRequest
from market.matching.wire import dump_command, dump_error, load_command, load_error


def _request() -> OrderRequest:
    body = {
        "plan_id": show("pln", uuid4()),
        "side": "buy",
        "lots": 3,
        "price_minor": 10**15 // 3,
        "expires_at": datetime(2100, 1, 2, 3, 4, 5, 678901, tzinfo=UTC).isoformat(),
        "client_order_id": "näme"[:1] + "~!",
    }
    return OrderRequest.model_validate_json(orjson.dumps(body))


def _leg() -> dict[str, object]:
    return {"plan_id": show("pln", uuid4()), "lots": 4, "price_minor": 10**14}


def test_commands_arrive_as_they_were_sent() -> None:
    commands: list[Command] = [
        Place(uuid4(), "k" * 255, bytes(range(224, 256)), _request(), "req_1"),
        Cancel(uuid4(), uuid4(), "req_2"),
        Amend(uuid4(), "k" * 8, bytes(32), uuid4(), AmendRequest(price_minor=7), "req_3"),
        Control(
            uuid4(),
            uuid4(),
            "key",
            bytes(32),
            "req_3",
            ControlAction.SET_QUOTA,
            uuid4(),
            "理由",
            {"open_orders_max": 10**15, "messages_per_s": None},
        ),
    ]
    legs = [{**_leg(), "side": side} for side in ("buy", "sell")]
    bundle = BundleRequest.model_validate({"legs": legs, "cost_max_minor": -(10**15) // 7})
    ids = (uuid4(), uuid4())
    commands.append(PlaceBundle(uuid4(), "key", bytes(32), bundle, "req_4", ids))
    for command in commands:
        assert load_command(dump_command(command)) == command
    amend = load_command(dump_command(commands[2]))
    assert isinstance(amend, Amend)
    assert amend.body.model_fields_set == {"price_minor"}


def test_every_kind_of_command_can_travel() -> None:
    for kind in get_args(Command):
        name = str(kind.__name__)
        assert dataclasses.is_dataclass(kind)
        with pytest.raises(ValueError, match=name):
            load_command(orjson.dumps([name, {"unknown": 1}]))
    with pytest.raises(ValueError, match="no such command"):
        load_command(b'["Sabotage", {}]')


def test_a_refusal_is_raised_with_the_same_words() -> None:
    error = EngineBusy("Full.", retry_after_s=7, param="lots", hint="Wait.", queue=3)
    found = load_error(dump_error(error))
    for name in ("status", "code", "title", "detail", "param", "hint", "headers", "extra"):
        assert getattr(found, name) == getattr(error, name)
    assert load_error(dump_error(Unavailable())).code == "unavailable"
