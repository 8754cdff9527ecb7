"""Bodies of Delta Sharing in the protocol's own names (camelCase)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Hint = Annotated[str, StringConstraints(max_length=4_000)]
INT63_MAX = 2**63 - 1


class _Protocol(BaseModel):
    # Clients send fields of newer protocol versions, which the protocol says to ignore.
    model_config = ConfigDict(extra="ignore")


class ShareQueryBody(_Protocol):
    """What a query may say; all of it may be left out."""

    predicateHints: list[Hint] = Field(  # noqa: N815 - the protocol's name
        default=[], max_length=50, description="Simple SQL comparisons, joined by and."
    )
    jsonPredicateHints: str | None = Field(  # noqa: N815
        default=None, max_length=16_000, description="A predicate tree as JSON; takes precedence."
    )
    limitHint: int | None = Field(  # noqa: N815
        default=None, ge=0, le=INT63_MAX, description="Rows at most; exactly so many are sent."
    )
    version: int | None = Field(default=None, ge=0, le=INT63_MAX)
    timestamp: str | None = Field(default=None, max_length=64, examples=["2026-01-01T00:00:00Z"])


class ShareItem(_Protocol):
    """A share."""

    name: str
    id: str


class SchemaItem(_Protocol):
    """A schema of a share."""

    name: str
    share: str


class TableItem(_Protocol):
    """A table of a schema."""

    name: str
    schema_: str = Field(serialization_alias="schema", validation_alias="schema")
    share: str
    shareId: str  # noqa: N815
    id: str


class ShareItems(_Protocol):
    """A page of shares."""

    items: list[ShareItem]
    nextPageToken: str | None = None  # noqa: N815


class SchemaItems(_Protocol):
    """A page of schemas."""

    items: list[SchemaItem]
    nextPageToken: str | None = None  # noqa: N815


class TableItems(_Protocol):
    """A page of tables."""

    items: list[TableItem]
    nextPageToken: str | None = None  # noqa: N815


class SharingProfile(_Protocol):
    """A profile file, as clients of Delta Sharing read it."""

    shareCredentialsVersion: int = Field(examples=[1])  # noqa: N815
    endpoint: str
    bearerToken: str  # noqa: N815
    expirationTime: str  # noqa: N815


class SharedShare(_Protocol):
    """One share."""

    share: ShareItem
