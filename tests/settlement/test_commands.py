"""Commands: what has no meaning cannot be made; equal commands hash equally, others never."""

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest

from market.kernel.money import MAX_MINOR
from settlement.accounts import AccountKind, AccountRef, account_id
from settlement.commands import Capture, Command, Expire, Hold, Transfer, Void, body_hash

A = AccountRef("available", UUID(int=1), "CNY")
B = AccountRef("available", UUID(int=2), "CNY")
USD = AccountRef("available", UUID(int=1), "USD")
USD_B = AccountRef("available", UUID(int=2), "USD")
LATER = datetime(2030, 1, 1, tzinfo=UTC)
H = UUID(int=9)

BAD: list[Callable[[], object]] = [
    lambda: Transfer("", "sale", ((A, -1), (B, 1))),
    lambda: Transfer("k\n", "sale", ((A, -1), (B, 1))),
    lambda: Transfer("k" * 201, "sale", ((A, -1), (B, 1))),
    lambda: Transfer("k", "Sale!", ((A, -1), (B, 1))),
    lambda: Transfer("k", "sale", ()),
    lambda: Transfer("k", "sale", ((A, 1),)),
    lambda: Transfer("k", "sale", ((A, -1), (B, 2))),
    lambda: Transfer("k", "sale", ((A, 0), (B, 0))),
    lambda: Transfer("k", "sale", ((A, -1), (A, 1))),
    lambda: Transfer("k", "sale", ((A, -1), (USD, 1))),
    lambda: Transfer("k", "sale", ((A, -MAX_MINOR - 1), (B, MAX_MINOR + 1))),
    lambda: Transfer("k", "sale", ((A, -1.0), (B, 1.0))),  # type: ignore[arg-type]
    lambda: Transfer("k", "sale", ((A, -True), (B, True))),
    lambda: Transfer("k", "sale", ((A, -1), (B, 1)), event_at=datetime(2030, 1, 1)),  # noqa: DTZ001
    lambda: Hold("k", H, A, 0, LATER),
    lambda: Hold("k", H, A, -5, LATER),
    lambda: Hold("k", H, A, 5, datetime(2030, 1, 1)),  # noqa: DTZ001
    lambda: Capture("k", H, "sale", ()),
    lambda: Capture("k", H, "sale", ((A, 0),)),
    lambda: Capture("k", H, "sale", ((A, 1), (A, 1))),
    lambda: Capture("k", H, "sale", ((A, 1),), rehold=5),
    lambda: Capture("k", H, "sale", ((A, 1),), rehold_id=UUID(int=8)),
    lambda: Capture("k", H, "sale", ((A, 1),), rehold=-1, rehold_id=UUID(int=8)),
    lambda: Void(" ", H),
    lambda: Expire("", H),
    lambda: AccountRef("available", None, "CNY"),
    lambda: AccountRef("fees", UUID(int=1), "CNY"),
    lambda: AccountRef("savings", UUID(int=1), "CNY"),
    lambda: AccountRef("fees", None, "YUAN"),
]


@pytest.mark.parametrize("make", BAD)
def test_malformed_commands_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        make()


def test_several_currencies_each_sum_to_zero() -> None:
    legs = ((A, -700), (B, 700), (USD, 100), (USD_B, -100))
    assert Transfer("fx", "exchange", legs).legs == legs


DISTINCT: list[Command] = [
    Transfer("k", "sale", ((A, -1), (B, 1))),
    Transfer("k", "sale", ((A, -2), (B, 2))),
    Transfer("k", "gift", ((A, -1), (B, 1))),
    Transfer("k", "sale", ((A, -1), (B, 1)), memo_id=H),
    Transfer("k", "sale", ((A, -1), (B, 1)), event_at=LATER),
    Transfer("k", "sale", ((A, -1), (B, 1)), reverses=H),
    Hold("k", H, A, 1, LATER),
    Hold("k", H, A, 2, LATER),
    Hold("k", H, B, 1, LATER),
    Hold("k", H, A, 1, LATER, memo_id=H),
    Capture("k", H, "sale", ((B, 1),)),
    Capture("k", H, "sale", ((B, 1),), memo_id=H),
    Capture("k", H, "sale", ((B, 1),), rehold=1, rehold_id=UUID(int=8)),
    Void("k", H),
    Void("k", UUID(int=8)),
    Expire("k", H),
]


def test_every_part_of_a_command_counts_for_its_hash_but_the_key() -> None:
    assert len({body_hash(command) for command in DISTINCT}) == len(DISTINCT)
    assert body_hash(Void("one", H)) == body_hash(Void("two", H))


def test_account_ids_are_the_same_in_every_process() -> None:
    party = UUID("0190f3a1-b2c3-7d4e-8f90-a1b2c3d4e5f6")
    assert account_id(AccountKind.AVAILABLE, party, "CNY") == account_id("available", party, "CNY")
    assert AccountRef("fees", None, "CNY").id == UUID("69719cf4-c2c1-5914-a24c-f9ad98732660")
