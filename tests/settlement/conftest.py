"""A server of our own for tests that need its superuser, also when the run uses other servers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings as hypothesis_settings

from market.kernel import migrations
from market.kernel.context import Kernel, open_kernel
from market.kernel.embedded import start_embedded
from market.kernel.embedded_postgres import APP_ROLE, SUPERUSER
from market.kernel.settings import Settings

CI_PROFILE, SOAK_PROFILE, MUTANT_PROFILE = "ledger-ci", "ledger-soak", "ledger-mutant"
# Without an example database: a run is its seed, and nothing that an earlier one left behind.
hypothesis_settings.register_profile(
    CI_PROFILE,
    max_examples=52,
    stateful_step_count=50,
    deadline=None,
    database=None,
    print_blob=True,
    # Shrinking plays a failure hundreds of times, a second each: the steps as found must do.
    phases=[Phase.generate],
    report_multiple_bugs=False,
    # A step is a few transactions, so an example takes a second: slow is what it is.
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
hypothesis_settings.register_profile(
    SOAK_PROFILE,
    hypothesis_settings.get_profile(CI_PROFILE),
    max_examples=60,
    stateful_step_count=60,
)
hypothesis_settings.register_profile(
    MUTANT_PROFILE, hypothesis_settings.get_profile(CI_PROFILE), max_examples=20
)


@dataclass(frozen=True)
class Guarded:
    """A migrated ledger with some history, and the addresses of three roles."""

    kernel: Kernel
    app_url: str
    owner_url: str
    superuser_url: str

    async def run(self, *statements: str, replica: bool = False) -> None:
        """As superuser, in one transaction; ``replica`` skips all ordinary triggers."""
        connection = await asyncpg.connect(self.superuser_url)
        try:
            async with connection.transaction():
                if replica:
                    await connection.execute("SET LOCAL session_replication_role = replica")
                for statement in statements:
                    await connection.execute(statement)
        finally:
            await connection.close()

    async def tamper(self, table: str, statement: str) -> None:
        """What a database administrator can do: switch the guards off, change, switch on."""
        tables = {table, "account", "posting"}
        await self.run(
            *(f"ALTER TABLE settlement.{name} DISABLE TRIGGER ALL" for name in tables),
            statement,
            *(f"ALTER TABLE settlement.{name} ENABLE TRIGGER ALL" for name in tables),
        )


@pytest.fixture(scope="module")
async def guarded(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Guarded]:
    home = tmp_path_factory.mktemp("superuser")
    servers = start_embedded(home, want_redis=False, fast_unsafe=True)
    try:
        assert servers.postgres is not None
        migrations.upgrade(servers.owner_database_url, APP_ROLE)
        kernel = open_kernel(
            settings.model_copy(update={"database_url": servers.database_url, "home": home})
        )
        yield Guarded(
            kernel,
            servers.database_url,
            servers.owner_database_url,
            servers.postgres.url(SUPERUSER),
        )
        await kernel.close()
    finally:
        servers.stop()
