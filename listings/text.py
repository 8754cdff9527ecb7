"""Search terms of English and Chinese text. Pure.

Postgres segments English (stemmed by its `english` configuration). Chinese has no spaces, and
its parser would keep a whole run as one word, so runs are segmented here: dictionary words
(jieba) rank well, and all two-character pieces (bigrams) make every substring of two characters
or more findable: 交通 finds 交通运行.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import rjieba

# CJK unified ideographs with extension A and the supplementary planes.
_HAN_RUN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af]+")
# Beyond this a lexeme's position is not stored anyway (Postgres keeps positions below 16,384).
TOKENS_MAX = 8_000
QUERY_TERMS_MAX = 32


@dataclass(frozen=True, slots=True)
class Terms:
    """``latin`` goes to Postgres as text, ``han`` is segmented already."""

    latin: str
    han: tuple[str, ...]


def normalize(text: str) -> str:
    """Full-width forms, ligatures and case do not matter (NFKC, case folded)."""
    return unicodedata.normalize("NFKC", text).casefold()


def _bigrams(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]


def document_terms(texts: Sequence[str | None]) -> Terms:
    """The terms of a document field made of several texts."""
    folded = normalize(" \n ".join(text for text in texts if text))
    tokens: dict[str, None] = {}
    for run in _HAN_RUN.findall(folded):
        # The last character alone: no bigram starts with it, and one-character queries match
        # the beginnings of terms.
        for token in (*rjieba.cut_for_search(run), *_bigrams(run), run[-1]):
            tokens[token] = None
    return Terms(_HAN_RUN.sub(" ", folded), tuple(tokens)[:TOKENS_MAX])


def vector_literal(fields: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A tsvector literal of Chinese tokens, from (weight, tokens) pairs."""
    parts: list[str] = []
    for weight, tokens in fields:
        parts += [f"'{token}':{len(parts) + at + 1}{weight}" for at, token in enumerate(tokens)]
    return " ".join(parts[:TOKENS_MAX])


def query_terms(text: str) -> Terms:
    """The terms of a query; ``han`` holds tsquery expressions that must all match."""
    folded = normalize(text)
    expressions: dict[str, None] = {}
    for run in _HAN_RUN.findall(folded):
        for expression in _run_expressions(run):
            expressions[expression] = None
    return Terms(_HAN_RUN.sub(" ", folded).strip(), tuple(expressions)[:QUERY_TERMS_MAX])


def _run_expressions(run: str) -> list[str]:
    if len(run) == 1:
        return [f"'{run}':*"]
    # One-character words in between are particles; the words around them carry the meaning.
    words = [word for word in rjieba.cut(run) if len(word) > 1] or [run]
    return [f"'{part}'" for word in words for part in _parts(word)]


def _parts(word: str) -> list[str]:
    """The shorter words that a compound consists of, else its bigrams."""
    shorter = [part for part in rjieba.cut_for_search(word) if 1 < len(part) < len(word)]
    return shorter if "".join(shorter) == word else _bigrams(word)


def query_literal(terms: Terms) -> str:
    """The tsquery literal of the Chinese terms; empty without any."""
    return " & ".join(terms.han)
