"""What both embedded servers share: one owner per folder, launching, waiting, stopping.

Ownership is a ``flock`` on ``<folder>/owner.lock``: the operating system releases it when the
owner dies, however it dies, so no pid guessing decides who runs the server. The owner writes
``state.json`` when the server is ready and removes it before stopping; another process that
finds the lock taken reads it and attaches.
"""

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import psutil

LAUNCHER = Path(__file__).with_name("embedded_launcher.py")
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
KILL_TIMEOUT_S = 5
POLL_INTERVAL_S = 0.01
LOG_MAX_BYTES = 10 * 1024 * 1024
PASSWORD_BYTES = 32
PRIVATE_FILE_MODE = 0o600


class EmbeddedError(RuntimeError):
    """The embedded servers cannot be started; the text says why and what to do."""


@dataclass(frozen=True)
class Account:
    """The operating system account a server runs as; None: our own."""

    uid: int
    gid: int


def server_account(home: Path) -> Account | None:
    """None unless we are root, because PostgreSQL refuses root.

    As root: the owner of ``home``'s parent when that is an ordinary account (so that files in a
    mounted checkout stay deletable by their owner), else ``nobody``. Raises EmbeddedError where
    the system knows neither; initdb needs an account with a name.
    """
    if os.geteuid() != 0:
        return None
    for name in (home.parent.stat().st_uid, "nobody"):
        try:
            entry = pwd.getpwuid(name) if isinstance(name, int) else pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise EmbeddedError(
        "PostgreSQL refuses to run as root and this system has no account 'nobody'. Run as an "
        "ordinary user, or set MARKET_DATABASE_URL and MARKET_REDIS_URL."
    )


def make_folder(path: Path, account: Account | None) -> None:
    """Create ``path`` for us alone; as root, enterable (not listable) by the server's account.

    A folder that exists keeps its mode: it may be a mount that the operator prepared.
    """
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700 if account is None else 0o711)


def write_private(path: Path, text: str) -> None:
    """Write ``text`` to a 0600 file, atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in ``path``; None if the file is missing or torn."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def new_password() -> str:
    return secrets.token_urlsafe(PASSWORD_BYTES)


def listening(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:``port``."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def free_port(preferred: int | None) -> int:
    """``preferred`` (last time's, so that open tools reconnect) if free, else any free port."""
    for port in (preferred or 0, 0):
        with socket.socket() as probe:
            # As servers do it: a port in TIME_WAIT from the last run counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EmbeddedError("no free TCP port on 127.0.0.1")


class OwnerLock:
    """The exclusive right to run the server in one folder, for as long as this process lives."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "owner.lock"
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """True if it is ours now, False if another live process (or another start) holds it."""
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        # A forked child would share the lock and keep it beyond our death.
        os.register_at_fork(after_in_child=file.close)
        return True

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def owner_or_state(
    lock: OwnerLock, state_path: Path, *, timeout_s: float = START_TIMEOUT_S
) -> dict[str, Any] | None:
    """None: the lock is ours, start the server. Else the state of the running one: attach.

    Waits while the owner is still starting or stopping. Raises EmbeddedError after ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if lock.acquire():
            return None
        state = read_json(state_path)
        if state is not None and listening(state["port"]):
            return state
        time.sleep(POLL_INTERVAL_S)
    raise EmbeddedError(
        f"another process holds {state_path.with_name('owner.lock')}, "
        f"but its server did not answer within {timeout_s:.0f} s"
    )


def launcher_command(
    command: list[str], account: Account | None, *, death_signal: signal.Signals, reach: list[Path]
) -> list[str]:
    """``command`` wrapped so that it drops root and dies with this process."""
    orders = {
        "parent": os.getpid(),
        "signal": int(death_signal),
        "uid": account.uid if account else None,
        "gid": account.gid if account else None,
        "reach": [str(path) for path in reach],
    }
    return [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(orders), *command]


# Nothing of the caller's environment (PGOPTIONS, PGDATA, LC_*) reaches a server.
SERVER_ENVIRONMENT: Mapping[str, str] = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}


def launch(command: list[str], *, folder: Path, stdin: bytes = b"") -> "subprocess.Popen[bytes]":
    """Start a long-lived server; its output is appended to ``<folder>/server.log``.

    It is forked by a thread that lives exactly as long as the server: the kernel sends the
    parent-death signal when the forking *thread* ends, and callers may be short-lived threads.
    A session of its own keeps the terminal's Ctrl-C from stopping it before the application.
    """
    log_path = folder / "server.log"
    if log_path.exists() and log_path.stat().st_size > LOG_MAX_BYTES:
        log_path.replace(folder / "server.log.old")
    outcome: SimpleQueue[subprocess.Popen[bytes] | BaseException] = SimpleQueue()

    def keep() -> None:
        try:
            with log_path.open("ab") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=dict(SERVER_ENVIRONMENT),
                    start_new_session=True,
                )
        except BaseException as error:  # noqa: BLE001  (re-raised in the caller's thread)
            outcome.put(error)
            return
        outcome.put(process)
        assert process.stdin is not None
        # A server that exits at once closes the pipe; wait_until reports that.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(stdin)
            process.stdin.close()
        process.wait()

    threading.Thread(target=keep, name=f"keeper-{folder.name}", daemon=True).start()
    result = outcome.get()
    if isinstance(result, BaseException):
        raise result
    return result


def wait_until(
    ready: Callable[[], bool], process: "subprocess.Popen[bytes]", *, folder: Path
) -> bool:
    """True once ``ready()``; False if the server exited. Raises EmbeddedError on timeout."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if ready():
            return True
        time.sleep(POLL_INTERVAL_S)
    stop_process(process, signals=(signal.SIGKILL,))
    raise EmbeddedError(f"server not ready after {START_TIMEOUT_S} s; {log_tail(folder)}")


def log_tail(folder: Path, *, lines: int = 8) -> str:
    """The end of a server's log, for error texts."""
    path = folder / "server.log"
    text = path.read_text(errors="replace") if path.exists() else ""
    return f"{path} ends:\n" + "\n".join(text.splitlines()[-lines:])


def stop_process(
    process: "subprocess.Popen[bytes]", *, signals: tuple[signal.Signals, ...]
) -> None:
    """Send each signal in turn, gentlest first, until the server has exited."""
    for number, step in enumerate(signals):
        process.send_signal(step)
        try:
            process.wait(STOP_TIMEOUT_S if number == 0 else KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        return


def stop_orphan(pid: int, *, signals: tuple[signal.Signals, ...]) -> None:
    """As ``stop_process``, for a server whose owner died before it (not our child).

    Raises EmbeddedError if it survives them all.
    """
    try:
        process = psutil.Process(pid)
        for number, step in enumerate(signals):
            process.send_signal(step)
            try:
                process.wait(STOP_TIMEOUT_S if number == 0 else KILL_TIMEOUT_S)
            except psutil.TimeoutExpired:
                continue
            return
    except psutil.NoSuchProcess:
        return
    raise EmbeddedError(f"process {pid} of an earlier run does not stop; end it by hand")
