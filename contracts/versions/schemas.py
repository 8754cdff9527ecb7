"""API shapes of the versions of a grant."""

from datetime import datetime

from pydantic import Field

from contracts.versions.changes import SchemaChange
from market.kernel.ids import VersionId
from market.kernel.schemas import Schema


class RetypedColumn(Schema):
    """A column with another type than before."""

    name: str
    before: str = Field(description="DuckDB type name.", examples=["INTEGER"])
    after: str = Field(description="DuckDB type name.", examples=["BIGINT"])


class ColumnChanges(Schema):
    """How a version's columns differ from those of the certified version before it."""

    added: list[str]
    removed: list[str]
    retyped: list[RetypedColumn]
    breaking: bool = Field(description="Something was removed or retyped.")

    @classmethod
    def of(cls, change: SchemaChange) -> "ColumnChanges":
        """From the pure form."""
        return cls(
            added=list(change.added),
            removed=list(change.removed),
            retyped=[
                RetypedColumn(name=each.name, before=each.before, after=each.after)
                for each in change.retyped
            ],
            breaking=change.breaking,
        )


class GrantVersionView(Schema):
    """A version that a grant may read; name it as ``version`` to read it at any time."""

    version_id: VersionId
    number: int = Field(ge=1)
    rows: int
    bytes: int
    sha256: str = Field(description="Of the Parquet file, in hex.")
    certified_at: datetime
    in_effect: bool = Field(description="What is read now without naming a version.")
    effective_at: datetime = Field(
        description="When a follower reads it at the latest, unless a newer one takes its place."
    )
    changes: ColumnChanges | None = Field(
        description="Against the version before it; null for the one that was bought."
    )
