"""Becomes a server process: ties it to its parent, drops root, then execs.

Started as ``python -I -S <this file> '<orders as JSON>' program arguments…`` (25 ms). A program
of its own instead of ``preexec_fn``, which may deadlock when the parent has threads. ``-I`` keeps
this folder off ``sys.path``, where ``http.py`` and others would shadow the standard library; so
only the standard library is imported here.

Orders: ``parent`` (pid), ``signal`` (sent to the server when the parent dies), ``uid`` and ``gid``
(null: stay), ``reach`` (paths the server must be able to enter or read after dropping root).
Exits 126 with one line on stderr when an order cannot be carried out.
"""

import ctypes
import json
import os
import sys
from typing import Any, NoReturn

# linux/prctl.h and linux/capability.h
PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE = 1
CAP_DAC_READ_SEARCH = 2

LIBC = ctypes.CDLL(None, use_errno=True)


class CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class CapabilitySet(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"embedded server not started: {reason}\n")
    raise SystemExit(126)


def permitted_capabilities() -> int:
    sets = (CapabilitySet * 2)()
    LIBC.capget(ctypes.byref(CapabilityHeader(CAPABILITY_VERSION_3, 0)), sets)
    return int(sets[0].permitted)


def set_capabilities(*, effective: int, permitted: int, inheritable: int) -> None:
    sets = (CapabilitySet * 2)()
    sets[0] = CapabilitySet(effective, permitted, inheritable)
    if LIBC.capset(ctypes.byref(CapabilityHeader(CAPABILITY_VERSION_3, 0)), sets) != 0:
        refuse(f"capset: {os.strerror(ctypes.get_errno())}")


def unreachable(paths: list[str]) -> str | None:
    """The first path this process may not read (folders: enter), or None."""
    for path in paths:
        mode = os.X_OK if os.path.isdir(path) else os.R_OK
        if not os.access(path, mode):
            return path
    return None


def drop_root(uid: int, gid: int, reach: list[str]) -> None:
    """Continue as ``uid``, with no capability unless the paths cannot be reached otherwise.

    A checkout below a 0700 folder (``/root``) is closed to the unprivileged account. There the
    server keeps one capability: to read and search any folder (DAC_READ_SEARCH), or where a
    container withholds that one (Docker's default set), DAC_OVERRIDE. Nothing is chmodded.
    """
    if not hasattr(LIBC, "prctl"):
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        return
    # Without the fixup, setuid keeps the permitted set, and access(2), which PostgreSQL uses on
    # its own binaries, honours an effective capability (kernel: access_override_creds).
    LIBC.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    permitted = permitted_capabilities()
    set_capabilities(effective=0, permitted=permitted, inheritable=0)
    if unreachable(reach) is None:
        set_capabilities(effective=0, permitted=0, inheritable=0)
        return
    for capability in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE):
        bit = 1 << capability
        if permitted & bit:
            set_capabilities(effective=bit, permitted=bit, inheritable=bit)
            LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)
            break
    path = unreachable(reach)
    if path is not None:
        refuse(f"{path} is closed to user id {uid}, and servers must not run as root")


def main(arguments: list[str]) -> NoReturn:
    orders: dict[str, Any] = json.loads(arguments[0])
    command = arguments[1:]
    if orders["uid"] is not None:
        drop_root(orders["uid"], orders["gid"], orders["reach"])
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # After setuid, which clears it; no exec below changes credentials, so it stays.
        LIBC.prctl(PR_SET_PDEATHSIG, orders["signal"], 0, 0, 0)
    if os.getppid() != orders["parent"]:
        raise SystemExit(0)  # The parent died before the line above.
    os.execv(command[0], command)  # noqa: S606  (no shell is the point)


if __name__ == "__main__":
    main(sys.argv[1:])
