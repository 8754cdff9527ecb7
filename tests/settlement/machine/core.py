"""The machine's frame: run a step, compare every answer and every row with the shadow's."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice, permutations
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from market.kernel.context import Kernel
from market.kernel.errors import Unavailable
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Applied, Command, Refused, Result, Transfer
from settlement.writer import LedgerWriter
from tests.settlement.machine.commands import CURRENCIES, PARTIES, Names
from tests.settlement.machine.dice import SEED_MAX, Dice
from tests.settlement.machine.world import LedgerWorld, Row
from tests.settlement.shadow import KEY_REUSED, Shadow, Tables

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., None])
Via = str
VIAS: tuple[Via, ...] = ("post", "writer")
# Of n transactions at once n! orders are possible; more than these are not searched.
ORDERS_MAX = 720
RESENDS_MAX = 5

# What a thief with the superuser's password might do; the verifier must find each.
TAMPERINGS = (
    "UPDATE settlement.posting SET amount = amount * 2, balance = balance + amount "
    "WHERE (account_id, seq) = (SELECT account_id, seq FROM settlement.posting LIMIT 1)",
    "UPDATE settlement.posting SET transfer_id = gen_random_uuid() "
    "WHERE (account_id, seq) = (SELECT account_id, seq FROM settlement.posting LIMIT 1)",
    "UPDATE settlement.account SET posted = posted + 1 "
    "WHERE id = (SELECT account_id FROM settlement.posting LIMIT 1)",
    "UPDATE settlement.account SET held = held + 1 WHERE kind = 'clearing' AND currency = 'CNY'",
    "UPDATE settlement.transfer SET event_at = event_at + interval '1 second' "
    "WHERE id = (SELECT id FROM settlement.transfer LIMIT 1)",
    "UPDATE settlement.command SET body_hash = sha256('x') "
    "WHERE key = (SELECT key FROM settlement.command LIMIT 1)",
    "DELETE FROM settlement.command WHERE key = (SELECT key FROM settlement.command LIMIT 1)",
    "UPDATE settlement.hold SET expires_at = expires_at + interval '1 day' "
    "WHERE id = (SELECT id FROM settlement.hold LIMIT 1)",
    "UPDATE settlement.hold_resolution SET outcome = 'voided', captured = 0 "
    "WHERE hold_id = (SELECT hold_id FROM settlement.hold_resolution "
    "WHERE outcome = 'captured' LIMIT 1)",
    "UPDATE settlement.batch SET booked_at = booked_at - interval '1 second' "
    "WHERE id = (SELECT id FROM settlement.batch LIMIT 1)",
    "UPDATE settlement.chain_link SET hash = sha256('x') WHERE number = 1",
)

STEPS: dict[str, dict[str, st.SearchStrategy[Any]]] = {}


def step(**strategies: st.SearchStrategy[Any]) -> Callable[[F], F]:
    """What Hypothesis calls a rule. Its own choice between rules is so uneven (by design: swarm
    testing) that one rule can make up most of a run; here each step is as likely as any other.
    """

    def register(function: F) -> F:
        STEPS[function.__name__] = strategies
        return function

    return register


class MachineCore(RuleBasedStateMachine):
    """``world`` and ``runner`` are set by the test; each example begins with an empty ledger."""

    world: ClassVar[LedgerWorld]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.shadow = Shadow()
        self.names = Names()
        self.writer = LedgerWriter(self.world.direct)
        self.wired_writer = LedgerWriter(self.world.wired)
        self._tampering = ""
        self._steps: list[str] = []
        self._failed = False
        self.run(self._open())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end on the machine's loop."""
        return self.runner.run(work)

    async def _open(self) -> None:
        await self.world.reset()
        await self.writer.__aenter__()
        await self.wired_writer.__aenter__()

    @initialize(tampering=st.sampled_from(TAMPERINGS), amounts=st.lists(st.integers(1, 900)))
    def fund(self, tampering: str, amounts: Sequence[int]) -> None:
        """Some parties have money; remember how the example will end."""
        self._tampering = tampering
        funds: list[Command] = []
        for party, amount in zip(PARTIES[:3], [*amounts, 400, 300, 200], strict=False):
            for currency in CURRENCIES:
                legs = (
                    (AccountRef(AccountKind.CLEARING, None, currency), -amount),
                    (AccountRef(AccountKind.AVAILABLE, party, currency), amount),
                )
                funds.append(Transfer(self.names.key(), "top_up", legs))
        self.run(self.in_order(funds))

    def teardown(self) -> None:
        """The ledger proves itself; then one row is changed and the proof must fail."""
        self.run(self.writer.__aexit__(None, None, None))
        self.run(self.wired_writer.__aexit__(None, None, None))
        if self._failed:
            return
        with self._noticing(f"the end, {self._tampering}"):
            self.world.tally.examples += 1
            report = self.run(self.world.verified())
            assert report.findings == []
            if self.run(self.world.tamper(self._tampering)):
                report = self.run(self.world.verified())
                assert report.findings, f"not detected: {self._tampering}"

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        """Any step. Nothing is drawn that depends on what the ledger did (see ``dice``)."""
        # Hypothesis likes to repeat a number: the same one means another choice at another step.
        seed = f"{data.draw(st.integers(0, SEED_MAX))}:{len(self._steps)}"
        name = Dice(f"step {seed}").one(sorted(STEPS))
        arguments = {argument: data.draw(strategy) for argument, strategy in STEPS[name].items()}
        with self._noticing(f"{name}(Dice({seed!r}), **{arguments})"):
            getattr(self, name)(Dice(seed), **arguments)

    @contextmanager
    def _noticing(self, what: str) -> Iterator[None]:
        """Keep a failure where Hypothesis cannot lose it when it fails to repeat it."""
        self._steps.append(what)
        try:
            yield
        except Exception:
            self._failed = True
            steps = "\n".join(self._steps)
            self.world.tally.failures.append(f"{traceback.format_exc()}after the steps\n{steps}")
            raise

    def begin(self, rule_name: str) -> None:
        """The first line of every rule."""
        self.world.tally.rule(rule_name)

    @invariant()
    def rows_are_the_shadows(self) -> None:
        """Every table equals the shadow's, and no invariant is broken in SQL."""
        with self._noticing("compared"):
            differences = unlike(self.shadow.tables(), self.run(self.world.observe()))
            assert not differences, differences
            violations = self.run(self.world.violations())
            assert not violations, violations

    async def ask(
        self, command: Command, via: Via, kernel: Kernel | None = None
    ) -> Result | Unavailable:
        """One attempt by a client; an outcome that it cannot know is an Unavailable."""
        try:
            if via == "writer":
                writer = self.wired_writer if self.world.proxy.armed else self.writer
                return await writer.submit(command)
            async with (kernel or self.world.kernel).unit_of_work() as uow:
                (result,) = await ledger.post(uow, [command])
        except Unavailable as error:
            return error
        return result

    async def submit(self, command: Command, via: Via) -> Result:
        """An attempt without any fault: it must be answered, and as the shadow says."""
        reply = await self.ask(command, via)
        assert not isinstance(reply, Unavailable), reply
        await self.absorb(command, reply)
        return reply

    async def in_order(self, listed: Sequence[Command]) -> None:
        """Commands in one unit of work, without any fault."""
        async with self.world.kernel.unit_of_work() as uow:
            replies = await ledger.post(uow, listed)
        for command, reply in zip(listed, replies, strict=True):
            await self.absorb(command, reply)

    async def insist(self, command: Command, *, booked: bool | None = None) -> Result:
        """Ask again after an unknown outcome: the key must tell the truth.

        ``booked`` is what the test knows of the first attempt.
        """
        self.world.tally.unknown += 1
        before = await self.world.row(command.key)
        if booked is not None:
            assert (before is not None) is booked
        for _ in range(RESENDS_MAX):
            reply = await self.ask(command, "post")
            if not isinstance(reply, Unavailable):
                break
            # The first attempt's transaction may end only now: 503, come again.
        assert not isinstance(reply, Unavailable), reply
        if before is not None:
            assert reply.replayed or is_reuse(reply)
        await self.absorb(command, reply, unsure=True)
        return reply

    async def absorb(
        self,
        command: Command,
        reply: Result,
        *,
        unsure: bool = False,
        linked: frozenset[str] | None = None,
    ) -> None:
        """Check an answer against the shadow, then let the shadow book it.

        ``unsure``: an earlier attempt may have booked it, so the answer may be a replay.
        ``linked``: why it must be refused as a member of a group.
        """
        row = await self.world.row(command.key)
        known = self.shadow.find(command.key)
        expected = self.shadow.expect(command, row.at if row else await self.world.now())
        self.world.tally.commands += 1
        self.world.tally.refused += isinstance(reply, Refused)
        self.world.tally.replayed += reply.replayed
        if known is not None or expected.reasons == KEY_REUSED:
            check_again(self.shadow, command, reply)
            return
        assert row is not None, f"answered but not booked: {reply}"
        assert unsure or not reply.replayed
        check_reply(reply, row)
        why_not = mismatch(self.shadow, command, row, linked)
        assert why_not is None, why_not
        if isinstance(reply, Applied):
            assert reply.hold_id == expected.hold_id
        self.shadow.book(command, row.at, row.code, row.transfer_id)

    async def absorb_together(
        self, replies: Sequence[tuple[Command, Result]], *, unsure: bool = False
    ) -> None:
        """Check answers that were given at once: some serial order must explain all of them."""
        bodies: dict[str, Command] = {}
        for command, reply in replies:
            self.world.tally.commands += 1
            known = self.shadow.find(command.key)
            if known is not None:
                check_again(self.shadow, command, reply)
            elif not is_reuse(reply):
                assert bodies.setdefault(command.key, command) == command, "two bodies, one key"
        rows = await self.world.rows(list(bodies))
        assert {row.key for row in rows} == set(bodies), "answered but not booked"
        by_key = {row.key: row for row in rows}
        firsts = [
            reply.key
            for command, reply in replies
            if not reply.replayed and bodies.get(command.key) == command
        ]
        assert len(set(firsts)) == len(firsts), "booked twice"
        assert unsure or set(firsts) == set(bodies), "replayed, but never booked before"
        for command, reply in replies:
            if self.shadow.find(command.key) is None:
                if bodies.get(command.key) == command:
                    check_reply(reply, by_key[command.key])
                else:
                    assert is_reuse(reply), reply
        observed = await self.world.observe()
        batches = [
            [(bodies[row.key], row) for row in batch]
            for _, batch in groupby(rows, key=lambda row: row.number)
        ]
        for tried, order in enumerate(islice(permutations(batches), ORDERS_MAX)):
            found = replay(self.shadow, [item for batch in order for item in batch], observed)
            if found is not None:
                self.shadow = found
                self.world.tally.reordered += tried > 0
                return
        raise AssertionError(f"no serial order explains {rows} {replies}")


def is_reuse(reply: Result) -> bool:
    """Whether the key was used for another command."""
    return isinstance(reply, Refused) and reply.code in KEY_REUSED


def check_reply(reply: Result, row: Row) -> None:
    """The client was told what the ledger keeps."""
    if isinstance(reply, Applied):
        assert (row.code, row.transfer_id) == (None, reply.transfer_id)
    else:
        assert row.code == reply.code


def check_again(shadow: Shadow, command: Command, reply: Result) -> None:
    """The answer to a key that the shadow knows already."""
    known = shadow.find(command.key)
    assert known is not None
    if known.command != command:
        assert is_reuse(reply), f"{reply} for another command under the key of {known}"
        return
    assert reply.replayed
    if isinstance(reply, Applied):
        assert (known.code, known.transfer_id) == (None, reply.transfer_id)
    else:
        assert known.code == reply.code


def mismatch(
    shadow: Shadow, command: Command, row: Row, linked: frozenset[str] | None = None
) -> str | None:
    """Why the shadow would have decided otherwise than the ledger did."""
    expected = shadow.expect(command, row.at)
    if linked is not None:
        expected = expected._replace(reasons=linked)
    if row.code is not None:
        if row.code in expected.reasons:
            return None
        return f"{command} was refused as {row.code}, the shadow says {expected}"
    if expected.reasons:
        return f"{command} was done, the shadow says {expected}"
    if expected.moves_money != (row.transfer_id is not None):
        return f"{command} moved money wrongly: {row}"
    return None


def replay(shadow: Shadow, order: Iterable[tuple[Command, Row]], observed: Tables) -> Shadow | None:
    """The shadow after ``order``, if that explains every decision and every row."""
    fork = shadow.fork()
    for command, row in order:
        if mismatch(fork, command, row) is not None:
            return None
        fork.book(command, row.at, row.code, row.transfer_id)
    return None if unlike(fork.tables(), observed) else fork


def unlike(expected: Tables, observed: Tables) -> list[str]:
    """The rows in which two states of the tables differ."""
    differences = []
    for name, mine, theirs in zip(Tables._fields, expected, observed, strict=True):
        if mine != theirs:
            missing = _items(mine) - _items(theirs)
            excess = _items(theirs) - _items(mine)
            differences.append(f"{name}: missing {missing}, not expected {excess}")
    return differences


def _items(rows: Any) -> set[Any]:
    return set(rows.items()) if isinstance(rows, dict) else set(rows)
