"""One worker of the meter's benchmark: the real application, and the same page without its meter.

The page is ten rows in memory, encoded at every request: a query would hide the meter's cost.
Everything else of ``/v1/delivery/rows`` is the application's own.

Run as ``python -m tests.benchmarks.metered_app PORT CPU`` with the ``MARKET_*`` addresses
in the environment; CPU -1 leaves the choice to the system.
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Annotated

import orjson
import uvicorn
from fastapi import Header, Query, Response

from contracts import endpoints
from contracts.delivery import rows
from contracts.delivery.formats import MEDIA_TYPES, Format, negotiate
from contracts.delivery.page import Page
from contracts.delivery.requests import Context, RowsRequest
from contracts.metering_asked import Asked
from market.app import create_app
from market.kernel.collector import tune_collector
from market.kernel.ids import GrantId
from market.kernel.settings import load_settings
from market.kernel.transport import HttpProtocol

ROWS = [
    {"day": f"2013-01-{n:02d}", "carrier": "UA", "origin": "EWR", "dep_delay": n / 2, "distance": n}
    for n in range(1, 11)
]
_QUERY = "0" * 64


def page(limit: int) -> bytes:
    """``limit`` rows as the rows API's JSON."""
    return orjson.dumps({"items": ROWS[:limit], "has_more": False, "next_after": None})


class MemoryRows(rows.RowsService):
    """The rows API, its query replaced by :func:`page`."""

    async def _page(self, context: Context, request: RowsRequest, format_: Format) -> Page:
        body = page(request.limit)
        digest = hashlib.sha256(body).hexdigest()
        return Page(body, digest, request.limit, format_, None, _QUERY, Asked())


async def bare(
    filter_: Annotated[str | None, Query(alias="filter", max_length=1_000)] = None,
    grant_id: Annotated[GrantId | None, Query()] = None,
    select: Annotated[str | None, Query(max_length=8_000)] = None,
    order: Annotated[str | None, Query(max_length=1_000)] = None,
    after: Annotated[str | None, Query(max_length=500)] = None,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
    accept: Annotated[str | None, Header()] = None,
    delivery_id: Annotated[str | None, Header(alias="Delivery-Id")] = None,
) -> Response:
    """The page for whoever asks, counted by nobody; its parameters are those of the other."""
    return Response(page(limit), media_type=MEDIA_TYPES[negotiate(accept)])


def main(port: int, cpu: int) -> None:
    """Serve until SIGTERM."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    # The process's service is made of whatever class bears the name at the first request.
    setattr(rows, "RowsService", MemoryRows)  # noqa: B010
    # Beside the metered endpoint: finding a route costs more the later it comes.
    endpoints.router.get("/bare")(bare)
    app = create_app(load_settings(public_url=f"http://127.0.0.1:{port}"))
    tune_collector()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
