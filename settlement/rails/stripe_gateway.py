"""Calls to Stripe that happen once: the command is committed first, its key is sent along.

A creating call whose outcome is unknown is looked for at Stripe, then repeated with the same key.
Stripe may forget a key after 24 h, so an older command that it does not know has failed for good.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid5

import stamina
import stripe
import structlog

from market.kernel.context import Kernel
from market.kernel.db import assert_no_unit_of_work
from settlement.errors import RailUnavailable
from settlement.rails.base import RailRefused
from settlement.rails.breaker import Breaker

# One hour less than Stripe keeps an Idempotency-Key (docs.stripe.com/api/idempotent_requests).
KEY_LIFE = timedelta(hours=23)
READS_MAX = 3
# No further try of a read begins after this.
READ_DEADLINE_S = 15
PAGE = 100
PAGES_MAX = 50
# Clocks of the two sides may differ when a lookup asks for "created since".
LOOKUP_MARGIN_S = 300
# Fixed for ever: changing it would re-key open commands.
_NAMESPACE = UUID("0c1f6c0e-3c0b-5d0a-9a43-6b2f0f6f7f10")

_INSERT = """
INSERT INTO settlement.stripe_command (key, kind, subject_id, account, created_at)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (key) DO NOTHING RETURNING key
"""
_READ = """
SELECT key, kind, subject_id, account, object_id, failure_code, created_at
FROM settlement.stripe_command WHERE key = $1
"""
_CLOSE = """
UPDATE settlement.stripe_command SET object_id = $2
WHERE key = $1 AND object_id IS NULL AND failure_code IS NULL
"""
_REFUSE = """
UPDATE settlement.stripe_command SET failure_code = $2
WHERE key = $1 AND object_id IS NULL AND failure_code IS NULL
"""

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class StripeRefused(RailRefused):
    """Stripe's definite no, with its code."""


class StripeMissing(StripeRefused):
    """Stripe knows no such object."""


@dataclass(frozen=True, slots=True)
class StoredCommand:
    """A row of ``stripe_command``."""

    key: UUID
    kind: str
    subject_id: UUID
    account: str | None
    object_id: str | None
    failure_code: str | None
    created_at: datetime


@dataclass(frozen=True)
class Steps(Generic[T]):
    """How to make an object with given options, fetch it by id, or find it by its command.

    Without slots: typing marks a generic's instances, which frozen slots refuse.
    """

    create: Callable[[Any], Awaitable[T]]
    retrieve: Callable[[str], Awaitable[T]]
    find: Callable[[StoredCommand], Awaitable[T | None]]


def derived(key: UUID, step: str) -> UUID:
    """The key of a further call under the same order of ours."""
    return uuid5(_NAMESPACE, f"{key.hex}/{step}")


def labels(key: UUID, subject_id: UUID) -> dict[str, str]:
    """Metadata by which an object is found again."""
    return {"market_key": key.hex, "market_subject": subject_id.hex}


def key_of(made: Any) -> UUID | None:
    """Our key in an object's metadata, if it is one of ours."""
    text = str(getattr(getattr(made, "metadata", None), "market_key", ""))
    return UUID(hex=text) if len(text) == 32 and set(text) <= set("0123456789abcdef") else None


class _Busy(Exception):
    """A read was answered by 5xx or a rate limit."""


class _HttpClient(stripe.HTTPXClient):
    """Reads are repeated a few times, with jitter; what creates is not: its outcome would be
    unknown, which the caller has to know (see :meth:`StripeGateway.once`)."""

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[Any, int, Mapping[str, str]]:
        """One call; GET up to ``READS_MAX`` times within ``READ_DEADLINE_S``."""
        answer: tuple[Any, int, Mapping[str, str]] | None = None
        attempts = READS_MAX if method.upper() == "GET" else 1
        with contextlib.suppress(_Busy):
            async for attempt in stamina.retry_context(
                on=(_Busy, stripe.APIConnectionError),
                attempts=attempts,
                timeout=READ_DEADLINE_S,
                wait_initial=0.05,
                wait_max=0.5,
                wait_jitter=0.1,
            ):
                with attempt:
                    answer = await super().request_async(method, url, headers, post_data)
                    if answer[1] >= 500 or answer[1] == 429:
                        raise _Busy
        assert answer is not None
        return answer

    # The SDK hands its encoded text to httpx as ``data``, which httpx deprecates for text.
    def _get_request_args_kwargs(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any
    ) -> Any:
        args, kwargs = super()._get_request_args_kwargs(method, url, headers, post_data)
        content = kwargs.pop("data") or None
        return args, {**kwargs, "content": content}


class StripeGateway:
    """One client. Its methods raise RailUnavailable (unknown) and StripeRefused (definite)."""

    def __init__(self, kernel: Kernel) -> None:
        settings = kernel.settings
        assert settings.stripe_api_key is not None
        self.kernel = kernel
        api_key = settings.stripe_api_key.get_secret_value()
        self.livemode = "_live_" in api_key
        self._http = _HttpClient(timeout=settings.stripe_timeout_s)
        self.breaker = Breaker(kernel.clock.now)
        # No retries inside the SDK: it would hide from us that an outcome was unknown.
        self.api = stripe.StripeClient(
            api_key,
            base_addresses={"api": settings.stripe_api_base},
            http_client=self._http,
            max_network_retries=0,
        ).v1

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def ask(self, call: Awaitable[T]) -> T:
        """Await one call with its errors mapped, unless the breaker is open (RailUnavailable).

        Raises AssertionError inside a unit of work.
        """
        try:
            assert_no_unit_of_work()
        except AssertionError:
            getattr(call, "close", lambda: None)()
            raise
        wait_s = self.breaker.admit()
        if wait_s > 0:
            getattr(call, "close", lambda: None)()
            raise RailUnavailable(
                "The payment provider has been failing; it is left alone for a moment.",
                retry_after_s=math.ceil(wait_s),
            )
        try:
            answer = await _translated(call)
        except RailUnavailable:
            self.breaker.failed()
            raise
        except (RailRefused, ValueError):
            self.breaker.succeeded()
            raise
        self.breaker.succeeded()
        return answer

    async def once(
        self, kind: str, key: UUID, steps: Steps[T], *, subject_id: UUID, account: str | None = None
    ) -> T:
        """Make the object of a command, or fetch the one that it made earlier.

        Raises StripeRefused for a definite failure, now and at every repetition; RailUnavailable
        when the outcome is unknown: call again.
        """
        stored, is_new = await self._open(kind, key, subject_id=subject_id, account=account)
        if stored.failure_code is not None:
            raise StripeRefused(stored.failure_code)
        if stored.object_id is not None:
            return await self.ask(steps.retrieve(stored.object_id))
        if not is_new:
            found = await self._find_lost(stored, steps)
            if found is not None:
                return found
        options: dict[str, Any] = {"idempotency_key": key.hex}
        if account is not None:
            options["stripe_account"] = account
        try:
            made = await self.ask(steps.create(options))
        except StripeRefused as refusal:
            await self._write(_REFUSE, key, refusal.code)
            raise
        await self.close_command(key, _id_of(made))
        return made

    async def _find_lost(self, stored: StoredCommand, steps: Steps[T]) -> T | None:
        found = await steps.find(stored)
        if found is not None:
            await self.close_command(stored.key, _id_of(found))
            return found
        async with self.kernel.unit_of_work() as uow:
            too_old = uow.now - stored.created_at >= KEY_LIFE
        if too_old:
            await self._write(_REFUSE, stored.key, "never_received")
            raise StripeRefused("never_received")
        return None

    async def find(self, key: UUID, steps: Steps[T]) -> T | None:
        """The object of an earlier command; None if there was none or Stripe never got it."""
        stored = await self.command(key)
        if stored is None:
            return None
        if stored.failure_code is not None:
            raise StripeRefused(stored.failure_code)
        if stored.object_id is not None:
            return await self.ask(steps.retrieve(stored.object_id))
        return await self._find_lost(stored, steps)

    async def find_listed(
        self, list_: Callable[[Any], Awaitable[Any]], key: UUID, since: datetime | None
    ) -> Any | None:
        """Read a list, newest first, until an object carries ``key`` (at most 5,000 objects)."""
        params: dict[str, Any] = {"limit": PAGE}
        if since is not None:
            # Stripe's clock never runs ahead as the sandbox's does.
            moment = int((since - self.kernel.clock.offset).timestamp())
            params["created"] = {"gte": moment - LOOKUP_MARGIN_S}
        for _ in range(PAGES_MAX):
            page = await self.ask(list_(params))
            for item in page.data:
                if key_of(item) == key:
                    return item
            if not page.has_more or not page.data:
                return None
            params = {**params, "starting_after": page.data[-1].id}
        raise RailUnavailable("The payment provider's list is too long to search.")

    async def list_after(
        self, list_: Callable[[Any], Awaitable[Any]], after: str, limit: int
    ) -> Sequence[Any]:
        """Oldest first, ``limit`` objects newer than ``after``; Stripe lists newest first."""
        if after:
            page = await self.ask(list_({"limit": min(limit, PAGE), "ending_before": after}))
            return list(reversed(page.data))
        newest_first: list[Any] = []
        params: dict[str, Any] = {"limit": PAGE}
        for _ in range(PAGES_MAX):
            page = await self.ask(list_(params))
            newest_first.extend(page.data)
            if not page.has_more or not page.data:
                return list(reversed(newest_first))[:limit]
            params = {**params, "starting_after": page.data[-1].id}
        raise RailUnavailable("The payment provider's list is too long to start from.")

    async def command(self, key: UUID) -> StoredCommand | None:
        """The stored command."""
        async with self.kernel.unit_of_work() as uow:
            row = await (await uow.raw()).fetchrow(_READ, key)
        return None if row is None else _stored(row)

    async def close_command(self, key: UUID, object_id: str) -> None:
        """Remember which object a command made; the first to say so wins."""
        await self._write(_CLOSE, key, object_id)

    async def _open(
        self, kind: str, key: UUID, *, subject_id: UUID, account: str | None
    ) -> tuple[StoredCommand, bool]:
        async with self.kernel.unit_of_work() as uow:
            connection = await uow.raw()
            new = await connection.fetchval(_INSERT, key, kind, subject_id, account, uow.now)
            row = await connection.fetchrow(_READ, key)
        assert row is not None
        stored = _stored(row)
        if (stored.kind, stored.subject_id, stored.account) != (kind, subject_id, account):
            raise ValueError("the key was used for another command")
        return stored, new is not None

    async def _write(self, statement: str, key: UUID, value: str) -> None:
        async with self.kernel.unit_of_work() as uow:
            await (await uow.raw()).execute(statement, key, value)


async def _translated(call: Awaitable[T]) -> T:
    try:
        return await call
    except stripe.CardError as error:
        decline = getattr(error.error, "decline_code", None)
        raise StripeRefused(str(decline or error.code or "card_declined")) from error
    except stripe.IdempotencyError as error:
        raise ValueError("the key was used for another call") from error
    except stripe.InvalidRequestError as error:
        if error.http_status == 404:
            raise StripeMissing(str(error.code or "resource_missing")) from error
        raise StripeRefused(str(error.code or "invalid_request")) from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        _log.error("stripe_key_refused", status=error.http_status)
        raise RailUnavailable("The payment provider refused our credentials.") from error
    except stripe.StripeError as error:
        raise RailUnavailable("The payment provider's answer is unknown.") from error


def _stored(row: Mapping[str, Any]) -> StoredCommand:
    return StoredCommand(**dict(row))


def _id_of(made: Any) -> str:
    return str(made.id)
