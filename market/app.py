"""Composition: one ASGI app with every service, its lifespan, health and docs."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any

import asyncpg
from fastapi import FastAPI

from contracts import (
    billing_endpoints as contract_billing_endpoints,
    dispute_endpoints,
    endpoints as contract_endpoints,
    token_endpoints,
    usage_endpoints,
    usage_hold_endpoints,
)
from contracts.bulk import endpoints as bulk_endpoints
from contracts.changes import endpoints as change_endpoints
from contracts.metering import close_meter
from contracts.proxy import endpoints as proxy_endpoints
from contracts.push import endpoints as push_endpoints
from contracts.sharing import endpoints as sharing_endpoints, oauth_endpoints as sharing_oauth
from contracts.versions import endpoints as version_endpoints
from listings import endpoints as listing_endpoints
from market.auctions import endpoints as auction_endpoints
from market.console import endpoints as console_endpoints
from market.demand import endpoints as demand_endpoints
from market.kernel.context import open_kernel
from market.kernel.db import plain_url
from market.kernel.http import add_problem_schema, install_errors
from market.kernel.middleware import BodyLimit, RequestContext
from market.kernel.openapi_names import name_apart
from market.kernel.settings import Settings
from market.matching import (
    batch_endpoints,
    bundle_endpoints,
    call_endpoints,
    control_endpoints,
    endpoints as matching_endpoints,
    feed_endpoints,
)
from market.matching.engine import MatchingEngine
from market.matching.relay import Relay
from market.operations import events, health, sandbox
from market.operations.docs import install_docs
from market.parties import endpoints as party_endpoints
from market.schedule import SCHEDULE
from market.surveillance import endpoints as surveillance_endpoints
from market.usage import endpoints as usage_rule_endpoints
from market.worker import in_process
from pricing import billing_endpoints as pricing_billing_endpoints, endpoints as pricing_endpoints
from settlement import (
    billing_endpoints,
    endpoints as settlement_endpoints,
    ledger_endpoints,
    money_endpoints,
    rail_endpoints,
)
from settlement.rails.choice import close_rail

# Uploads count their own bytes against settings.upload_max_bytes.
STREAMED_PATHS = re.compile(r"^/v1/products/[^/]+/versions$")
DESCRIPTION = (
    "The backend of a data exchange: register, value, price, match, contract, deliver, settle "
    "and arbitrate data products. Money is integer minor units with an ISO 4217 currency; every "
    "POST that changes state takes an Idempotency-Key; errors are RFC 9457 problem documents "
    "with a stable `code`."
)

ROUTERS = (
    party_endpoints.router,
    listing_endpoints.router,
    pricing_endpoints.router,
    pricing_billing_endpoints.router,
    # Before the orders, or "stream" would be an order.
    feed_endpoints.router,
    batch_endpoints.router,
    bundle_endpoints.router,
    matching_endpoints.router,
    control_endpoints.router,
    call_endpoints.router,
    demand_endpoints.router,
    auction_endpoints.router,
    contract_endpoints.router,
    token_endpoints.router,
    proxy_endpoints.router,
    push_endpoints.router,
    dispute_endpoints.router,
    contract_billing_endpoints.router,
    usage_endpoints.router,
    bulk_endpoints.router,
    version_endpoints.router,
    change_endpoints.router,
    sharing_endpoints.router,
    sharing_oauth.router,
    usage_hold_endpoints.router,
    settlement_endpoints.router,
    rail_endpoints.router,
    ledger_endpoints.router,
    money_endpoints.router,
    billing_endpoints.router,
    console_endpoints.router,
    surveillance_endpoints.router,
    usage_rule_endpoints.router,
    events.router,
    sandbox.router,
    health.router,
)


class UnsafeDatabaseRole(RuntimeError):
    """The application connects as a superuser or as the owner of its tables."""


async def check_role(database_url: str) -> None:
    """Refuse to run with rights that would make append-only a mere habit.

    Raises UnsafeDatabaseRole (operations.md §2, row 5: owner and superuser bypass every guard).
    """
    connection = await asyncpg.connect(plain_url(database_url), timeout=10)
    try:
        superuser = await connection.fetchval(
            "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        owned = await connection.fetchval(
            "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname IN ('kernel', 'settlement')"
            " AND pg_has_role(current_user, c.relowner, 'MEMBER')"
        )
    finally:
        await connection.close()
    if superuser or owned:
        raise UnsafeDatabaseRole(
            "MARKET_DATABASE_URL must name a role that is neither superuser nor owner of the "
            "tables; put the owner into MARKET_OWNER_DATABASE_URL and run `market migrate`."
        )


def create_app(settings: Settings) -> FastAPI:
    """The API of one process. ``settings`` must have its URLs (see ``market.kernel.embedded``)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        assert settings.database_url is not None
        await check_role(settings.database_url)
        async with AsyncExitStack() as stack:
            kernel = open_kernel(settings)
            stack.push_async_callback(kernel.close)
            app.state.kernel = kernel
            stack.push_async_callback(close_rail, kernel)
            stack.push_async_callback(close_meter, kernel)
            engine = await stack.enter_async_context(MatchingEngine(kernel))
            app.state.matching_engine = engine
            await stack.enter_async_context(Relay(kernel, engine))
            if settings.worker_in_process:
                await stack.enter_async_context(in_process(kernel, SCHEDULE))
            yield

    app = FastAPI(
        title="Data Element Market",
        version=version("data-element-market"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        # Function names are unique over all services (`make check`), and make good SDK names.
        generate_unique_id_function=lambda route: route.name,
    )
    for router in ROUTERS:
        app.include_router(router)
    install_docs(app)
    _extend_openapi(app)
    install_errors(app)
    app.add_middleware(BodyLimit, max_bytes=settings.body_max_bytes, streamed=STREAMED_PATHS)
    app.add_middleware(RequestContext)
    return app


def _extend_openapi(app: FastAPI) -> None:
    plain = app.openapi

    def extended() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            add_problem_schema(document)
            name_apart(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = extended  # type: ignore[method-assign]
