"""One worker of the meter's benchmark: the real application, and the same page without its meter.

Run as ``python -m tests.benchmarks.metered_app PORT GRANT_ID CPU`` with the ``MARKET_*`` addresses
in the environment; CPU -1 leaves the choice to the system.
"""

from __future__ import annotations

import os
import sys
from uuid import UUID

import uvicorn
from fastapi import Response

from contracts.delivery.formats import MEDIA_TYPES, Format
from contracts.delivery.rows import RowsRequest, rows_service
from market.app import create_app
from market.kernel.collector import tune_collector
from market.kernel.settings import load_settings


def main(port: int, grant_id: UUID, cpu: int) -> None:
    """Serve until SIGTERM."""
    if cpu >= 0:
        os.sched_setaffinity(0, {cpu})
    app = create_app(load_settings(public_url=f"http://127.0.0.1:{port}"))

    @app.get("/bare")
    async def bare(limit: int) -> Response:
        """The page of ``/v1/delivery/rows`` for whoever asks, counted by nobody."""
        service = rows_service(app.state.kernel)
        context = await service._context(grant_id)
        page = await service._page(context, RowsRequest(token="", limit=limit), Format.JSON)
        return Response(page.body, media_type=MEDIA_TYPES[Format.JSON])

    tune_collector()
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), UUID(sys.argv[2]), int(sys.argv[3]))
