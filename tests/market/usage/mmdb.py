"""Tiny MMDB files, written by hand after the format's specification (version 2.0)."""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

RECORD_BITS = 24
_MARKER = b"\xab\xcd\xefMaxMind.com"
_TEXT, _MAP, _ARRAY, _UINT16, _UINT32, _UINT64 = 2, 7, 11, 5, 6, 9


def write_mmdb(path: Path, countries: Mapping[str, Any]) -> None:
    """A database of IPv6, IPv4 under ::/96, with one record per network.

    A record that is text stands for ``{"country": {"iso_code": text}}``.
    """
    nodes: list[list[int | str | None]] = [[None, None]]
    for name in countries:
        _place(nodes, name)
    data, at = b"", {}
    for name, record in countries.items():
        at[name] = len(data)
        data += _encoded({"country": {"iso_code": record}} if isinstance(record, str) else record)
    count = len(nodes)
    tree = b""
    for node in nodes:
        for side in node:
            value = count if side is None else side
            number = count + 16 + at[value] if isinstance(value, str) else value
            tree += number.to_bytes(RECORD_BITS // 8, "big")
    metadata = {
        "binary_format_major_version": (_UINT16, 2),
        "binary_format_minor_version": (_UINT16, 0),
        "build_epoch": (_UINT64, 1_700_000_000),
        "database_type": "Test-Country",
        "description": {"en": "test"},
        "ip_version": (_UINT16, 6),
        "languages": ["en"],
        "node_count": (_UINT32, count),
        "record_size": (_UINT16, RECORD_BITS),
    }
    path.write_bytes(tree + bytes(16) + data + _MARKER + _encoded(metadata))


def _place(nodes: list[list[int | str | None]], name: str) -> None:
    network: IPv4Network | IPv6Network = ip_network(name)
    extra = 96 if network.version == 4 else 0
    number = int(network.network_address)
    length = network.prefixlen + extra
    at = 0
    for depth in range(length):
        bit = number >> (127 - depth) & 1
        if depth == length - 1:
            nodes[at][bit] = name
            return
        below = nodes[at][bit]
        if below is None:
            nodes.append([None, None])
            below = nodes[at][bit] = len(nodes) - 1
        assert isinstance(below, int)
        at = below


def _encoded(value: Any) -> bytes:
    if isinstance(value, str):
        raw = value.encode()
        return _control(_TEXT, len(raw)) + raw
    if isinstance(value, dict):
        items = b"".join(_encoded(name) + _encoded(each) for name, each in value.items())
        return _control(_MAP, len(value)) + items
    if isinstance(value, list):
        return _control(_ARRAY, len(value)) + b"".join(_encoded(each) for each in value)
    kind, number = value
    raw = struct.pack(">Q", number).lstrip(b"\0")
    return _control(kind, len(raw)) + raw


def _control(kind: int, size: int) -> bytes:
    assert size < 29
    if kind > 7:
        return bytes([size, kind - 7])
    return bytes([kind << 5 | size])
