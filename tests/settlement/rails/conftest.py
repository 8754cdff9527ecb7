"""An exchange whose rail is Stripe, and a fake Stripe on loopback behind it."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest
import stripe
import uvicorn
from pydantic import SecretStr

from market.kernel.settings import Settings
from tests.settlement.stripe_books import Json
from tests.settlement.stripe_fake import StripeFake

SECRETS = {"platform": "whsec_" + "p" * 32, "connect": "whsec_" + "c" * 32}
OLD_SECRET = "whsec_" + "o" * 32

Deliver = Callable[..., Coroutine[Any, Any, httpx.Response]]


@pytest.fixture(scope="module")
def fake() -> StripeFake:
    return StripeFake()


@pytest.fixture(scope="module")
async def fake_base(fake: StripeFake) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(fake, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve([listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.fixture(scope="module")
def settings(settings: Settings, fake_base: str) -> Settings:
    return settings.model_copy(
        update={
            "rail": "stripe",
            "stripe_api_key": SecretStr("sk_test_fake"),
            "stripe_api_base": fake_base,
            "stripe_timeout_s": 1,
            "stripe_webhook_secrets": (SecretStr(SECRETS["platform"]), SecretStr(OLD_SECRET)),
            "stripe_connect_webhook_secrets": (SecretStr(SECRETS["connect"]),),
        }
    )


@pytest.fixture(autouse=True)
def quiet(fake: StripeFake) -> None:
    """No test inherits another's undelivered events or faults."""
    fake.events.clear()
    fake.faults.clear()
    fake.sent.clear()
    fake.down = False


@pytest.fixture
def deliver(client: httpx.AsyncClient) -> Deliver:
    """Send an event as Stripe does, signed now or at ``at``, by the source's or another secret."""

    async def send(
        source: str, event: Json, *, secret: str | None = None, at: int | None = None
    ) -> httpx.Response:
        body = json.dumps(event)
        header = stripe.WebhookSignature.generate_signature_header(
            body, secret or SECRETS[source], int(time.time()) if at is None else at
        )
        return await client.post(
            f"/v1/webhooks/stripe/{source}",
            content=body.encode(),
            headers={"Stripe-Signature": header, "Content-Type": "application/json"},
        )

    return send
