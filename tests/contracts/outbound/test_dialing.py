"""A forbidden address is refused before a connection: nothing is ever dialed there."""

import asyncio
import threading
from collections.abc import Iterable, Sequence

import httpcore
import pytest
from httpcore import SOCKET_OPTION, AsyncNetworkBackend, AsyncNetworkStream

from contracts.outbound import dialing
from contracts.outbound.dialing import AddressBlocked, GuardedNetwork, Resolve
from tests.contracts.outbound.servers import json_of, serving

PUBLIC = "93.184.216.34"


class Dialer(AsyncNetworkBackend):
    """Notes who is dialed; connects to ``target`` instead, or refuses."""

    def __init__(self, target: tuple[str, int] | None = None) -> None:
        self.dialed: list[str] = []
        self._target = target

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        self.dialed.append(host)
        if self._target is None:
            raise httpcore.ConnectError("nobody there")
        return await httpcore.AnyIOBackend().connect_tcp(*self._target)


def answering(*answers: Sequence[str]) -> Resolve:
    """A name server that says something else each time."""
    waiting = list(answers)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    return resolve


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "localhost",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "169.254.169.254",
        "0",
    ],
)
async def test_every_spelling_of_here_is_blocked_and_never_dialed(name: str) -> None:
    dialer = Dialer()
    network = GuardedNetwork(inner=dialer)
    with pytest.raises(AddressBlocked):
        await network.connect_tcp(name, 80, timeout=30)
    assert dialer.dialed == []


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "64:ff9b::7f00:1"],
)
async def test_a_name_that_leads_inside_is_never_dialed(address: str) -> None:
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC]):
        dialer = Dialer()
        network = GuardedNetwork(resolver=answering(addresses), inner=dialer)
        with pytest.raises(AddressBlocked):
            await network.connect_tcp("api.example.com", 443, timeout=30)
        assert dialer.dialed == []


async def test_rebinding_is_caught_at_the_next_connect() -> None:
    dialer = Dialer()
    network = GuardedNetwork(resolver=answering([PUBLIC], ["127.0.0.1"]), inner=dialer)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("api.example.com", 443, timeout=30)
    with pytest.raises(AddressBlocked):
        await network.connect_tcp("api.example.com", 443, timeout=30)
    assert dialer.dialed == [PUBLIC]


async def test_the_name_is_resolved_once_and_the_checked_address_dialed() -> None:
    dialer = Dialer()
    network = GuardedNetwork(resolver=answering([PUBLIC], ["10.0.0.1"]), inner=dialer)
    with pytest.raises(httpcore.ConnectError):
        await network.connect_tcp("api.example.com", 443, timeout=30)
    assert dialer.dialed == [PUBLIC]


async def test_a_peer_other_than_the_checked_one_is_dropped() -> None:
    async with serving(x=json_of({})) as upstream:
        dialer = Dialer(("127.0.0.1", upstream.port))
        network = GuardedNetwork(resolver=answering([PUBLIC]), inner=dialer)
        with pytest.raises(AddressBlocked):
            await network.connect_tcp("api.example.com", 443, timeout=30)
        assert upstream.asked == []


async def test_an_unknown_name_is_unreachable() -> None:
    async def fails(_host: str, _port: int) -> Sequence[str]:
        raise OSError("no such host")

    for resolver in (fails, answering([])):
        with pytest.raises(httpcore.ConnectError):
            await GuardedNetwork(resolver=resolver, inner=Dialer()).connect_tcp("x", 1, timeout=30)


async def test_unix_sockets_are_no_upstreams() -> None:
    with pytest.raises(AddressBlocked):
        await GuardedNetwork(inner=Dialer()).connect_unix_socket("/run/postgres.sock")


async def test_a_slow_name_takes_one_thread_and_who_gives_up_takes_nothing_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    go_on = threading.Event()

    def slowly(host: str, port: int) -> list[str]:
        asked.append(host)
        assert go_on.wait(60)
        return [PUBLIC]

    monkeypatch.setattr(dialing, "_look_up", slowly)
    waiting = [asyncio.create_task(dialing.resolve("slow.example.com", 443)) for _ in range(40)]
    other = asyncio.create_task(dialing.resolve("other.example.com", 443))
    await asyncio.sleep(0)
    waiting[0].cancel()
    go_on.set()
    found = await asyncio.gather(*waiting, other, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [[PUBLIC]] * 40
    assert sorted(asked) == ["other.example.com", "slow.example.com"]
    assert dialing._running == {}
