"""Streamed answers over real sockets, from the upstream to the buyer."""

import hashlib
from typing import Any

import httpx
import pytest

from market import serving
from market.kernel.context import Kernel
from market.kernel.settings import Settings
from tests.contracts.factories import bearer, settled
from tests.contracts.outbound import servers
from tests.contracts.proxy.conftest import MakeOffer, operation

OCTETS = "application/octet-stream"
MIB = 1 << 20


async def test_whole_small_broken_and_left_streams(
    make_offer: MakeOffer, kernel: Kernel, settings: Settings
) -> None:
    body = bytes(range(256)) * 4_096 * 8
    begun = servers.head(200, {"content-type": OCTETS, "transfer-encoding": "chunked"})
    offer = await make_offer(
        whole=servers.plain(body, media_type=OCTETS),
        small=servers.plain(b"abc", media_type=OCTETS),
        empty=servers.plain(b"", media_type=OCTETS),
        broken=servers.raw(begun + b"3\r\nabc\r\n"),
    )
    await offer.register(
        *(
            operation(name, media_type=OCTETS, stream=True, max_bytes=16 * MIB, timeout_s=20)
            for name in ("whole", "small", "empty", "broken")
        )
    )
    place = "/v1/delivery/proxy"
    asked: dict[str, Any] = {"json": {"parameters": {}}, "headers": bearer(offer.token)}
    with (
        serving.bind("127.0.0.1", 0) as listener,
        serving.in_thread(settings, listener) as address,
    ):
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            whole = await client.post(f"{place}/whole", **asked)
            assert hashlib.sha256(whole.content).digest() == hashlib.sha256(body).digest()
            assert (await client.post(f"{place}/small", **asked)).content == b"abc"
            assert (await client.post(f"{place}/empty", **asked)).content == b""
            # Cut, so that nobody takes what came for the whole.
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post(f"{place}/broken", **asked)
            async with client.stream("POST", f"{place}/whole", **asked) as left:
                async for _ in left.aiter_bytes():
                    break
    # Stopping the server wrote its records: whole, small, empty, and the one that was left.
    assert await settled(kernel, offer.trade) == 4
