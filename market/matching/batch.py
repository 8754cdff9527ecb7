"""One batch in one unit of work: look up, admit, match, post, write. See :meth:`Batch.run`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from contracts.resale import Source
from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.idempotency import KeyReused
from market.kernel.logging import get_logger
from market.matching import (
    book_updates,
    control_answers,
    control_desk,
    interruptions,
    journal_sql,
    mass_cancel,
    record,
    resales,
    sql,
)
from market.matching.admission import Admitted, Facts, admit, gather, give_back
from market.matching.amendments import Amender
from market.matching.bundle_orders import Bundler, FilledBundle
from market.matching.bundle_views import new_bundle_json
from market.matching.call_auction import Clearing
from market.matching.call_steps import DUE_MAX
from market.matching.commands import (
    Amend,
    Cancel,
    CancelAll,
    Command,
    Control,
    Place,
    PlaceBundle,
    Reply,
    places_of,
    weight,
)
from market.matching.control_desk import ControlDesk
from market.matching.controls import Controls
from market.matching.errors import (
    BookHalted,
    EngineStalled,
    OrderClosed,
    OrderNotFound,
    OrderUnfunded,
)
from market.matching.gate import Gate
from market.matching.indicative import publish
from market.matching.makers import check_makers
from market.matching.matcher import Matcher
from market.matching.models import SHARD, CloseReason
from market.matching.postings import postings
from market.matching.shard import LiveOrder, Shard
from market.matching.sweep import ORDERS_MAX, Sweep
from market.matching.touched import Touched
from market.matching.verdicts import Fence, Reconsider, StaleLease, Verdicts
from market.matching.views import new_order_json, read_views
from settlement import ledger
from settlement.commands import Capture, Hold, Refused
from settlement.errors import error_of

if TYPE_CHECKING:
    from market.matching.sql import Connection

# Orders ended by their expires_at per batch; more wait for the next one, before any command.
EXPIRIES_MAX = 256
# Longer than the busiest batch computes between two statements: 1,000 agreements took 2 to 6 s
# on a crowded 2-core machine.
FROZEN_WRITER_S = 30
# A call auction makes all its agreements in one batch.
FROZEN_CLOSING_S = 600

_log = get_logger(__name__)


class Batch:
    """Commands of one commit. Single use: ``run`` in a unit of work, ``apply`` after COMMIT."""

    def __init__(
        self,
        kernel: Kernel,
        shard: Shard,
        fence: Fence,
        commands: Sequence[Command],
        verdicts: Verdicts,
        good_until: Mapping[int, datetime] | None = None,
        sweep: Sweep | None = None,
    ) -> None:
        self._kernel = kernel
        self._good_until = good_until
        self._sweep = sweep
        self._shard = shard
        self._fence = fence
        self._commands = commands
        self._verdicts = verdicts
        self._matcher = Matcher(shard)
        self._placed: dict[int, Touched] = {}
        self._bundler: Bundler | None = None
        self._bundles: dict[int, FilledBundle] = {}
        # Answered by reading the order again.
        self._changed: dict[int, UUID] = {}
        self._not_open: dict[int, Cancel | Amend] = {}
        self._references: dict[UUID, int] = {}
        self._indicatives: dict[UUID, Clearing | None] = {}
        self._desk: ControlDesk | None = None
        self._decided: dict[int, Control] = {}
        self._duplicates: dict[int, int] = {}
        # Instruments that have to collect for a call auction, with the reason.
        self._interrupted: dict[UUID, str] = {}
        self._books: list[journal_sql.UpdateRow] = []
        self.replies: dict[int, Reply] = {}
        self.deferred = False
        self.plan_ids: dict[UUID, None] = {}
        self._seq = self._first_seq = 0
        self._carried_out: list[int] = []

    async def run(self, uow: UnitOfWork) -> None:
        """Everything up to COMMIT; answers end up in ``replies`` by command index.

        Raises StaleLease when another writer took over, Reconsider (with new ``verdicts``) when a
        resting order turned out to be unfit to trade, and DatabaseUnavailable.
        """
        connection = await uow.raw()
        last_seq = await self._fence_off(uow, connection)
        await self._shard.load(connection, [])
        expired = self._shard.due(uow.now, EXPIRIES_MAX)
        self.deferred = len(expired) == EXPIRIES_MAX
        fresh = [] if self.deferred else self._in_time(await self._fresh(connection), uow)
        places = [place for index in fresh for place in places_of(self._commands[index])]
        facts = await gather(uow, places, self._to_amend(fresh))
        self.plan_ids.update(dict.fromkeys(facts.plans))
        await self._shard.load(connection, facts.plans)
        controls = await self._open_desk(uow, connection, fresh)
        limit = self._kernel.settings.open_orders_max
        gate = Gate(self._shard, self._matcher, controls, open_orders_max=limit)
        self._references = gate.references
        self._bundler = Bundler(uow, self._shard, self._matcher, gate, facts, self._next_seq)
        await self._bundler.look_up(connection, [self._commands[index] for index in fresh])
        self._seq = last_seq - self._step_count
        self._first_seq = self._seq + 1
        self._carried_out = fresh
        self._end(expired, await self._sweep.find(uow, self._shard) if self._sweep else {})
        self._decide(fresh)
        amender = Amender(self._matcher, gate, facts, now=uow.now)
        for index in fresh:
            self._step(index, self._commands[index], facts, gate, amender, uow)
        interruptions.decide(self._interrupted, self._verdicts)
        if self._matcher.touched:
            await check_makers(uow, self._shard, self._matcher, facts, self._verdicts)
            sold = await self._move_units(uow)
            await self._write(uow, connection, await self._post(uow, sold))
        if self._desk is not None:
            await self._desk.write()
        if controls.calls:
            self._indicatives = await publish(uow, self._shard, controls, self._matcher)
        await self._answer(uow, connection)

    def apply(self) -> None:
        """Take over what was committed into the shard's memory."""
        for touched in self._matcher.touched.values():
            order = touched.order
            if touched.revision is not None:
                self._shard.revise(order, touched.revision)
            order.filled, order.amount = touched.filled, touched.amount
            order.hold_id = touched.hold_id
            if touched.admitted is None:
                if not touched.status.is_open:
                    self._shard.remove(order)
            elif touched.status.is_open:
                self._shard.add(order)
        for book in self._books:
            instrument = self._shard.instrument(book.plan_id)
            instrument.sequence, instrument.checksum = book.sequence, book.checksum
        if self._desk is not None:
            self._shard.controls = self._desk.controls
        self._shard.controls.references.update(self._references)
        self._shard.indicatives.update(self._indicatives)

    @property
    def closing(self) -> list[UUID]:
        """The call auctions that this batch has uncrossed."""
        return [] if self._desk is None else self._desk.calls.closing

    @property
    def _step_count(self) -> int:
        """Input numbers to reserve: an upper bound, gaps do no harm."""
        # A decision takes at most two, and so does an auction.
        steps = 2 * (sum(map(weight, self._commands)) + DUE_MAX)
        steps += len(self._verdicts.ended) + len(self._verdicts.reopen)
        return steps + EXPIRIES_MAX + ORDERS_MAX

    async def _fence_off(self, uow: UnitOfWork, connection: Connection) -> int:
        due = self._shard.controls.due(uow.now)
        frozen_s = FROZEN_CLOSING_S if any(call.collecting for call in due) else FROZEN_WRITER_S
        last_seq = await sql.renew_lease(
            connection,
            SHARD,
            holder=self._fence.holder,
            term=self._fence.term,
            ttl_s=self._fence.ttl_s,
            sequence_count=self._step_count,
            frozen_s=frozen_s,
        )
        if last_seq is None:
            raise StaleLease
        return last_seq

    async def _fresh(self, connection: Connection) -> list[int]:
        """Indexes of the commands to carry out; the others get the answer of their key."""
        found = await idempotency.lookup(
            connection, [(command.party_id, command.key) for command in self._commands]
        )
        first: dict[tuple[UUID, bytes], int] = {}
        for index, command in enumerate(self._commands):
            name = (command.party_id, idempotency.hash_key(command.key))
            if name in found:
                request_hash, answer = found[name]
                same = request_hash == command.request_hash
                self.replies[index] = Reply(answer, replayed=True) if same else _key_reused(command)
            elif name in first:
                self._duplicates[index] = first[name]
            else:
                first[name] = index
        return list(first.values())

    def _in_time(self, fresh: list[int], uow: UnitOfWork) -> list[int]:
        """Without those whose callers have stopped waiting, told by real database time."""
        if not self._good_until:
            return fresh
        began = uow.now - self._kernel.clock.offset
        late = {index for index in fresh if self._good_until.get(index, began) < began}
        for index in late:
            self.replies[index] = Reply.refusal(
                EngineStalled(retry_after_s=1), self._commands[index].request_id
            )
        return [index for index in fresh if index not in late]

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def _end(self, expired: Sequence[LiveOrder], swept: Mapping[UUID, CloseReason]) -> None:
        """Close what must not trade any more, before any command of the batch."""
        for order in expired:
            self.plan_ids[order.plan_id] = None
            self._matcher.cancel(order, CloseReason.EXPIRED, seq=self._next_seq())
        for order_id, reason in (*swept.items(), *self._verdicts.ended.items()):
            ended = self._shard.order(order_id)
            if ended is not None:
                self.plan_ids[ended.plan_id] = None
                self._matcher.cancel(ended, reason, seq=self._next_seq())

    async def _open_desk(
        self, uow: UnitOfWork, connection: Connection, fresh: Sequence[int]
    ) -> Controls:
        """Get ready for operators' decisions and for call auctions whose time has come.

        Most batches have neither. Returns the controls in force.
        """
        decisions = [c for c in (self._commands[i] for i in fresh) if isinstance(c, Control)]
        due = [] if self.deferred else self._shard.controls.due(uow.now)[:DUE_MAX]
        if not decisions and not due and not self._verdicts.reopen:
            return self._shard.controls
        facts = await control_desk.gather(uow, decisions, due, self._verdicts.reopen)
        await self._shard.load(connection, facts.plans)
        controls = self._shard.controls.copy()
        self._desk = ControlDesk(
            uow, self._shard, self._matcher, controls, facts, self.plan_ids, self._next_seq
        )
        return controls

    def _decide(self, fresh: Sequence[int]) -> None:
        """Carry out operators' decisions and due call auctions, before any order of the batch."""
        if self._desk is None:
            return
        for index in fresh:
            command = self._commands[index]
            if isinstance(command, Control):
                try:
                    self._desk.decide(command)
                    self._decided[index] = command
                except MarketError as refusal:
                    self.replies[index] = Reply.refusal(refusal, command.request_id)
        self._desk.calls.run_due(self._verdicts.void_calls)
        for plan_id, reason in self._verdicts.reopen.items():
            self._desk.calls.interrupt(plan_id, reason)

    def _step(
        self,
        index: int,
        command: Command,
        facts: Facts,
        gate: Gate,
        amender: Amender,
        uow: UnitOfWork,
    ) -> None:
        try:
            if isinstance(command, Place):
                if command.order_id in self._verdicts.refused:
                    raise self._verdicts.refused[command.order_id]
                plan = facts.plans.get(command.body.plan_id)
                if plan is not None:
                    interruptions.check(gate, command, plan, facts, self._interrupted, uow.now)
                self._place(index, admit(command, facts, now=uow.now), facts, gate)
            elif isinstance(command, Cancel):
                self._cancel(index, command)
            elif isinstance(command, Amend):
                self._amend(index, command, amender)
            elif isinstance(command, PlaceBundle):
                assert self._bundler is not None
                self._bundles[index] = self._bundler.carry_out(command, self._verdicts.refused)
            elif isinstance(command, CancelAll):
                self.replies[index] = mass_cancel.carry_out(
                    command, uow, self._shard, self._matcher, self.plan_ids, seq=self._next_seq()
                )
        except MarketError as refusal:
            self.replies[index] = Reply.refusal(refusal, command.request_id)

    def _place(self, index: int, admitted: Admitted, facts: Facts, gate: Gate) -> None:
        try:
            placed = self._matcher.place(admitted, seq=self._next_seq())
        except MarketError:
            give_back(admitted, facts)
            raise
        self._placed[index] = placed
        if placed.matches:
            gate.traded(placed)

    def _cancel(self, index: int, command: Cancel) -> None:
        order = self._own(index, command)
        if order is None:
            return
        if self._matcher.cancel(order, CloseReason.REQUESTED, seq=self._next_seq()) is None:
            raise OrderClosed
        self._changed[index] = order.id

    def _amend(self, index: int, command: Amend, amender: Amender) -> None:
        if command.command_id in self._verdicts.refused:
            raise self._verdicts.refused[command.command_id]
        order = self._own(index, command)
        if order is not None:
            amender.amend(command, order, seq=self._next_seq())
            self._changed[index] = order.id

    def _own(self, index: int, command: Cancel | Amend) -> LiveOrder | None:
        """The open order of a command, None for one that is not: it is looked up later."""
        order = self._shard.order(command.order_id)
        if order is None:
            self._not_open[index] = command
            return None
        if order.party_id != command.party_id:
            raise OrderNotFound
        self.plan_ids[order.plan_id] = None
        return order

    def _to_amend(self, fresh: Sequence[int]) -> list[LiveOrder]:
        """The open orders that commands want to amend, once each."""
        ids = dict.fromkeys(c.order_id for i in fresh if isinstance(c := self._commands[i], Amend))
        return [order for order in map(self._shard.order, ids) if order is not None]

    async def _move_units(self, uow: UnitOfWork) -> dict[UUID, Source]:
        """Units of resale orders, before any money: grants are locked before accounts."""
        sold = await resales.move_units(
            uow,
            self._matcher.touched.values(),
            refused=self._verdicts.refused,
            ended=self._verdicts.ended,
        )
        if sold is None:
            raise Reconsider
        return sold

    async def _post(self, uow: UnitOfWork, sold: Mapping[UUID, Source]) -> record.Records:
        """All money of the batch; its records are made while the ledger waits for the server.

        One call to the ledger, unless it is larger than one may be.
        """
        touched = self._matcher.touched.values()
        planned = postings(touched, now=uow.now)
        sources = await record.read_sources(uow, self._kernel, self._matcher.matches, sold)
        making = asyncio.create_task(
            record.prepare(
                self._kernel, touched, self._matcher.matches, sources, sold, now=uow.now
            ),
            name="batch-records",
        )
        try:
            sound = True
            for start in range(0, len(planned), ledger.COMMANDS_MAX):
                chunk = planned[start : start + ledger.COMMANDS_MAX]
                results = await ledger.post(uow, [command for _, command in chunk])
                for (order, command), result in zip(chunk, results, strict=True):
                    if isinstance(result, Refused):
                        sound = self._judge(order, command, result) and sound
            if not sound:
                raise Reconsider
            return await making
        finally:
            making.cancel()

    def _judge(self, touched: Touched, command: object, refused: Refused) -> bool:
        """What a refusal means for the order; True when the batch may go on."""
        order = touched.order
        if isinstance(command, Hold) and touched.admitted is not None:
            # The balance shrank between the first opinion and the lock.
            short = refused.code == OrderUnfunded.code
            error = OrderUnfunded(refused.detail) if short else error_of(refused)
            self._verdicts.refused[order.id] = error
            return False
        amended_by = None if touched.revision is None else touched.revision.amended_by
        if isinstance(command, Hold) and amended_by is not None:
            self._verdicts.refused[amended_by] = OrderUnfunded(refused.detail)
            return False
        if amended_by in self._verdicts.refused:
            return False
        if isinstance(command, Hold | Capture) and touched.admitted is None:
            _log.error("order_hold_lost", order_id=str(order.id), code=refused.code)
            self._verdicts.ended[order.id] = CloseReason.HOLD_LOST
            return False
        # A capture after its own refused hold, or a hold that has ended by itself: nothing to free.
        _log.warning("order_posting_refused", order_id=str(order.id), code=refused.code)
        return True

    async def _write(
        self, uow: UnitOfWork, connection: Connection, records: record.Records
    ) -> None:
        matcher = self._matcher
        self._books = book_updates.updates(
            self._shard, matcher, first_seq=self._first_seq, last_seq=self._seq, now=uow.now
        )
        await journal_sql.write(connection, self._books, now=uow.now)
        await record.write(uow, records)
        record.emit_trades(uow, matcher.matches)
        record.emit_orders(uow, matcher.touched.values())
        if self._bundler is not None:
            await self._bundler.write(connection)

    async def _answer(self, uow: UnitOfWork, connection: Connection) -> None:
        for index, touched in self._placed.items():
            self.replies[index] = Reply.of(new_order_json(touched, uow.now), status=201)
        for index, filled in self._bundles.items():
            self.replies[index] = Reply.of(new_bundle_json(filled, uow.now), status=201)
        decided = await control_answers.read(uow, self._kernel.settings, self._decided)
        self.replies.update(decided)
        views = await read_views(
            connection,
            [*self._changed.values(), *(c.order_id for c in self._not_open.values())],
        )
        for index, order_id in self._changed.items():
            self.replies[index] = Reply.of(views[order_id].model_dump_json().encode(), status=200)
        for index, late in self._not_open.items():
            view = views.get(late.order_id)
            error: MarketError = OrderClosed()
            if view is None or view.party_id != late.party_id:
                error = OrderNotFound()
            elif view.status.is_open:
                error = BookHalted()
            self.replies[index] = Reply.refusal(error, late.request_id)
        entries = [self._entry(index) for index in self._worth_remembering()]
        # Another endpoint may just have answered one of the keys: its answer counts.
        try:
            stored = await idempotency.store(connection, entries)
        except asyncpg.UniqueViolationError as error:
            raise Reconsider from error
        if stored != len(entries):
            raise Reconsider
        for index, original in self._duplicates.items():
            command = self._commands[index]
            same = command.request_hash == self._commands[original].request_hash
            self.replies[index] = self.replies[original].again() if same else _key_reused(command)

    def _worth_remembering(self) -> list[int]:
        return [
            index
            for index in self._carried_out
            if self.replies[index].remembered
            and (not isinstance(self._commands[index], Cancel) or index in self._changed)
        ]

    def _entry(self, index: int) -> idempotency.Entry:
        command = self._commands[index]
        return idempotency.Entry(
            command.party_id, command.key, command.request_hash, self.replies[index].answer
        )


def _key_reused(command: Command) -> Reply:
    return Reply.refusal(KeyReused(param="Idempotency-Key"), command.request_id)
