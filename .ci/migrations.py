"""Prove the migrations: up, down to nothing, up again, and equal to the models.

Uses a throw-away embedded server, or a scratch database on MARKET_OWNER_DATABASE_URL.
"""

import os
import secrets
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from market.kernel import migrations
from market.kernel.embedded import start_embedded
from market.serving import role_of

# Schemas of the server itself, and Alembic's own table.
LEFTOVERS = (
    "SELECT n.nspname || '.' || c.relname FROM pg_class c"
    " JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname !~ '^(pg_|information_schema$)' AND c.relkind IN ('r', 'p', 'v', 'S', 'm')"
    " AND c.relname <> 'alembic_version'"
    " UNION ALL SELECT nspname FROM pg_namespace"
    " WHERE nspname !~ '^(pg_|information_schema$|public$)'"
    " UNION ALL SELECT proname FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace"
    " WHERE n.nspname = 'public'"
)


def check(owner_url: str, app_role: str) -> list[str]:
    """What is wrong; empty when nothing is. Alembic's own errors pass through."""
    migrations.upgrade(owner_url, app_role)
    migrations.downgrade(owner_url, app_role)
    with psycopg.connect(owner_url) as connection:
        left = [str(row[0]) for row in connection.execute(LEFTOVERS)]
    found = [f"downgrade leaves {name}" for name in left]
    if not found:
        migrations.upgrade(owner_url, app_role)
        migrations.check(owner_url, app_role)
    return found


def main() -> int:
    with ExitStack() as stack:
        owner_url = os.environ.get("MARKET_OWNER_DATABASE_URL")
        app_url = os.environ.get("MARKET_DATABASE_URL")
        if not owner_url or not app_url:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            servers = stack.enter_context(
                start_embedded(Path(folder) / "home", want_redis=False, fast_unsafe=True)
            )
            owner_url, app_url = servers.owner_database_url, servers.database_url
        name = f"migration_check_{secrets.token_hex(4)}"
        admin = stack.enter_context(psycopg.connect(owner_url, autocommit=True))
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            scratch = urlunsplit(urlsplit(owner_url)._replace(path=f"/{name}"))
            found = check(scratch, role_of(app_url))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
    sys.stdout.write("".join(f"schema: {line}\n" for line in found) or "schema: ok\n")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
