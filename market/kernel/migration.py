"""What every migration does alike: schemas, grants to the application role, append-only tables.

The application role is not the owner. It gets what a migration grants and no more, so that
"append-only" is a fact of the database and not a habit of the code.
"""

import re
from typing import Any

from alembic import context

_NAME = re.compile(r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?$")


def app_role() -> str:
    """The application role, quoted, from the migration's ``app_role`` option."""
    role = context.config.attributes["app_role"]
    return '"' + str(role).replace('"', '""') + '"'


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise ValueError(f"not a plain SQL name: {name}")
    return name


def create_schema(op: Any, schema: str) -> None:
    """CREATE SCHEMA and let the application role see it."""
    op.execute(f"CREATE SCHEMA IF NOT EXISTS {_checked(schema)}")
    op.execute(f"GRANT USAGE ON SCHEMA {_checked(schema)} TO {app_role()}")


def drop_schema(op: Any, schema: str) -> None:
    """Remove an emptied schema."""
    op.execute(f"DROP SCHEMA IF EXISTS {_checked(schema)} CASCADE")


def grant(op: Any, table: str, privileges: str) -> None:
    """GRANT ``privileges`` (for example ``"select, insert, update (posted, held)"``)."""
    if not re.fullmatch(r"[a-z_, ()]+", privileges):
        raise ValueError(f"not a privilege list: {privileges}")
    op.execute(f"GRANT {privileges} ON {_checked(table)} TO {app_role()}")


def append_only(op: Any, table: str) -> None:
    """SELECT and INSERT only, and a trigger that denies the rest to everyone.

    ENABLE ALWAYS: ``session_replication_role = replica`` skips ordinary triggers (ledger.md §5).
    """
    name = _checked(table).replace(".", "_")
    grant(op, table, "select, insert")
    op.execute(
        f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION kernel.deny_change()"
    )
    op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}_append_only")
