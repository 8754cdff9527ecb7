"""A page of rows on its way out: its body, how it is sent, what is on record about it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from contracts.delivery.coding import Coded, decoding
from contracts.delivery.formats import MEDIA_TYPES, Format
from contracts.delivery.questions import Question
from contracts.delivery.response import Finish, MeteredResponse
from contracts.metering_asked import Asked

# What other answers to the same address depend on.
VARY = "Accept, Accept-Encoding"


class Page(NamedTuple):
    """``body`` is what is charged and signed; ``coded`` what is sent in its place, if anything."""

    body: bytes
    body_sha256: str
    rows: int
    format: Format
    next_after: str | None
    query_sha256: str
    asked: Asked
    coded: Coded | None = None


def unanswered(question: Question) -> Page:
    """What is known before there is an answer."""
    nothing = hashlib.sha256().hexdigest()
    told = question.told(None)
    return Page(b"", nothing, 0, question.format, None, question.query_sha256, told)


def respond(
    page: Page, headers: dict[str, str], *, deadline_s: float, finish: Finish
) -> MeteredResponse:
    """Sends the page; ``finish`` is told bytes of the body."""
    headers["Vary"] = VARY
    body = page.body
    if page.coded is not None:
        headers["Content-Encoding"] = page.coded.coding.value
        body, finish = page.coded.data, decoding(page.coded, finish)
    return MeteredResponse(
        body,
        media_type=MEDIA_TYPES[page.format],
        headers=headers,
        deadline_s=deadline_s,
        finish=finish,
    )
