"""The default servers: PostgreSQL and Valkey under ``.market/``, started and stopped with us.

They stop on ``stop()``, at interpreter exit, and when the process is killed in any way (the
kernel's parent-death signal; where a platform lacks it, the next start ends the orphans). Data
survives. A second process with the same home attaches to the running servers.
"""

import atexit
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from market.kernel.embedded_postgres import (
    APP_ROLE,
    OWNER_ROLE,
    EmbeddedPostgres,
    start_postgres,
)
from market.kernel.embedded_process import make_folder, server_account
from market.kernel.embedded_valkey import EmbeddedValkey, start_valkey


@dataclass
class EmbeddedServers:
    """Connection URLs of the running servers; an unwanted server's URL is empty.

    ``database_url`` connects as the application role, ``owner_database_url`` as the role that
    owns the schemas and may create databases.
    """

    database_url: str = ""
    owner_database_url: str = ""
    redis_url: str = ""
    postgres: EmbeddedPostgres | None = None
    valkey: EmbeddedValkey | None = None

    def stop(self) -> None:
        """Stop what this process started; safe to call twice. Takes 0.1 to 30 s."""
        atexit.unregister(self.stop)
        if self.valkey is not None:
            self.valkey.stop()
        if self.postgres is not None:
            self.postgres.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def start_embedded(
    home: Path,
    *,
    database: str = "market",
    want_postgres: bool = True,
    want_redis: bool = True,
    fast_unsafe: bool = False,
) -> EmbeddedServers:
    """Start (or attach to) the servers of ``home`` and return when both accept connections.

    ``fast_unsafe`` turns PostgreSQL's durability off, for tests that throw the data away.
    Blocks for 0.5 s (first time: 3 s). Raises EmbeddedError.
    """
    home = home.absolute()
    home.parent.mkdir(parents=True, exist_ok=True)
    make_folder(home, server_account(home))
    servers = EmbeddedServers()
    atexit.register(servers.stop)
    try:
        with ThreadPoolExecutor(max_workers=2) as pool:
            starts = []
            if want_postgres:
                starts.append(pool.submit(_add_postgres, servers, home, database, fast_unsafe))
            if want_redis:
                starts.append(pool.submit(_add_valkey, servers, home))
        # Both threads have ended here, so a failure of one finds the other in ``servers``.
        for start in starts:
            start.result()
    except BaseException:
        servers.stop()
        raise
    return servers


def _add_postgres(servers: EmbeddedServers, home: Path, database: str, fast_unsafe: bool) -> None:
    postgres = start_postgres(home / "postgres", database=database, fast_unsafe=fast_unsafe)
    servers.postgres = postgres
    servers.database_url = postgres.url(APP_ROLE)
    servers.owner_database_url = postgres.url(OWNER_ROLE)


def _add_valkey(servers: EmbeddedServers, home: Path) -> None:
    servers.valkey = start_valkey(home / "valkey")
    servers.redis_url = servers.valkey.url
