"""Shapes that every API shares: strict base, pages with opaque cursors, bilingual text."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Generic, Self, TypeVar

import orjson
from fastapi import Query
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from market.kernel.errors import Invalid

PAGE_DEFAULT = 50
PAGE_MAX = 200
# What every cursor looks like: unpadded base64url.
CURSOR_PATTERN = "^[A-Za-z0-9_-]+$"


class Schema(BaseModel):
    """Base of every request and response: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, from_attributes=True)


# NUL cannot be stored by Postgres, other controls (C0, C1) only serve log and terminal injection.
_LINE = r"[^\x00-\x1f\x7f-\x9f]"
_LINES = r"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
# Named one by one: dialects of regular expressions differ in what \s is.
_VISIBLE = r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
_DATE_TIME = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]")
# Checked before the outer space is cut off, so that the published schema is the one in force.
ShortText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200, pattern=f"^{_LINE}*{_VISIBLE}{_LINE}*$"),
    AfterValidator(str.strip),
]
LongText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000, pattern=f"^{_LINES}*{_VISIBLE}{_LINES}*$"),
    AfterValidator(str.strip),
]


def _written_out(value: object) -> object:
    if isinstance(value, str) and not _DATE_TIME.match(value):
        raise ValueError("expected an RFC 3339 date and time with an offset")
    if isinstance(value, int | float):
        raise ValueError("expected an RFC 3339 date and time, not a number")
    return value


# In UTC, with room for the days that a default period or a deadline adds.
_EARLIEST = datetime(1000, 1, 1, tzinfo=UTC)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)


def _computable(value: datetime) -> datetime:
    if not _EARLIEST <= value < _LATEST:
        raise ValueError("the time must lie in the years 1000 to 8999 (UTC)")
    return value


# Pydantic alone would also read numbers, as seconds or milliseconds by their size.
Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),
    AfterValidator(_computable),
    Field(description="RFC 3339 with an offset, in the years 1000 to 8999 (UTC)."),
]


class LocalizedText(Schema):
    """English text with an optional Simplified Chinese twin."""

    en: ShortText
    zh: ShortText | None = None


class BadCursor(Invalid):
    code = "cursor_invalid"
    title = "The page cursor is not one of ours"
    default_hint = "Start again without `after`, then pass `next_after` unchanged."


T = TypeVar("T")


class Page(Schema, Generic[T]):
    """One page: pass ``next_after`` as ``after`` while ``has_more`` is true."""

    items: list[T]
    has_more: bool
    next_after: str | None = None

    @classmethod
    def of(cls, rows: Sequence[T], limit: int, cursors: Sequence[Sequence[object]]) -> Self:
        """Build from ``limit + 1`` fetched rows and their sort keys (same order)."""
        more = len(rows) > limit
        return cls(
            items=list(rows[:limit]),
            has_more=more,
            next_after=encode_cursor(*cursors[limit - 1]) if more else None,
        )


class PageQuery:
    """Dependency: ``limit`` (1 to 200, default 50) and the opaque ``after`` cursor."""

    def __init__(
        self,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
        after: Annotated[str | None, Query(max_length=500, pattern=CURSOR_PATTERN)] = None,
    ) -> None:
        self.limit = limit
        self.after = after

    def key(self, parts: int) -> list[str] | None:
        """The decoded cursor: ``parts`` strings, or None on the first page. Raises BadCursor."""
        return None if self.after is None else decode_cursor(self.after, parts)


def encode_cursor(*parts: object) -> str:
    """An opaque, URL-safe cursor from the sort key of the last row."""
    packed = orjson.dumps([str(part) for part in parts])
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_cursor(text: str, parts: int) -> list[str]:
    """Reverse of :func:`encode_cursor`. Raises BadCursor for anything else."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        values = orjson.loads(raw)
    except (binascii.Error, ValueError) as error:
        raise BadCursor(param="after") from error
    if not isinstance(values, list) or len(values) != parts:
        raise BadCursor(param="after")
    if not all(isinstance(value, str) and "\x00" not in value for value in values):
        raise BadCursor(param="after")
    return values


class Problem(BaseModel):
    """RFC 9457 problem document."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:market:problem:insufficient_funds"])
    title: str
    status: int
    code: str = Field(description="Stable, machine-readable.")
    detail: str
    param: str | None = Field(default=None, description="The offending input, as a path.")
    request_id: str
    hint: str | None = Field(default=None, description="What to do next.")
