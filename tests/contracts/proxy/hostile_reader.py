"""Reads hostile answers as the exchange does, many at once; prints what it cost this process.

``python -m tests.contracts.proxy.hostile_reader URL NAME…``. The last line is JSON: the code of
each refusal, and the resident memory of this process in MiB, before and at its peak.
"""

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from contracts.outbound.dialing import GuardedNetwork
from contracts.proxy.calling import Calls, Request
from contracts.proxy.calls import AnswerBroken
from contracts.proxy.models import Upstream, UpstreamStatus, ViolationKind
from contracts.proxy.schemas import CHECKED_MAX_BYTES, Operation
from market.kernel.errors import MarketError
from market.kernel.ids import new_id

AT_ONCE = 4
TIMEOUT_S = 20
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def upstream(url: str) -> Upstream:
    return Upstream(
        id=new_id(),
        product_id=new_id(),
        owner_id=new_id(),
        base_url=url,
        operations=[],
        status=UpstreamStatus.ACTIVE,
        created_at=MOMENT,
        updated_at=MOMENT,
    )


async def outcome(calls: Calls, server: Upstream, name: str) -> str:
    operation = Operation(
        name=name, path=f"/{name}", max_bytes=CHECKED_MAX_BYTES, timeout_s=TIMEOUT_S
    )
    request = Request(server, operation, {}, "d-1", None)
    try:
        await calls.read(request, deadline=time.monotonic() + TIMEOUT_S)
    except AnswerBroken as broken:
        too_large = broken.kind is ViolationKind.SIZE
        return "upstream_too_large" if too_large else "upstream_answer_invalid"
    except MarketError as refused:
        return refused.code
    return "answered"


async def main(url: str, names: list[str]) -> dict[str, object]:
    before = _peak_mib()
    found: dict[str, list[str]] = {}
    for name in names:
        calls = Calls(GuardedNetwork(loopback=True), calls_max=AT_ONCE)
        asked = [outcome(calls, upstream(url), name) for _ in range(AT_ONCE)]
        codes = await asyncio.gather(*asked)
        found[name] = sorted(set(codes))
    return {"codes": found, "before_mib": before, "peak_mib": _peak_mib()}


def _peak_mib() -> int:
    # Not getrusage: that begins with what the process was forked from.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2:]))) + "\n")
