"""What a verification has read, found and left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from settlement.chain import GENESIS_HASH

# Enough to see the extent of damage; a broken ledger must not fill memory with findings.
FINDINGS_MAX = 20

Progress: TypeAlias = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken fact: which check, in which table, which row, and what is wrong with it."""

    check: str
    table: str
    row: str
    detail: str


@dataclass(slots=True)
class Report:
    """What was read and what is wrong. ``ok`` when nothing is; ``skipped`` was not looked at."""

    links: int = 0
    commands: int = 0
    transfers: int = 0
    postings: int = 0
    accounts: int = 0
    checkpoints: int = 0
    since: int = 0
    head_number: int = 0
    head_hash: str = GENESIS_HASH.hex()
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def add(self, check: str, table: str, row: object, detail: str) -> None:
        """Note a finding, up to FINDINGS_MAX."""
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(check, table, str(row), detail))
