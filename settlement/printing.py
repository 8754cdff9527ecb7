"""Invoices and monthly statements as CSV and as HTML to print. Pure.

HTML has no outside asset and no script; everything that a party wrote is escaped by Jinja. In CSV,
text that a spreadsheet would run as a formula gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, Final
from uuid import UUID

from fastapi import Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from market.kernel.ids import show
from market.kernel.money import display
from settlement.billing_schemas import InvoiceView, MonthlyStatement
from settlement.printed_words import KINDS, WORDS

# The style is in the page itself; nothing is fetched and nothing runs.
CONTENT_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Form(StrEnum):
    """How a document is sent."""

    JSON = "json"
    CSV = "csv"
    HTML = "html"


class PrintLanguage(StrEnum):
    """What a document is printed in."""

    EN = "en"
    ZH = "zh"


INVOICE_COLUMNS: Final = (
    "number",
    "kind",
    "supply",
    "issued_at",
    "issuer",
    "issuer_tax_number",
    "recipient",
    "recipient_tax_number",
    "position",
    "agreement_id",
    "item",
    "currency",
    "tax_ppm",
    "without_tax_minor",
    "tax_minor",
    "total_minor",
)
STATEMENT_COLUMNS: Final = (
    "party_id",
    "month",
    "account_id",
    "account_kind",
    "currency",
    "line",
    "postings",
    "credit_minor",
    "debit_minor",
    "net_minor",
    "balance_minor",
)


def invoice_csv(invoice: InvoiceView, language: PrintLanguage) -> bytes:
    """One row per line, each with the head; amounts are integer minor units."""
    head = (
        invoice.number,
        invoice.kind.value,
        invoice.supply.value,
        invoice.issued_at.isoformat(),
        invoice.issuer.title,
        invoice.issuer.tax_number or "",
        invoice.recipient.title,
        invoice.recipient.tax_number or "",
    )
    rows = [
        (
            *head,
            line.position,
            show("agr", line.agreement_id),
            _item(line.item.model_dump(), language),
            invoice.currency,
            line.tax_ppm,
            line.without_tax_minor,
            line.tax_minor,
            line.total_minor,
        )
        for line in invoice.lines
    ]
    return csv_table(INVOICE_COLUMNS, rows)


def statement_csv(statement: MonthlyStatement) -> bytes:
    """Per account an opening row, one row per kind of posting, and a closing row."""
    rows: list[tuple[object, ...]] = []
    for account in statement.accounts:
        head = (
            show("pty", statement.party_id),
            statement.month,
            show("acc", account.account_id),
            account.kind.value,
            account.currency,
        )
        rows.append((*head, "opening", "", "", "", "", account.opening_minor))
        balance = account.opening_minor
        for item in account.movements:
            balance += item.net_minor
            figures = (item.postings, item.credit_minor, item.debit_minor, item.net_minor)
            rows.append((*head, item.kind, *figures, balance))
        rows.append((*head, "closing", "", "", "", "", account.closing_minor))
    return csv_table(STATEMENT_COLUMNS, rows)


def invoice_html(invoice: InvoiceView, language: PrintLanguage) -> str:
    """A page to print, amounts in major units; a credit note's with a minus."""
    sign = -1 if invoice.corrects is not None else 1
    return _page("invoice.html", language, invoice=invoice, sign=sign)


def statement_html(statement: MonthlyStatement, language: PrintLanguage) -> str:
    """A page to print, amounts in major units."""
    return _page("statement.html", language, statement=statement)


def document(form: Form, *, content: bytes | str, name: str) -> Response:
    """The HTTP answer of a CSV or HTML document; never sniffed, never cached by others."""
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-store"}
    if form is Form.CSV:
        headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        return Response(content, media_type="text/csv; charset=utf-8", headers=headers)
    headers["Content-Security-Policy"] = CONTENT_POLICY
    return Response(content, media_type="text/html; charset=utf-8", headers=headers)


def percent(ppm: int) -> str:
    """``60000`` is ``6%``; no float."""
    whole, rest = divmod(ppm, 10_000)
    return f"{whole}.{rest:04d}".rstrip("0").rstrip(".") + "%"


def csv_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> bytes:
    """A CSV document: a line of names, then the rows; safe to open in a spreadsheet."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([safe_cell(value) for value in row] for row in rows)
    # Excel reads UTF-8 only behind a byte order mark.
    return ("\ufeff" + out.getvalue()).encode()


def safe_cell(value: object) -> object:
    """A value that no spreadsheet runs as a formula."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _item(item: Mapping[str, Any], language: PrintLanguage) -> str:
    return str((language is PrintLanguage.ZH and item.get("zh")) or item["en"])


def _word(language: PrintLanguage, key: str) -> str:
    return WORDS[key][language is PrintLanguage.ZH]


def _kind(language: PrintLanguage, kind: str) -> str:
    known = KINDS.get(kind)
    return kind if known is None else known[language is PrintLanguage.ZH]


def _identifier(value: UUID, prefix: str) -> str:
    return show(prefix, value)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("settlement"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "identifier": _identifier}
    made.globals |= {"money": display}
    return made


_ENVIRONMENT: Final = _environment()


def _page(template: str, language: PrintLanguage, **context: object) -> str:
    return _ENVIRONMENT.get_template(template).render(
        lang="zh-Hans" if language is PrintLanguage.ZH else "en",
        t=partial(_word, language),
        kind=partial(_kind, language),
        item=lambda value: _item(value.model_dump(), language),
        **context,
    )
