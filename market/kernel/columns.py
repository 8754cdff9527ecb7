"""Columns of tables, not null unless said: one spelling for every package's models."""

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary, String, Text, Uuid
from sqlalchemy.sql.schema import SchemaItem


def uuid_column(*constraints: SchemaItem, primary_key: bool = False, nullable: bool = False) -> Any:
    """A UUID, perhaps a foreign key."""
    return Column(Uuid(), *constraints, primary_key=primary_key, nullable=nullable)


def text_column(*, primary_key: bool = False, nullable: bool = False) -> Any:
    """Text of any length."""
    return Column(Text, primary_key=primary_key, nullable=nullable)


def bigint_column(*, nullable: bool = False, **options: Any) -> Any:
    """64 bits, signed: minor units, lots, sequence numbers. ``options`` are Column's."""
    return Column(BigInteger, nullable=nullable, **options)


def integer_column(*, primary_key: bool = False, nullable: bool = False) -> Any:
    """A count of few things."""
    return Column(Integer, primary_key=primary_key, nullable=nullable)


def bytes_column(*, nullable: bool = False) -> Any:
    """Octets."""
    return Column(LargeBinary, nullable=nullable)


def moment_column(*, nullable: bool = False) -> Any:
    """A time with zone."""
    return Column(DateTime(timezone=True), nullable=nullable)


def currency_column(*, primary_key: bool = False) -> Any:
    """An ISO 4217 code."""
    return Column(String(3), primary_key=primary_key, nullable=False)
