"""Postgres: one engine, and the unit of work that every service method owns.

A unit of work is one database transaction with bounded waits. It reads database time at its
start, buffers outbox events, and commits before the response leaves (style trap 1: a yield
dependency commits after the response). Raw asyncpg shares the transaction because the first
statement went through SQLAlchemy (style trap 3: otherwise it would be autocommit).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import asyncpg
import orjson
from pydantic import BaseModel
from sqlalchemy import CursorResult, Executable, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from market.kernel import events, idempotency
from market.kernel.clock import Clock
from market.kernel.errors import MarketError, Unavailable

CONNECT_TIMEOUT_S = 10
# asyncpg gives up on a silent server after this; above statement_timeout, so that the server's
# own, cleaner cancel comes first.
COMMAND_TIMEOUT_MARGIN_S = 5

_BEGIN = text(
    "SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', :stmt, true),"
    " kernel.market_now(), kernel.market_now() - now()"
)

# What the rollback on a broken connection raises.
_BROKEN = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

_unit_of_work_open: ContextVar[bool] = ContextVar("unit_of_work_open", default=False)

# SQLSTATE classes that say "later", not "never" (operations.md faults 5, 10, 12).
_TRANSIENT = {
    "40001": "serialization conflict",
    "40P01": "deadlock",
    "53100": "disk full",
    "53300": "too many connections",
    "55P03": "lock timeout",
    "57014": "statement timeout",
    "57P01": "server shutting down",
    "57P03": "server starting",
}


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    title = "The database did not answer in time"


def assert_no_unit_of_work() -> None:
    """Guard of every outgoing call: no network while locks are held. Raises AssertionError."""
    if _unit_of_work_open.get():
        raise AssertionError("outgoing I/O inside a unit of work")


def transient(error: BaseException) -> DatabaseUnavailable | None:
    """The 503 for a database error that may pass, else None."""
    if isinstance(error, PoolTimeoutError):
        return DatabaseUnavailable("All database connections are busy.", retry_after_s=1)
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
        if state in _TRANSIENT:
            return DatabaseUnavailable(f"Database: {_TRANSIENT[state]}.", retry_after_s=1)
        if error.connection_invalidated or (state or "").startswith("08"):
            return DatabaseUnavailable("The database connection was lost.", retry_after_s=2)
        cause = error.orig.__cause__ if error.orig else None
        return transient(cause) if cause else None
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and (state in _TRANSIENT or state.startswith("08")):
        return DatabaseUnavailable(f"Database: {_TRANSIENT.get(state, 'connection lost')}.")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return DatabaseUnavailable("The database did not answer.", retry_after_s=2)
    # asyncpg's words for using a connection that the server has dropped, or is just dropping; they
    # have no SQLSTATE. Its other interface errors are bugs of the caller.
    lost = isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)
    if lost or isinstance(error, asyncpg.InternalClientError):
        return DatabaseUnavailable("The database connection was lost.", retry_after_s=2)
    return None


@dataclass
class UnitOfWork:
    """One open transaction. Made by :meth:`Database.unit_of_work` only.

    ``now`` is database time plus the sandbox offset; every deadline compares with it.
    """

    session: AsyncSession
    now: datetime
    claim: idempotency.Claim | None = None
    _events: list[events.Event] = field(default_factory=list)

    async def raw(self) -> asyncpg.Connection[Any]:
        """The asyncpg connection of this transaction (already begun, see the module note)."""
        connection = await self.session.connection()
        pooled = await connection.get_raw_connection()
        return cast("asyncpg.Connection[Any]", pooled.driver_connection)

    async def execute(
        self, statement: Executable, parameters: Mapping[str, object] | None = None
    ) -> CursorResult[*tuple[Any, ...]]:
        """Core statements (text, insert, update); models are read by ``session.exec``."""
        connection = await self.session.connection()
        return await connection.execute(statement, parameters)

    def emit(
        self,
        type_: str,
        object_id: UUID,
        data: Mapping[str, object],
        *,
        parties: Sequence[UUID] = (),
    ) -> None:
        """Buffer an outbox event; it is written in this transaction, at commit."""
        self._events.append(events.Event.of(type_, object_id, data, parties))

    async def answer(
        self,
        body: BaseModel,
        *,
        status: int = 201,
        headers: Mapping[str, str] | None = None,
        secret: bool = False,
    ) -> None:
        """Remember the HTTP answer under the request's Idempotency-Key, in this transaction.

        Call last: the route then sends exactly these bytes, now and at every replay. ``secret``
        encrypts the body at rest under the caller's own key. No effect outside such a request.
        """
        if self.claim is not None:
            payload = body.model_dump_json().encode()
            await self.session.flush()
            await idempotency.remember(
                await self.raw(),
                self.claim,
                idempotency.Answer(status, payload, dict(headers or {})),
                secret=secret,
            )

    async def flush_events(self) -> None:
        """Write the buffered events (called by commit)."""
        if self._events:
            await events.write(await self.raw(), self._events)
            self._events.clear()


class Database:
    """The engine. ``unit_of_work`` is the only door."""

    def __init__(self, engine: AsyncEngine, clock: Clock, *, lock_ms: int, statement_ms: int):
        self.engine = engine
        self._clock = clock
        self._limits = {"lock": str(lock_ms), "stmt": str(statement_ms)}

    @classmethod
    def open(
        cls,
        url: str,
        clock: Clock,
        *,
        pool_size: int,
        pool_timeout_s: int,
        lock_ms: int,
        statement_ms: int,
    ) -> Database:
        """Make the pool (connects lazily). ``url`` is a plain ``postgresql://`` address."""
        engine = create_async_engine(
            async_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=pool_timeout_s,
            pool_pre_ping=False,
            pool_recycle=1800,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": statement_ms / 1000 + COMMAND_TIMEOUT_MARGIN_S,
                "server_settings": {"application_name": "market", "timezone": "UTC"},
            },
        )
        return cls(engine, clock, lock_ms=lock_ms, statement_ms=statement_ms)

    @contextlib.asynccontextmanager
    async def unit_of_work(
        self, *, statement_timeout_ms: int | None = None
    ) -> AsyncIterator[UnitOfWork]:
        """One transaction: commits on a clean exit, rolls back on any exception.

        Raises AssertionError when nested, ``idempotency.Replay`` when the request's key has an
        answer already, ``idempotency.KeyInUse`` (409) while its first use still runs, and
        DatabaseUnavailable (503) for database errors that may pass.
        """
        if _unit_of_work_open.get():
            raise AssertionError("a unit of work is already open")
        token = _unit_of_work_open.set(True)
        try:
            async with self._session() as session:
                uow = await self._begin(session, statement_timeout_ms)
                yield uow
                await session.flush()
                await uow.flush_events()
                await session.commit()
        except MarketError:
            raise
        except (DBAPIError, PoolTimeoutError, ConnectionError, TimeoutError) as error:
            later = transient(error)
            if later is None:
                raise
            raise later from error
        except Exception as error:
            # Raw asyncpg errors do not pass SQLAlchemy's wrapping.
            later = transient(error)
            if later is None:
                raise
            raise later from error
        finally:
            _unit_of_work_open.reset(token)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncSession]:
        session = AsyncSession(self.engine, expire_on_commit=False)
        connection = await session.connection()
        try:
            yield session
        finally:
            # A task of its own, so that cancelling the caller does not cut the rollback.
            await asyncio.shield(asyncio.create_task(_give_back(session, connection)))

    async def _begin(self, session: AsyncSession, statement_timeout_ms: int | None) -> UnitOfWork:
        limits = dict(self._limits)
        if statement_timeout_ms is not None:
            limits["stmt"] = str(statement_timeout_ms)
        row = (await (await session.connection()).execute(_BEGIN, limits)).one()
        self._clock.offset = cast(timedelta, row[3])
        uow = UnitOfWork(session=session, now=row[2], claim=idempotency.current())
        if uow.claim is not None:
            await idempotency.check(await uow.raw(), uow.claim)
        return uow

    @contextlib.asynccontextmanager
    async def reader(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """A bare connection for one read outside any unit of work.

        Raises DatabaseUnavailable (503) for errors that may pass. A pooled connection that the
        server has dropped meanwhile is replaced first: nobody else would notice, because nothing
        goes through SQLAlchemy here.
        """
        try:
            async with self.engine.connect() as connection:
                pooled = await connection.get_raw_connection()
                if cast("asyncpg.Connection[Any]", pooled.driver_connection).is_closed():
                    await connection.invalidate()
                    pooled = await connection.get_raw_connection()
                try:
                    yield cast("asyncpg.Connection[Any]", pooled.driver_connection)
                except Exception:
                    # Whatever state it is in, nobody else shall get it.
                    await connection.invalidate()
                    raise
        except Exception as error:
            later = transient(error)
            if later is None:
                raise
            raise later from error

    async def ping(self) -> None:
        """One round trip, for readiness. Raises on failure."""
        async with asyncio.timeout(2), self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        await self.engine.dispose()


async def _give_back(session: AsyncSession, connection: AsyncConnection) -> None:
    """Roll back what is open and free the connection, or drop it if it is broken.

    After a COPY that the server cut short, asyncpg answers the rollback with "another operation is
    in progress". SQLAlchemy does not take that for a loss and would keep the connection from the
    pool until the garbage collector finds it. What broke it is already on its way to the caller.
    """
    try:
        await session.close()
    except _BROKEN:
        if connection.invalidated:
            return
        pooled = await connection.get_raw_connection()
        # First, because SQLAlchemy's polite closing meets the same words and leaves the socket.
        cast("asyncpg.Connection[Any]", pooled.driver_connection).terminate()
        await connection.invalidate()


def async_url(url: str) -> str:
    """SQLAlchemy's asyncpg form of a plain ``postgresql://`` address."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+asyncpg"}:
        raise ValueError("a database address starts with postgresql://")
    return f"postgresql+asyncpg://{rest}"


def plain_url(url: str) -> str:
    """The ``postgresql://`` form that asyncpg and psycopg read."""
    return "postgresql://" + async_url(url).partition("://")[2]
