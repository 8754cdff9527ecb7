"""An exchange whose rail is Stripe, and a fake Stripe on loopback behind it."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import httpx
import pytest
import stripe
import uvicorn
from pydantic import SecretStr

from market.kernel.settings import Settings
from tests.settlement.stripe_books import Json
from tests.settlement.stripe_fake import Sent, StripeFake

SECRETS = {"platform": "whsec_" + "p" * 32, "connect": "whsec_" + "c" * 32}
OLD_SECRET = "whsec_" + "o" * 32

START_TIMEOUT_S = 60
_judged: list[int] = []

Deliver = Callable[..., Coroutine[Any, Any, httpx.Response]]


@pytest.fixture(scope="session")
def stripe_mock() -> Iterator[str | None]:
    """The official stripe-mock on a free port, if the run names one (`make test-stripe`)."""
    program = os.environ.get("STRIPE_MOCK")
    if program is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Its second listener (https) would take a fixed port.
    arguments = [program, "-http-addr", f"127.0.0.1:{port}", "-strict-version-check=false"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "stripe-mock ended"
                assert time.monotonic() < deadline, "stripe-mock does not answer"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def refused_by(stripe_mock: str, requests: Sequence[Sent]) -> list[tuple[str, str, str]]:
    """Those of our requests that Stripe's own specification refuses, each with its reason."""
    refused = []
    dropped = ("host", "content-length", "connection", "accept-encoding")
    async with httpx.AsyncClient(base_url=stripe_mock) as mock:
        for sent in requests:
            headers = {name: value for name, value in sent.headers.items() if name not in dropped}
            answer = await mock.request(
                sent.method, sent.target, headers=headers, content=sent.body or None
            )
            if not answer.is_success:
                refused.append((sent.method, sent.target, answer.text))
    _judged.append(len(requests))
    return refused


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What stripe-mock was asked."""
    if _judged:
        terminalreporter.write_line(f"stripe-mock judged {sum(_judged)} requests.")


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
async def quiet(fake: StripeFake, stripe_mock: str | None) -> AsyncIterator[None]:
    """No test inherits another's undelivered events or faults; what it sent is judged after it."""
    fake.events.clear()
    fake.faults.clear()
    fake.sent.clear()
    fake.down = False
    yield
    if stripe_mock is not None:
        assert await refused_by(stripe_mock, fake.sent) == []


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
