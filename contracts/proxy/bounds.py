"""What a call may cost before it is known, and what it costs then. Pure."""

from __future__ import annotations

from uuid import UUID

from contracts.delivery.charges import DIVISIBLE, whole_ms, whole_units
from contracts.delivery.once import meter_headers
from contracts.metering import Hold
from contracts.models import Unit
from contracts.proxy.schemas import Operation
from market.kernel.ids import show


def reserved(unit: Unit, operation: Operation) -> int:
    """Units to reserve: the operation's own limit of bytes or time, else one."""
    if unit is Unit.BYTE:
        return operation.max_bytes
    return operation.timeout_s * 1_000 if unit is Unit.MILLISECOND else 1


def owed(unit: Unit, hold: Hold, *, size: int, took_ns: int) -> int:
    """Units of an answer of ``size`` bytes for which the upstream took ``took_ns``."""
    if unit is Unit.MILLISECOND:
        return min(hold.units, whole_ms(took_ns))
    return min(hold.units, whole_units(unit, rows=0, size=size))


def stream_headers(unit: Unit, hold: Hold, receipt_id: UUID) -> dict[str, str]:
    """What can be said before a stream: not yet what it will cost in bytes or time."""
    if unit not in DIVISIBLE:
        return meter_headers(hold.units, hold.remaining, receipt_id, unit=unit)
    return {
        "Meter-Reserved": str(hold.units),
        "Meter-Unit": unit.value,
        "Receipt-Id": show("rcp", receipt_id),
    }
