"""What one delivery token may do, less than its grant allows. Set at minting, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints

from contracts.errors import (
    ColumnUnknown,
    TokenAddressRefused,
    TokenFieldRefused,
    TokenOperationRefused,
    TokenTooNarrow,
)
from listings.row_filter import ALWAYS, FILTER_MAX_CHARS, Condition, compile_filter
from listings.typed_columns import Column
from market.kernel.schemas import Schema

FIELDS_MAX = 500
NETWORKS_MAX = 50
RATE_MAX = 1_000_000


class WayOut(StrEnum):
    """Ways out that a token may be limited to."""

    ROWS = "rows"
    COUNT = "count"
    SHARING = "sharing"
    PROXY = "proxy"
    BULK = "bulk"
    CHANGES = "changes"
    PUSH = "push"


# Only these leave fields and rows out; the others send what is stored.
_NARROWING = frozenset({WayOut.ROWS, WayOut.COUNT, WayOut.SHARING, WayOut.CHANGES, WayOut.PUSH})


def _network(text: str) -> str:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise ValueError("not a network like 192.0.2.0/24 or 2001:db8::/32") from error
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("write IPv4 networks as such: ::ffff:0:0/96 never matches")
    return str(network)


class TokenLimits(Schema):
    """Restrictions of a delivery token; null restricts nothing."""

    operations: Annotated[list[WayOut], Field(min_length=1, max_length=10)] | None = Field(
        default=None, description="Ways out that the token may use."
    )
    fields: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=200)]],
            Field(min_length=1, max_length=FIELDS_MAX),
        ]
        | None
    ) = Field(
        default=None,
        description="Columns that the token may select, filter and order by; by rows, count, "
        "changes, push and sharing only.",
    )
    row_filter: (
        Annotated[str, StringConstraints(min_length=1, max_length=FILTER_MAX_CHARS)] | None
    ) = Field(
        default=None,
        description="Rows that exist for the token, in the language of `filter`; by rows, "
        "count, changes, push and sharing only.",
        examples=["carrier = 'UA'"],
    )
    networks: (
        Annotated[
            list[
                Annotated[
                    str, StringConstraints(min_length=2, max_length=43), AfterValidator(_network)
                ]
            ],
            Field(min_length=1, max_length=NETWORKS_MAX),
        ]
        | None
    ) = Field(
        default=None,
        description="IPv4 and IPv6 networks (CIDR) that requests must come from.",
        examples=[["192.0.2.0/24", "2001:db8::/32"]],
    )
    rate_per_minute: Annotated[int, Field(strict=True, ge=1, le=RATE_MAX)] | None = Field(
        default=None, description="Requests per minute, if less than the exchange's own limit."
    )

    def require_columns(self, columns: Mapping[str, Column]) -> None:
        """Raises ColumnUnknown, FilterInvalid (422) unless the limits fit the version."""
        for name in self.fields or ():
            if name not in columns:
                raise ColumnUnknown(f"There is no column {name!r}.", param="fields")
        compile_filter(self.row_filter, columns)


def limits_of(body: TokenLimits) -> dict[str, Any]:
    """What is stored of ``body``, which may be of a class that says more."""
    return body.model_dump(mode="json", include=set(TokenLimits.model_fields), exclude_none=True)


class ScopedColumns(Mapping[str, Column]):
    """The columns that a token may read. Asking for another one of the version is refused.

    Select, filter and order all look columns up here, so none of them tells of a hidden one.
    """

    def __init__(self, columns: Mapping[str, Column], fields: frozenset[str]) -> None:
        self._open = {name: column for name, column in columns.items() if name in fields}
        self._hidden = columns.keys() - fields

    def __getitem__(self, name: str) -> Column:
        """Raises TokenFieldRefused (403) for a hidden column, KeyError for an unknown one."""
        if name in self._hidden:
            raise TokenFieldRefused(f"The token may not use the field {name!r}.", field=name)
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._open)

    def __len__(self) -> int:
        return len(self._open)


@dataclass(frozen=True, slots=True)
class Limits:
    """:class:`TokenLimits` as the gate reads them."""

    operations: frozenset[str] | None = None
    fields: frozenset[str] | None = None
    row_filter: str | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    rate_per_minute: int | None = None
    quota_id: UUID | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any], *, quota_id: UUID | None = None) -> Limits:
        """From the token's stored ``limits``."""
        limits = TokenLimits.model_validate(stored)
        return cls(
            operations=None if limits.operations is None else frozenset(limits.operations),
            fields=None if limits.fields is None else frozenset(limits.fields),
            row_filter=limits.row_filter,
            networks=None
            if limits.networks is None
            else tuple(ip_network(each) for each in limits.networks),
            rate_per_minute=limits.rate_per_minute,
            quota_id=quota_id,
        )

    @property
    def narrow(self) -> bool:
        """Whether the token may read less than its grant's version."""
        return self.fields is not None or self.row_filter is not None

    def rate(self, most: int) -> int:
        """Requests per minute: the token's own, but never more than ``most``."""
        return most if self.rate_per_minute is None else min(most, self.rate_per_minute)

    def require(self, operation: WayOut | None, address: str | None) -> None:
        """Refuse what the token is not for. An ``operation`` that has no name is not allowed.

        Raises TokenAddressRefused, TokenOperationRefused, TokenTooNarrow (403).
        """
        self.require_address(address)
        if self.operations is not None and operation not in self.operations:
            raise TokenOperationRefused("The token is not for this way out.")
        if self.narrow and operation not in _NARROWING:
            raise TokenTooNarrow("The token may not read every field and row.")

    def require_address(self, address: str | None) -> None:
        """``address`` is the socket's peer. Raises TokenAddressRefused (403)."""
        if self.networks is None:
            return
        try:
            peer = ip_address(address or "")
        except ValueError:
            raise TokenAddressRefused from None
        if isinstance(peer, IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        if not any(peer in network for network in self.networks):
            raise TokenAddressRefused

    def scoped(self, columns: Mapping[str, Column]) -> Mapping[str, Column]:
        """The columns that the token may read."""
        return columns if self.fields is None else ScopedColumns(columns, self.fields)

    def only(self, columns: Mapping[str, Column]) -> Condition:
        """The rows that exist for the token. ``columns`` are all of the version's."""
        return ALWAYS if self.row_filter is None else compile_filter(self.row_filter, columns)
