"""Addresses of foreign servers as parties register them: of upstreams and of push targets. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from contracts.outbound.addresses import blocked

# What a path has without an encoding of its own.
PATH_PIECE: Final = r"[A-Za-z0-9._~!$&'()*+,;=:@%-]"
DOTS: Final = frozenset({".", ".."})
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PATH: Final = re.compile(rf"(/{PATH_PIECE}*)*")


class BaseUrlRefused(ValueError):
    """Not an address that requests are sent to. Its text says why, for the one who gave it."""


def checked_base(url: str, *, sandbox: bool, loopback: bool) -> str:
    """The base address as it is kept. Raises BaseUrlRefused.

    https only, but in the sandbox; no user, query or fragment; an address instead of a name must
    be public.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise BaseUrlRefused("The address cannot be read.") from error
    if parts.scheme != "https" and not (sandbox and parts.scheme == "http"):
        raise BaseUrlRefused("Servers are reached by https.")
    if parts.username is not None or parts.password is not None:
        raise BaseUrlRefused("Credentials do not belong into an address.")
    if "?" in url or "#" in url or port == 0:
        raise BaseUrlRefused("Only scheme, host, port and path are taken.")
    if not _PATH.fullmatch(parts.path) or DOTS & set(parts.path.split("/")):
        raise BaseUrlRefused("The path has characters that must be encoded.")
    literal = ":" in host or re.fullmatch(r"[0-9.]+", host) is not None
    if literal:
        reason = blocked(host, loopback=loopback)
        if reason is not None:
            raise BaseUrlRefused(f"The address is not public: {reason}.")
    elif not _HOST.fullmatch(host):
        raise BaseUrlRefused("The host is not a DNS name (use its ASCII form).")
    shown = f"[{host}]" if ":" in host else host
    suffix = "" if port is None else f":{port}"
    return f"{parts.scheme}://{shown}{suffix}{parts.path.rstrip('/')}"
