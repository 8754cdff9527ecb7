"""Real servers for every test: one PostgreSQL and one Valkey per run, one database per module.

The controller starts the embedded servers (or takes those of MARKET_DATABASE_URL,
MARKET_OWNER_DATABASE_URL and MARKET_REDIS_URL), migrates a template database once, and passes
the addresses to the xdist workers through the environment.
"""

import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI

from market.app import create_app
from market.kernel import logging as market_logging, migrations
from market.kernel.context import Kernel
from market.kernel.embedded import EmbeddedServers, start_embedded
from market.kernel.settings import Settings, load_settings
from market.parties import hashing

TEMPLATE = "market_test_template"
_APP, _OWNER, _REDIS = "MARKET_TEST_APP_URL", "MARKET_TEST_OWNER_URL", "MARKET_TEST_REDIS_URL"
# Minutes each; see pytest_collection_modifyitems.
_LONGEST = (
    "test_api_contract",
    "test_crash",
    "test_ledger_kills",
    "test_processes",
    "test_matching_kills",
)
# A crowd of a hundred on one row takes seconds where the disk is slow, and none of it may be
# refused for that. Tests of the limits set their own.
PATIENT = {
    "database_pool_timeout_s": 120,
    "lock_timeout_ms": 60_000,
    "statement_timeout_ms": 120_000,
}
_counter = itertools.count()
_servers: EmbeddedServers | None = None
_folder: tempfile.TemporaryDirectory[str] | None = None


def with_database(url: str, name: str) -> str:
    """The same server and role, another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def role_of(url: str) -> str:
    """The role name of a database address."""
    name = urlsplit(url).username
    assert name is not None
    return name


def _admin(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(with_database(url, "postgres"), autocommit=True)


def _make_template(owner_url: str, app_url: str) -> None:
    with _admin(owner_url) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{TEMPLATE}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{TEMPLATE}"')
    migrations.upgrade(with_database(owner_url, TEMPLATE), role_of(app_url))


def pytest_configure(config: pytest.Config) -> None:
    global _servers, _folder
    # In every worker: structlog's own default draws each traceback with all locals (40 s apiece).
    market_logging.configure(json=True, level="WARNING")
    # Each test makes parties of its own; at full strength their secrets alone took 32 ms apiece.
    hashing.hasher._argon2 = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    if hasattr(config, "workerinput") or config.option.collectonly:
        return
    outside = os.environ.get("MARKET_DATABASE_URL")
    if outside:
        os.environ[_APP] = outside
        os.environ[_OWNER] = os.environ["MARKET_OWNER_DATABASE_URL"]
        os.environ[_REDIS] = os.environ["MARKET_REDIS_URL"]
    else:
        _folder = tempfile.TemporaryDirectory(prefix="market-tests-")
        _servers = start_embedded(Path(_folder.name), fast_unsafe=True)
        os.environ[_APP] = _servers.database_url
        os.environ[_OWNER] = _servers.owner_database_url
        os.environ[_REDIS] = _servers.redis_url
    _make_template(os.environ[_OWNER], os.environ[_APP])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A file is one worker's: the long ones start first, or one worker ends alone with them.
    items.sort(key=lambda item: (item.path.parent.name != "e2e", item.path.stem not in _LONGEST))


def pytest_unconfigure(config: pytest.Config) -> None:
    global _servers, _folder
    if _servers is not None:
        _servers.stop()
        _servers = None
    if _folder is not None:
        _folder.cleanup()
        _folder = None


@dataclass(frozen=True)
class TestDatabase:
    """A fresh, migrated database: ``url`` as application role, ``owner_url`` as owner."""

    __test__ = False

    url: str
    owner_url: str


def _drop(connection: psycopg.Connection[tuple[object, ...]], name: str) -> None:
    """Drop a database, also one that is just being vacuumed.

    FORCE ends what a test left connected, but is refused to an owner while autovacuum is at work
    there; the plain command makes autovacuum leave.
    """
    try:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    except psycopg.errors.InsufficientPrivilege:
        connection.execute(f'DROP DATABASE "{name}"')


@pytest.fixture(scope="module")
def database() -> Iterator[TestDatabase]:
    owner, app = os.environ[_OWNER], os.environ[_APP]
    name = f"market_test_{os.getpid()}_{next(_counter)}"
    with _admin(owner) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"')
    yield TestDatabase(with_database(app, name), with_database(owner, name))
    with _admin(owner) as connection:
        _drop(connection, name)


@pytest.fixture(scope="module")
def settings(
    database: TestDatabase, tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Settings:
    index = int(worker_id.removeprefix("gw")) % 16 if worker_id.startswith("gw") else 0
    return load_settings(
        database_url=database.url,
        owner_database_url=database.owner_url,
        redis_url=with_database(os.environ[_REDIS], str(index)),
        home=tmp_path_factory.mktemp("home"),
        blob_url=None,
        **PATIENT,
    )


@pytest.fixture(scope="module")
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    made = create_app(settings)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture(scope="module")
def kernel(app: FastAPI) -> Kernel:
    opened: Kernel = app.state.kernel
    return opened


@pytest.fixture(scope="module")
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://market.test") as made:
        yield made
