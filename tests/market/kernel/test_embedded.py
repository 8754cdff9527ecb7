"""The embedded servers, run for real: start, stop, restart, kill -9, attach, refuse."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from market.kernel import embedded_postgres
from market.kernel.embedded import EmbeddedServers, start_embedded
from market.kernel.embedded_postgres import IMPOSSIBLE_PID
from market.kernel.embedded_process import EmbeddedError, free_port, listening, read_json

GONE_TIMEOUT_S = 15
RESTART_LIMIT_S = 2.0

# Starts servers from a thread that ends at once (the parent-death signal follows threads), then
# reports and waits. argv: home, signal for PostgreSQL at parent death (SIGCONT: it lives on).
CHILD = """
import json, signal, sys, threading, time
from pathlib import Path
# Shells start background jobs with SIGINT ignored, and that is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
from market.kernel import embedded_postgres
from market.kernel.embedded import start_embedded

real = embedded_postgres.launcher_command
def launcher_command(command, account, *, death_signal, reach):
    chosen = int(sys.argv[2]) if command[0].endswith("postgres") else death_signal
    return real(command, account, death_signal=chosen, reach=reach)
embedded_postgres.launcher_command = launcher_command

found = []
thread = threading.Thread(
    target=lambda: found.append(start_embedded(Path(sys.argv[1]), fast_unsafe=True))
)
thread.start()
thread.join()
servers = found[0]
print(json.dumps({
    "database_url": servers.database_url,
    "owner_database_url": servers.owner_database_url,
    "redis_url": servers.redis_url,
    "pids": [
        process.pid
        for process in (servers.postgres._process, servers.valkey._process)
        if process is not None
    ],
}), flush=True)
sys.stdin.read()
"""


def spawn(home: Path, *, death_signal: int = signal.SIGINT) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(home), str(int(death_signal))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def report(child: "subprocess.Popen[str]") -> dict[str, object]:
    assert child.stdout is not None
    line = child.stdout.readline()
    return dict(json.loads(line))


def finish(child: "subprocess.Popen[str]") -> int:
    child.communicate("")
    return child.returncode


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def rows(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT n FROM kept ORDER BY n")]


def keep(url: str, number: int) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int PRIMARY KEY)")
        connection.execute("INSERT INTO kept VALUES (%s)", (number,))


@pytest.fixture(scope="module")
def initialized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped home after its first start (initdb costs 1 s, so one for all)."""
    home = tmp_path_factory.mktemp("embedded") / ".market"
    start_embedded(home, fast_unsafe=True).stop()
    return home


@pytest.fixture
def home(initialized: Path, tmp_path: Path) -> Path:
    """A copy of the stopped home, in a path with a space, a quote and a Chinese character."""
    target = tmp_path / "data 'market' 数据" / ".market"
    target.mkdir(parents=True)
    # cp -a keeps owners, which shutil does not.
    subprocess.run(["cp", "-a", f"{initialized}/.", str(target)], check=True)
    return target


@pytest.fixture
def servers(home: Path) -> Iterator[EmbeddedServers]:
    with start_embedded(home, fast_unsafe=True) as started:
        yield started


def test_data_survives_a_restart_and_the_cache_does_not(home: Path) -> None:
    with start_embedded(home) as first:
        keep(first.owner_database_url, 7)
        with redis.Redis.from_url(first.redis_url) as cache:
            cache.set("k", "v")
    assert first.postgres is not None
    assert not listening(first.postgres.port)

    started_at = time.monotonic()
    with start_embedded(home) as second:
        elapsed_s = time.monotonic() - started_at
        assert rows(second.owner_database_url) == [7]
        assert second.owner_database_url == first.owner_database_url
        with redis.Redis.from_url(second.redis_url) as cache:
            assert cache.dbsize() == 0
    assert elapsed_s < RESTART_LIMIT_S


def test_first_start_in_a_fresh_folder_makes_durable_utc_servers(tmp_path: Path) -> None:
    with (
        start_embedded(tmp_path / "fresh", database="other") as fresh,
        psycopg.connect(fresh.database_url) as connection,
    ):
        expected = {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "TimeZone": "UTC",
            "listen_addresses": "127.0.0.1",
            "max_connections": "200",
            "password_encryption": "scram-sha-256",
            "data_checksums": "on",
        }
        found = {name: connection.execute(f"SHOW {name}").fetchone() for name in expected}
        assert found == {name: (value,) for name, value in expected.items()}
        row = connection.execute(
            "SELECT current_database(), pg_encoding_to_char(encoding), datlocprovider, datlocale"
            " FROM pg_database WHERE datname = current_database()"
        ).fetchone()
        assert row == ("other", "UTF8", "b", "C.UTF-8")


def test_roles_are_separate_and_small(servers: EmbeddedServers) -> None:
    with psycopg.connect(servers.database_url) as connection:
        roles = connection.execute(
            "SELECT rolname, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication"
            " FROM pg_roles WHERE rolname LIKE 'market_%' ORDER BY rolname"
        ).fetchall()
        assert roles == [
            ("market_app", False, False, False, False, False),
            ("market_owner", False, True, False, False, False),
        ]
        owner = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'market'"
        ).fetchone()
        assert owner == ("market_owner",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE public.mine (n int)")


def test_no_login_without_the_password(servers: EmbeddedServers) -> None:
    assert servers.postgres is not None
    assert servers.valkey is not None
    for role in ("postgres", "market_owner", "market_app"):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(
                host="127.0.0.1",
                port=servers.postgres.port,
                user=role,
                password="guess",
                dbname="market",
            )
    with (
        redis.Redis(host="127.0.0.1", port=servers.valkey.port) as cache,
        pytest.raises(redis.AuthenticationError),
    ):
        cache.get("k")


def test_valkey_is_bounded_and_never_persists(servers: EmbeddedServers) -> None:
    with redis.Redis.from_url(servers.redis_url, decode_responses=True) as cache:
        config = {
            name: cache.config_get(name)[name]
            for name in ("save", "appendonly", "maxmemory", "maxmemory-policy", "bind")
        }
    assert config == {
        "save": "",
        "appendonly": "no",
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "allkeys-lru",
        "bind": "127.0.0.1",
    }


def test_secrets_are_private_and_on_no_command_line(home: Path, servers: EmbeddedServers) -> None:
    files = ["postgres/passwords.json", "postgres/state.json", "valkey/state.json"]
    assert [stat.S_IMODE((home / name).stat().st_mode) for name in files] == [0o600] * 3
    assert stat.S_IMODE((home / "postgres/data").stat().st_mode) == 0o700
    assert not list((home / "postgres").glob("draft*"))
    assert servers.postgres is not None
    assert servers.valkey is not None
    secrets = {*servers.postgres.passwords.values(), servers.valkey.password}
    assert len(secrets) == 4
    pids = [(read_json(home / name) or {})["pid"] for name in files[1:]]
    lines = " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in pids)
    assert not [secret for secret in secrets if secret in lines]
    assert {psutil.Process(pid).uids().effective for pid in pids} != {0}


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_with_a_killed_parent(home: Path, death: signal.Signals) -> None:
    child = spawn(home)
    answer = report(child)
    keep(str(answer["owner_database_url"]), 1)
    child.send_signal(death)
    child.communicate()
    assert child.returncode != 0
    pids = answer["pids"]
    assert isinstance(pids, list)
    assert len(pids) == 2

    with start_embedded(home, fast_unsafe=True) as again:
        assert rows(again.owner_database_url) == [1]
        assert eventually(lambda: not any(running(pid) for pid in pids))


def test_an_orphaned_server_is_ended_by_the_next_start(home: Path) -> None:
    child = spawn(home, death_signal=signal.SIGCONT)
    answer = report(child)
    keep(str(answer["owner_database_url"]), 2)
    child.kill()
    child.communicate()
    pids = answer["pids"]
    assert isinstance(pids, list)
    assert running(pids[0])

    with start_embedded(home, fast_unsafe=True) as again:
        assert not running(pids[0])
        assert rows(again.owner_database_url) == [2]


def test_second_process_attaches_and_leaves_the_servers_running(
    home: Path, servers: EmbeddedServers
) -> None:
    child = spawn(home)
    answer = report(child)
    assert answer == {
        "database_url": servers.database_url,
        "owner_database_url": servers.owner_database_url,
        "redis_url": servers.redis_url,
        "pids": [],
    }
    assert finish(child) == 0
    keep(servers.owner_database_url, 3)
    with redis.Redis.from_url(servers.redis_url) as cache:
        assert cache.ping() is True


def test_same_process_attaches_to_itself(home: Path, servers: EmbeddedServers) -> None:
    with start_embedded(home) as second:
        assert second.database_url == servers.database_url
    keep(servers.owner_database_url, 4)


def test_simultaneous_starts_make_one_pair_of_servers(home: Path) -> None:
    children = [spawn(home) for _ in range(3)]
    answers = [report(child) for child in children]
    assert len({str(answer["database_url"]) for answer in answers}) == 1
    assert len({str(answer["redis_url"]) for answer in answers}) == 1
    owned = [pids for answer in answers if isinstance(pids := answer["pids"], list)]
    assert sorted(len(pids) for pids in owned) in ([0, 0, 2], [0, 1, 1])
    assert [finish(child) for child in children] == [0, 0, 0]


def test_stop_in_a_forked_child_leaves_the_parents_servers(servers: EmbeddedServers) -> None:
    # A child with another pid, as after fork: its copy of the handle must not stop anything.
    assert servers.postgres is not None
    servers.postgres._owner_pid = os.getpid() + 1
    servers.postgres.stop()
    servers.postgres._owner_pid = os.getpid()
    keep(servers.owner_database_url, 5)


def test_stop_twice_is_harmless(home: Path) -> None:
    servers = start_embedded(home, want_redis=False, fast_unsafe=True)
    assert servers.redis_url == ""
    servers.stop()
    servers.stop()
    assert not (home / "postgres/state.json").exists()


def test_a_pid_file_that_names_a_stranger_is_defused(home: Path) -> None:
    pid_file = home / "postgres/data/postmaster.pid"
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lines = [str(stranger.pid), str(pid_file.parent), "1", "5432", "", "127.0.0.1", "", "ready"]
    pid_file.write_text("\n".join(lines) + "\n")
    with start_embedded(home, want_redis=False, fast_unsafe=True) as servers:
        keep(servers.owner_database_url, 6)
    assert stranger.poll() is None
    stranger.communicate(b"\n")
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]))
    embedded_postgres._clear_previous_run(pid_file.parent)
    assert pid_file.read_text().splitlines() == [str(IMPOSSIBLE_PID), *lines[1:]]


def test_a_torn_pid_file_is_left_to_postgres(home: Path) -> None:
    pid_file = home / "postgres/data/postmaster.pid"
    pid_file.write_text("12")
    embedded_postgres._clear_previous_run(pid_file.parent)
    assert pid_file.read_text() == "12"


def test_data_of_another_major_version_is_refused_untouched(home: Path) -> None:
    version = home / "postgres/data/PG_VERSION"
    version.write_text("17\n")
    with pytest.raises(EmbeddedError, match="was written by PostgreSQL 17"):
        start_embedded(home, want_redis=False)
    assert version.read_text() == "17\n"
    assert not (home / "postgres/data/postmaster.pid").exists()


def test_lost_passwords_are_an_error_and_do_not_wipe_data(home: Path) -> None:
    (home / "postgres/passwords.json").unlink()
    with pytest.raises(EmbeddedError, match=r"passwords\.json is missing or damaged"):
        start_embedded(home)
    assert (home / "postgres/data/PG_VERSION").exists()
    # The failed start also took down its Valkey.
    assert not (home / "valkey/state.json").exists()


def test_a_broken_configuration_reports_the_servers_log(home: Path) -> None:
    with (home / "postgres/data/postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        start_embedded(home, want_redis=False)


def test_a_killed_first_start_leaves_nothing_half_made(tmp_path: Path) -> None:
    home = tmp_path / ".market"
    child = spawn(home)
    draft = home / "postgres/draft/PG_VERSION"
    assert eventually(draft.exists)
    child.kill()
    child.communicate()
    assert not (home / "postgres/data").exists()
    with start_embedded(home, want_redis=False, fast_unsafe=True) as servers:
        keep(servers.owner_database_url, 8)
    shutil.rmtree(home)


def test_a_taken_port_is_replaced() -> None:
    first = free_port(None)
    assert free_port(first) == first
    with socket.create_server(("127.0.0.1", first)):
        assert free_port(first) != first
