"""The rules of the exchange that every organization accepts at sign-up (pure).

A new version is a new entry at the end; what was accepted stays on record with its version
(``parties.rules_acceptance``).
"""

from dataclasses import dataclass
from datetime import date
from typing import Final


@dataclass(frozen=True, slots=True)
class Clause:
    """One rule in both languages; ``number`` is how rulings cite it."""

    number: str
    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class Rules:
    """One version of the rules; ``version`` is its date."""

    version: str
    effective_on: date
    clauses: tuple[Clause, ...]


_FIRST: Final = Rules(
    version="2026-11-01",
    effective_on=date(2026, 11, 1),
    clauses=(
        Clause(
            "1",
            "Sellers state the source of their data and hold the right to offer it.",
            "卖方说明数据来源，并有权提供该数据。",
        ),
        Clause(
            "2",
            "Every organization is identified before it trades, and keeps its data current.",
            "各机构在交易前完成身份核验，并及时更新其资料。",
        ),
        Clause(
            "3",
            "Data is used only as the agreement's policy allows.",
            "数据仅可按合同所附策略使用。",
        ),
        Clause(
            "4",
            "Payment stays in escrow until use or acceptance; a dispute freezes what is left.",
            "款项在使用或验收前由平台托管；发生争议时冻结余额。",
        ),
        Clause(
            "5",
            "Disputes are decided by arbiters of the exchange; both sides may appeal once.",
            "争议由平台仲裁员裁决；双方各可申诉一次。",
        ),
        Clause(
            "6",
            "Trading with oneself or within one group of affiliates is forbidden.",
            "禁止与自身或同一关联集团内部进行交易。",
        ),
    ),
)

VERSIONS: Final[tuple[Rules, ...]] = (_FIRST,)


def current_rules() -> Rules:
    """The version that a sign-up has to accept today."""
    return VERSIONS[-1]
