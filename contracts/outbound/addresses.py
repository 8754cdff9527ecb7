"""Where a foreign server may live: public unicast addresses only. Pure.

The check is made on the address that is about to be dialed, never on a name: names change what
they mean between two look-ups (DNS rebinding), and ``127.1``, ``0x7f000001`` or ``2130706433``
are all names of loopback (operations.md §2, rows 43 and 44).
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Final

# IANA's special-purpose registry by reason, and the metadata services that lie outside of it.
# Written out: what ``ipaddress`` calls global has changed between patch releases of Python.
_V4: Final = (
    ("unspecified", "0.0.0.0/8"),
    ("private", "10.0.0.0/8"),
    ("shared", "100.64.0.0/10"),
    ("loopback", "127.0.0.0/8"),
    ("link_local", "169.254.0.0/16"),
    ("private", "172.16.0.0/12"),
    ("reserved", "192.0.0.0/24"),
    ("documentation", "192.0.2.0/24"),
    ("relay", "192.88.99.0/24"),
    ("private", "192.168.0.0/16"),
    ("benchmark", "198.18.0.0/15"),
    ("documentation", "198.51.100.0/24"),
    ("documentation", "203.0.113.0/24"),
    ("multicast", "224.0.0.0/4"),
    ("reserved", "240.0.0.0/4"),
    ("metadata", "168.63.129.16/32"),
)
# Those that carry an IPv4 address inside are refused whole: what they lead to depends on routers.
_V6: Final = (
    ("loopback", "::1/128"),
    ("unspecified", "::/128"),
    ("mapped", "::ffff:0:0/96"),
    ("mapped", "::/96"),
    ("nat64", "64:ff9b::/96"),
    ("nat64", "64:ff9b:1::/48"),
    ("tunnel", "2001::/23"),
    ("documentation", "2001:db8::/32"),
    ("tunnel", "2002::/16"),
    ("documentation", "3fff::/20"),
    ("private", "fc00::/7"),
    ("link_local", "fe80::/10"),
    ("private", "fec0::/10"),
    ("multicast", "ff00::/8"),
)
_BLOCKED_V4: Final = tuple((reason, IPv4Network(text)) for reason, text in _V4)
_BLOCKED_V6: Final = tuple((reason, IPv6Network(text)) for reason, text in _V6)
# All that IANA has given out for unicast lies here.
_GLOBAL_V6: Final = IPv6Network("2000::/3")


def blocked(text: str, *, loopback: bool = False) -> str | None:
    """Why the address must not be dialed, or None.

    ``loopback`` admits 127.0.0.0/8 and ::1 as they are written, for tests and demonstrations.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return "unreadable"
    reason = _reason(address)
    return None if loopback and reason == "loopback" else reason


def _reason(address: IPv4Address | IPv6Address) -> str | None:
    if isinstance(address, IPv4Address):
        return next((reason for reason, net in _BLOCKED_V4 if address in net), None)
    for reason, network in _BLOCKED_V6:
        if address in network:
            return reason
    return None if address in _GLOBAL_V6 else "reserved"
