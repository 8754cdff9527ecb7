"""Alembic environment: sync psycopg as the owner role, all package schemas compared."""

import contextlib
import importlib
from typing import Any

from sqlalchemy import create_engine, pool, text
from sqlmodel import SQLModel

from alembic import context

MODELS = (
    "market.kernel.models",
    "market.parties.models",
    "market.parties.trading",
    "listings.models",
    "listings.reservation_models",
    "pricing.models",
    "pricing.billing_models",
    "settlement.models",
    "settlement.rail_models",
    "settlement.exchange_models",
    "settlement.reconciliation_models",
    "settlement.payout_run_models",
    "settlement.billing_models",
    "contracts.models",
    "contracts.billing_models",
    "contracts.resale_models",
    "contracts.dispute_models",
    "contracts.copies.models",
    "contracts.changes.models",
    "contracts.proxy.models",
    "contracts.push.models",
    "contracts.sharing.models",
    "contracts.token_quota_models",
    "contracts.usage_alert_models",
    "contracts.usage_hold_models",
    "contracts.versions.models",
    "market.matching.models",
    "market.matching.bundle_models",
    "market.matching.control_models",
    "market.matching.call_models",
    "market.matching.inbox_models",
    "market.matching.journal_models",
    "market.demand.models",
    "market.surveillance.models",
    "market.auctions.models",
    "market.usage.models",
)
for module in MODELS:
    with contextlib.suppress(ImportError):
        importlib.import_module(module)

SCHEMAS = {table.schema for table in SQLModel.metadata.tables.values()}


def _ours(name: str | None, type_: str, _parents: Any) -> bool:
    # The job queue's schema belongs to its library; Postgres's own are not ours either.
    return name in SCHEMAS if type_ == "schema" else True


def run() -> None:
    attributes = context.config.attributes
    url = attributes["url"].replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        # A migration must not queue behind a long query with all traffic behind it (Squawk).
        connection.execute(text("SET lock_timeout = '5s'"))
        connection.execute(text("SET timezone = 'UTC'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            include_schemas=True,
            include_name=_ours,
            compare_type=True,
            compare_server_default=False,
            transaction_per_migration=True,
            version_table="alembic_version",
        )
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run()
