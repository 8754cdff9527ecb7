"""The ledger's decisions against a naive model, command by command (invariants 1 to 9).

The machine keeps the books as the database would: by applying what ``decide`` says, never by
looking inside it. The model knows only sums and sets.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from market.kernel.ids import new_id
from settlement.accounts import AccountRef
from settlement.chain import Entry
from settlement.commands import (
    Applied,
    Capture,
    Command,
    Expire,
    Hold,
    Refused,
    Result,
    Transfer,
    Void,
    body_hash,
)
from settlement.rules import (
    BALANCE_MAX,
    AccountState,
    Books,
    HoldState,
    Memory,
    PastTransfer,
    decide,
)

CURRENCIES = ("CNY", "USD")
PARTIES = [AccountRef("available", UUID(int=n), c) for n in (1, 2, 3) for c in CURRENCIES]
CLEARING = {c: AccountRef("clearing", None, c) for c in CURRENCIES}
ALL = [*PARTIES, *CLEARING.values()]
START = datetime(2026, 1, 1, tzinfo=UTC)

refs = st.sampled_from(ALL)
parties = st.sampled_from(PARTIES)
amounts = st.integers(1, 300)
places = st.integers(0, 5)


@dataclass
class Ledger:
    """What a database would hold."""

    accounts: dict[UUID, AccountState] = field(
        default_factory=lambda: {ref.id: AccountState(ref) for ref in ALL}
    )
    holds: dict[UUID, HoldState] = field(default_factory=dict)
    transfers: dict[UUID, PastTransfer] = field(default_factory=dict)
    memory: dict[str, Memory] = field(default_factory=dict)
    sums: Counter[UUID] = field(default_factory=Counter)
    seqs: Counter[UUID] = field(default_factory=Counter)
    last: dict[UUID, int] = field(default_factory=dict)

    def post(self, commands: list[Command], now: datetime) -> list[Result]:
        books = Books(self.accounts, self.holds, self.transfers, self.memory)
        before = {key: value.copy() for key, value in self.accounts.items()}
        decision = decide(books, commands, now=now, new_id=new_id)
        assert self.accounts == before, "decide changed the books it was given"
        for entry in decision.entries:
            self._apply(entry)
        self.accounts |= decision.accounts
        by_key = {entry.key: entry for entry in decision.entries}
        for command, result in zip(commands, decision.results, strict=True):
            if command.key in by_key and command.key not in self.memory:
                self.memory[command.key] = Memory(body_hash(command), result)
        return decision.results

    def _apply(self, entry: Entry) -> None:
        if entry.code is not None:
            assert (entry.transfer, entry.hold, entry.resolution) == (None, None, None)
        if entry.resolution is not None:
            old = self.holds[entry.resolution.hold_id]
            assert not old.resolved, "a hold was resolved twice"
            assert entry.resolution.captured <= old.amount
            self.holds[entry.resolution.hold_id] = old._replace(resolved=True)
        if entry.hold is not None:
            row = entry.hold
            assert row.id not in self.holds
            ref = self.accounts[row.account_id].ref
            self.holds[row.id] = HoldState(ref, row.amount, row.expires_at, row.memo_id, False)
        if entry.transfer is not None:
            self._apply_transfer(entry)

    def _apply_transfer(self, entry: Entry) -> None:
        row = entry.transfer
        assert row is not None
        totals: Counter[str] = Counter()
        for posting in row.postings:
            totals[posting.currency] += posting.amount
            self.sums[posting.account_id] += posting.amount
            self.seqs[posting.account_id] += 1
            assert posting.seq == self.seqs[posting.account_id]
            assert posting.balance == self.sums[posting.account_id]
        assert set(totals.values()) == {0}
        legs = {posting.account_id: posting.amount for posting in row.postings}
        self.transfers[row.id] = PastTransfer(legs, row.reverses is not None, False)
        if row.reverses is not None:
            past = self.transfers[row.reverses]
            assert not past.reversed
            assert not past.is_reversal
            self.transfers[row.reverses] = past._replace(reversed=True)


class LedgerMachine(RuleBasedStateMachine):
    """Random commands, alone and in batches, with expiring holds and reused keys."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.now = START
        self.spendable: Counter[UUID] = Counter()
        self.open: dict[UUID, tuple[AccountRef, int, datetime]] = {}
        self.reversible: dict[UUID, tuple[tuple[AccountRef, int], ...]] = {}
        self.done: list[tuple[Command, Result]] = []
        self.hold_ids: list[UUID] = []
        self.number = 0

    def key(self) -> str:
        self.number += 1
        return f"k{self.number}"

    def run(self, *commands: Command) -> list[Result]:
        results = self.ledger.post(list(commands), self.now)
        for command, result in zip(commands, results, strict=True):
            self.done.append((command, result))
        return results

    @initialize()
    def money(self) -> None:
        for ref in PARTIES:
            legs = ((CLEARING[ref.currency], -500), (ref, 500))
            self.run(Transfer(self.key(), "top_up", legs))
            self.spendable[ref.id] += 500
            self.spendable[CLEARING[ref.currency].id] -= 500

    @rule(data=st.data())
    def transfer(self, data: st.DataObject) -> None:
        currency = data.draw(st.sampled_from(CURRENCIES))
        own = [ref for ref in ALL if ref.currency == currency]
        chosen = data.draw(st.lists(st.sampled_from(own), min_size=2, max_size=4, unique=True))
        out = data.draw(st.lists(amounts, min_size=len(chosen) - 1, max_size=len(chosen) - 1))
        legs = ((chosen[0], -sum(out)), *zip(chosen[1:], out, strict=True))
        self._expect_transfer(Transfer(self.key(), "sale", legs))

    @rule(a=amounts, b=amounts)
    def exchange(self, a: int, b: int) -> None:
        cny, usd = PARTIES[0], PARTIES[1]
        legs = (
            (cny, -a),
            (CLEARING["CNY"], a),
            (usd, b),
            (CLEARING["USD"], -b),
        )
        self._expect_transfer(Transfer(self.key(), "exchange", legs))

    def _expect_transfer(self, command: Transfer) -> None:
        short = any(
            ref.kind == "available" and self.spendable[ref.id] + amount < 0
            for ref, amount in command.legs
        )
        (result,) = self.run(command)
        if short:
            assert isinstance(result, Refused)
            assert result.code == "insufficient_funds"
            return
        assert isinstance(result, Applied)
        assert result.transfer_id is not None
        for ref, amount in command.legs:
            self.spendable[ref.id] += amount
        if command.reverses is None:
            self.reversible[result.transfer_id] = command.legs

    @rule(ref=parties, amount=amounts, seconds=st.integers(-1, 50))
    def hold(self, ref: AccountRef, amount: int, seconds: int) -> None:
        identity = new_id()
        expires = self.now + timedelta(seconds=seconds)
        (result,) = self.run(Hold(self.key(), identity, ref, amount, expires))
        if seconds <= 0:
            assert isinstance(result, Refused)
            assert result.code == "hold_expired"
        elif amount > self.spendable[ref.id]:
            assert isinstance(result, Refused)
            assert result.code == "insufficient_funds"
        else:
            assert result == Applied(result.key, hold_id=identity)
            self.spendable[ref.id] -= amount
            self.open[identity] = (ref, amount, expires)
            self.hold_ids.append(identity)

    @rule(place=places, payee=refs, paid=amounts, again=st.integers(0, 200))
    def capture(self, place: int, payee: AccountRef, paid: int, again: int) -> None:
        if not self.hold_ids:
            return
        identity = self.hold_ids[-1 - place % len(self.hold_ids)]
        kept = new_id() if again else None
        command = Capture(
            self.key(), identity, "sale", ((payee, paid),), rehold=again, rehold_id=kept
        )
        known = self.open.get(identity)
        (result,) = self.run(command)
        code = self._why_not(known, payee, paid + again)
        if code is not None:
            assert isinstance(result, Refused)
            assert result.code == code
            return
        assert known is not None
        assert isinstance(result, Applied)
        ref, amount, expires = self.open.pop(identity)
        self.spendable[ref.id] += amount - paid - again
        self.spendable[payee.id] += paid
        if kept is not None:
            self.open[kept] = (ref, again, expires)
            self.hold_ids.append(kept)

    def _why_not(
        self, known: tuple[AccountRef, int, datetime] | None, target: AccountRef, needed: int
    ) -> str | None:
        if known is None:
            return "hold_resolved"
        ref, amount, expires = known
        if expires <= self.now:
            return "hold_expired"
        if needed > amount:
            return "capture_exceeds_hold"
        if target.currency != ref.currency:
            return "currency_mismatch"
        return "capture_to_itself" if target == ref else None

    @rule(place=places, expire=st.booleans())
    def free(self, place: int, expire: bool) -> None:
        if not self.hold_ids:
            return
        identity = self.hold_ids[-1 - place % len(self.hold_ids)]
        known = self.open.get(identity)
        command = Expire(self.key(), identity) if expire else Void(self.key(), identity)
        (result,) = self.run(command)
        if known is None:
            assert isinstance(result, Refused)
            assert result.code == "hold_resolved"
        elif expire and known[2] > self.now:
            assert isinstance(result, Refused)
            assert result.code == "hold_not_expired"
        else:
            assert result == Applied(result.key)
            ref, amount, _ = self.open.pop(identity)
            self.spendable[ref.id] += amount

    @rule(place=places)
    def reverse(self, place: int) -> None:
        if not self.reversible:
            return
        identity = list(self.reversible)[-1 - place % len(self.reversible)]
        legs = tuple((ref, -amount) for ref, amount in self.reversible[identity])
        command = Transfer(self.key(), "reversal", legs, reverses=identity)
        short = any(
            ref.kind == "available" and amount < 0 and self.spendable[ref.id] + amount < 0
            for ref, amount in legs
        )
        (result,) = self.run(command)
        if short:
            assert isinstance(result, Refused)
            return
        assert isinstance(result, Applied)
        for ref, amount in legs:
            self.spendable[ref.id] += amount
        del self.reversible[identity]
        (second,) = self.run(Transfer(self.key(), "reversal", legs, reverses=identity))
        assert isinstance(second, Refused)
        assert second.code == "already_reversed"
        assert result.transfer_id is not None
        back = tuple((ref, -amount) for ref, amount in legs)
        (third,) = self.run(Transfer(self.key(), "reversal", back, reverses=result.transfer_id))
        assert isinstance(third, Refused)
        assert third.code == "reversal_of_reversal"

    @rule(place=places)
    def repeat(self, place: int) -> None:
        command, result = self.done[-1 - place % len(self.done)]
        (again,) = self.ledger.post([command], self.now + timedelta(days=1))
        assert again == result
        assert again.replayed

    @rule(place=places)
    def misuse_key(self, place: int) -> None:
        command, _ = self.done[-1 - place % len(self.done)]
        other = Hold(command.key, new_id(), PARTIES[0], 1, START + timedelta(days=900))
        (result,) = self.ledger.post([other], self.now)
        assert isinstance(result, Refused)
        assert result.code == "idempotency_key_reused"

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(amount=st.integers(200, 500))
    def batch_in_order(self, amount: int) -> None:
        """Later commands of one batch see what earlier ones did, and a refusal leaves no trace."""
        ref, other = PARTIES[0], PARTIES[2]
        have = self.spendable[ref.id]
        commands = [
            Transfer(self.key(), "sale", ((ref, -amount), (other, amount))) for _ in range(3)
        ]
        results = self.run(*commands)
        fits = min(3, max(0, have // amount))
        assert [isinstance(result, Applied) for result in results] == [n < fits for n in range(3)]
        self.spendable[ref.id] -= fits * amount
        self.spendable[other.id] += fits * amount
        for command, result in zip(commands, results, strict=True):
            if isinstance(result, Applied) and result.transfer_id is not None:
                self.reversible[result.transfer_id] = command.legs

    @invariant()
    def books_are_sound(self) -> None:
        totals: Counter[str] = Counter()
        held: Counter[UUID] = Counter()
        for state in self.ledger.holds.values():
            if not state.resolved:
                held[state.account.id] += state.amount
        for identity, account in self.ledger.accounts.items():
            totals[account.ref.currency] += account.posted
            assert account.posted == self.ledger.sums[identity]
            assert account.seq == self.ledger.seqs[identity]
            assert account.held == held[identity]
            assert account.posted - account.held == self.spendable[identity]
            if not account.ref.allow_negative:
                assert account.posted - account.held >= 0
        assert set(totals.values()) == {0}


LedgerMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLedger = LedgerMachine.TestCase


def _books(**posted: int) -> Books:
    states = {ref.id: AccountState(ref, posted.get("all", 0)) for ref in ALL}
    return Books(states)


def _decide(books: Books, *commands: Command, now: datetime = START) -> list[Any]:
    return decide(books, commands, now=now, new_id=new_id).results


def test_same_key_twice_in_one_batch_is_one_effect() -> None:
    books = _books(all=100)
    command = Transfer("k", "sale", ((PARTIES[0], -60), (PARTIES[2], 60)))
    other = Transfer("k", "sale", ((PARTIES[0], -1), (PARTIES[2], 1)))
    decision = decide(books, [command, command, other], now=START, new_id=new_id)
    assert decision.results[0] == decision.results[1]
    assert decision.results[1].replayed
    assert decision.results[2].code == "idempotency_key_reused"  # type: ignore[union-attr]
    assert len(decision.entries) == 1
    assert decision.accounts[PARTIES[0].id].posted == 40


def test_balances_never_pass_what_the_ledger_can_count() -> None:
    states = {ref.id: AccountState(ref, BALANCE_MAX) for ref in ALL}
    (result,) = _decide(Books(states), Transfer("k", "x", ((CLEARING["CNY"], -1), (PARTIES[0], 1))))
    assert result.code == "balance_limit"
    limit = Hold("h", new_id(), CLEARING["CNY"], 1, START + timedelta(1))
    states[CLEARING["CNY"].id].held = BALANCE_MAX
    (result,) = _decide(Books(states), limit)
    assert result.code == "balance_limit"


def test_a_taken_hold_id_is_refused_also_for_the_rest_of_a_capture() -> None:
    taken, mine = new_id(), new_id()
    later = START + timedelta(1)
    results = _decide(
        _books(all=100),
        Hold("a", taken, PARTIES[0], 10, later),
        Hold("b", taken, PARTIES[2], 10, later),
        Hold("c", mine, PARTIES[0], 10, later),
        Capture("d", mine, "sale", ((PARTIES[2], 5),), rehold=5, rehold_id=taken),
        Void("e", new_id()),
    )
    assert [getattr(result, "code", None) for result in results] == [
        None,
        "hold_exists",
        None,
        "hold_exists",
        "hold_not_found",
    ]


def test_a_hold_resolves_once_within_one_batch_too() -> None:
    voided, captured = new_id(), new_id()
    later = START + timedelta(1)
    pay = ((PARTIES[2], 5),)
    books = _books(all=100)
    decision = decide(
        books,
        [
            Hold("a", voided, PARTIES[0], 10, later),
            Void("b", voided),
            Void("c", voided),
            Capture("d", voided, "sale", pay),
            Hold("e", captured, PARTIES[0], 10, later),
            Capture("f", captured, "sale", pay),
            Capture("g", captured, "sale", pay),
            Expire("h", captured),
        ],
        now=START,
        new_id=new_id,
    )
    codes = [getattr(result, "code", None) for result in decision.results]
    late = "hold_resolved"
    assert codes == [None, None, late, late, None, None, late, late]
    assert decision.accounts[PARTIES[0].id].posted == 95
    assert decision.accounts[PARTIES[0].id].held == 0


def test_a_reversal_must_mirror_every_leg() -> None:
    past = new_id()
    books = _books(all=100)
    books.transfers = {past: PastTransfer({PARTIES[0].id: -60, PARTIES[2].id: 60}, False, False)}
    results = _decide(
        books,
        Transfer("a", "reversal", ((PARTIES[0], 59), (PARTIES[2], -59)), reverses=past),
        Transfer("b", "reversal", ((PARTIES[0], 60), (PARTIES[2], -60)), reverses=new_id()),
        Transfer("c", "reversal", ((PARTIES[0], 60), (PARTIES[2], -60)), reverses=past),
        Transfer("d", "reversal", ((PARTIES[0], 60), (PARTIES[2], -60)), reverses=past),
    )
    assert [getattr(result, "code", None) for result in results] == [
        "reversal_mismatch",
        "transfer_not_found",
        None,
        "already_reversed",
    ]
