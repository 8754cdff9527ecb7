"""Columns that the tables of settlement share."""

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Integer, String, Text, Uuid

# ISO 4217 for "no currency": keys need a value where a case concerns none.
NO_CURRENCY = "XXX"


def uuid_column(*, primary_key: bool = False, nullable: bool = False) -> Any:
    """A UUID."""
    return Column(Uuid(), primary_key=primary_key, nullable=nullable)


def text_column(*, primary_key: bool = False, nullable: bool = False) -> Any:
    """Text of any length."""
    return Column(Text, primary_key=primary_key, nullable=nullable)


def minor_column(*, nullable: bool = False) -> Any:
    """Signed minor units."""
    return Column(BigInteger, nullable=nullable)


def count_column() -> Any:
    """A whole number."""
    return Column(Integer, nullable=False)


def moment_column(*, nullable: bool = False) -> Any:
    """A time with zone."""
    return Column(DateTime(timezone=True), nullable=nullable)


def currency_column(*, primary_key: bool = False) -> Any:
    """An ISO 4217 code."""
    return Column(String(3), primary_key=primary_key, nullable=False)
