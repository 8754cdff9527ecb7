"""Running the market in this process: servers, schema, socket, shutdown.

Shared by ``market up``, ``market serve`` and the demo.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from market.kernel.collector import collection_paused, tune_collector
from market.kernel.settings import Settings

if TYPE_CHECKING:
    import uvicorn

PREFERRED_PORT = 8000
BACKLOG = 2048
# uvicorn waits this long for open requests, then cancels them; longer than statement_timeout.
DRAIN_TIMEOUT_S = 20
KEEP_ALIVE_S = 30
START_TIMEOUT_S = 60


class MissingAddress(RuntimeError):
    """A command without embedded servers was started without its MARKET_…_URL."""


def role_of(database_url: str) -> str:
    """The role name of a database address. Raises MissingAddress if it names none."""
    name = urlsplit(database_url).username
    if not name:
        raise MissingAddress("the database address names no role (postgresql://role:password@…)")
    return name


@contextmanager
def with_servers(settings: Settings) -> Iterator[Settings]:
    """Settings whose addresses are known: the configured ones, else embedded servers.

    Starts only what has no address and stops it at the end. Raises EmbeddedError.
    """
    want_postgres, want_redis = settings.database_url is None, settings.redis_url is None
    if not want_postgres and not want_redis:
        yield settings
        return
    from market.kernel.embedded import start_embedded  # noqa: PLC0415  (not with own servers)

    with start_embedded(
        settings.home, want_postgres=want_postgres, want_redis=want_redis
    ) as servers:
        known: dict[str, object] = {}
        if want_postgres:
            known |= {
                "database_url": servers.database_url,
                "owner_database_url": servers.owner_database_url,
                "database_embedded": True,
            }
        if want_redis:
            known["redis_url"] = servers.redis_url
        yield settings.model_copy(update=known)


def migrate(settings: Settings) -> None:
    """Bring the schema to this code's revision as the owner role.

    Raises MissingAddress without an owner address.
    """
    from market.kernel import migrations  # noqa: PLC0415  (0.4 s, for two commands only)

    if settings.database_url is None or settings.owner_database_url is None:
        raise MissingAddress(
            "set MARKET_DATABASE_URL (application role) and MARKET_OWNER_DATABASE_URL (owner)"
        )
    migrations.upgrade(settings.owner_database_url, role_of(settings.database_url))


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes 8000 when free, else any. Raises OSError if taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (port,) if port else (PREFERRED_PORT, 0):
        try:
            return socket.create_server((host, candidate), family=family, backlog=BACKLOG)
        except OSError:
            if candidate in (port, 0):
                raise
    raise AssertionError("unreachable: the last candidate either binds or raises")


def url_of(listener: socket.socket) -> str:
    """The address a browser on this machine uses for ``listener``."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104  (compared, not bound)
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(
    settings: Settings, listener: socket.socket, *, on_ready: Callable[[str], None]
) -> None:
    """Serve the API on ``listener`` until SIGTERM or SIGINT, then drain and return.

    ``on_ready`` gets the public URL once requests are answered. Raises SystemExit if the
    application does not start.
    """
    server = _server(settings, listener, on_ready)
    tune_collector()
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        return
    if not server.started:
        raise SystemExit(3)


@contextmanager
def in_thread(settings: Settings, listener: socket.socket) -> Iterator[str]:
    """Serve the API on ``listener`` in a thread of its own; yields the public URL, then drains.

    Raises RuntimeError if the application does not start.
    """
    ready = threading.Event()
    found: list[str] = []

    def report(url: str) -> None:
        found.append(url)
        ready.set()

    server = _server(settings, listener, report)

    def serve() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            ready.set()

    thread = threading.Thread(target=serve, name="api")
    thread.start()
    try:
        ready.wait(START_TIMEOUT_S)
        if not found:
            raise RuntimeError("the API did not start; its log names the reason")
        yield found[0]
    finally:
        server.should_exit = True
        thread.join(DRAIN_TIMEOUT_S)


def _server(
    settings: Settings, listener: socket.socket, on_ready: Callable[[str], None]
) -> uvicorn.Server:
    # Late: seconds, which `market --help` need not pay. A sixth of them is the collector's, which
    # would search 380,000 new objects that all stay.
    with collection_paused():
        import uvicorn  # noqa: PLC0415

        from market.app import create_app  # noqa: PLC0415
        from market.kernel.transport import HttpProtocol  # noqa: PLC0415

    public_url = settings.public_url or url_of(listener)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready(public_url)

    config = uvicorn.Config(
        create_app(settings.model_copy(update={"public_url": public_url})),
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,  # Our middleware logs each request once, with its id.
        proxy_headers=False,  # A forged X-Forwarded-For must not name the client.
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
    )
    return Server(config)


@contextmanager
def orderly_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that ``finally`` blocks stop the servers.

    uvicorn drains, restores the previous handler and raises the signal again; without this the
    default handler would end the process before the database was closed.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
