"""Sockets, addresses and servers around the app, without the app."""

import os
import signal
import socket
from pathlib import Path

import psycopg
import pytest

from market import serving
from market.kernel.settings import load_settings
from market.serving import MissingAddress


def test_bind_takes_the_asked_port_or_fails() -> None:
    with serving.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use"):
            serving.bind("127.0.0.1", port)
        assert serving.url_of(first) == f"http://127.0.0.1:{port}"


def test_port_zero_falls_back_when_the_preferred_one_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(serving, "PREFERRED_PORT", taken.getsockname()[1])
        with serving.bind("127.0.0.1", 0) as listener:
            assert listener.getsockname()[1] != taken.getsockname()[1]


@pytest.mark.parametrize(
    ("bound", "url"),
    [
        (("0.0.0.0", 81), "http://127.0.0.1:81"),
        (("10.0.0.7", 82), "http://10.0.0.7:82"),
        (("::", 83, 0, 0), "http://127.0.0.1:83"),
        (("::1", 84, 0, 0), "http://[::1]:84"),
    ],
)
def test_url_is_one_a_browser_can_open(bound: tuple[str, int], url: str) -> None:
    class Bound(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return bound

    with Bound() as listener:
        assert serving.url_of(listener) == url


def test_role_of_an_address() -> None:
    assert serving.role_of("postgresql://market_app:pw@h/market") == "market_app"
    with pytest.raises(MissingAddress, match="names no role"):
        serving.role_of("postgresql://h/market")


def test_own_servers_are_left_alone(tmp_path: Path) -> None:
    settings = load_settings(
        home=tmp_path / "home", database_url="postgresql://a:b@h/c", redis_url="redis://h/0"
    )
    with serving.with_servers(settings) as ready:
        assert ready is settings
    assert not (tmp_path / "home").exists()


def test_migrate_without_an_owner_is_refused(tmp_path: Path) -> None:
    settings = load_settings(
        home=tmp_path,
        database_url="postgresql://a:b@h/c",
        redis_url="redis://h/0",
        owner_database_url=None,
    )
    with pytest.raises(MissingAddress, match="MARKET_OWNER_DATABASE_URL"):
        serving.migrate(settings.model_copy(update={"owner_database_url": None}))


def test_only_the_missing_server_is_embedded(tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "home", redis_url="redis://elsewhere/0").model_copy(
        update={"database_url": None, "owner_database_url": None}
    )
    with serving.with_servers(settings) as ready:
        assert ready.redis_url == "redis://elsewhere/0"
        assert ready.database_embedded is True
        assert ready.database_url is not None
        assert serving.role_of(ready.database_url) == "market_app"
        assert ready.owner_database_url is not None
        assert serving.role_of(ready.owner_database_url) == "market_owner"
        assert not (tmp_path / "home/valkey").exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(ready.database_url)


def test_sigterm_runs_finally_blocks() -> None:
    before = signal.getsignal(signal.SIGTERM)
    closed = []

    def served() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            closed.append(True)

    with pytest.raises(SystemExit) as leaving, serving.orderly_exit():
        served()
    assert leaving.value.code == 0
    assert closed == [True]
    assert signal.getsignal(signal.SIGTERM) is before
