"""The job queue's own tables (Procrastinate), in a schema of their own."""

from procrastinate.schema import SchemaManager
from procrastinate.testing import InMemoryConnector

from alembic import op
from market.kernel.migration import app_role, create_schema, drop_schema

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_schema(op, "jobs")
    connection = op.get_bind()
    path = connection.exec_driver_sql("SHOW search_path").scalar_one()
    connection.exec_driver_sql("SET LOCAL search_path = jobs")
    # The library's schema of the locked version; a later version brings its own migrations.
    # Straight to psycopg: its text holds percent signs, which are placeholders elsewhere.
    driver = connection.connection.driver_connection
    driver.execute(SchemaManager(connector=InMemoryConnector()).get_schema())
    connection.exec_driver_sql(f"SET LOCAL search_path = {path}")
    role = app_role()
    for privileges, objects in (
        ("SELECT, INSERT, UPDATE, DELETE", "TABLES"),
        ("USAGE, SELECT", "SEQUENCES"),
        ("EXECUTE", "FUNCTIONS"),
    ):
        op.execute(f"GRANT {privileges} ON ALL {objects} IN SCHEMA jobs TO {role}")


def downgrade() -> None:
    drop_schema(op, "jobs")
