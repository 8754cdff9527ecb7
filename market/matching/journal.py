"""The steps that a batch gives to each book, packed, so that any process can repeat them (pure).

One page per book and batch: a header, the ids of the parties in it, then little-endian 64-bit
words. The numbers that stand for parties in a book are those of one process; on a page they are
places in the page's own list of ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from hashlib import blake2b
from struct import Struct, error as StructError  # noqa: N812 - it is a class
from typing import Final, NamedTuple
from uuid import UUID

from market.matching.shard import LiveOrder
from market.matching.terms import Phase
from market.matching.words import pack, unpack

VERSION: Final = 1
DIGEST_SIZE: Final = 16
# Version, phase of the book at the first step, number of ids.
_HEADER: Final = Struct("<BBI")
_FRAME: Final = Struct("<qqqqqqq")
_ID_SIZE: Final = 16
_PARTY_BITS: Final = 32
_PARTY_MASK: Final = (1 << _PARTY_BITS) - 1
# The first word of a step: its kind, then what fits beside it.
_KIND_MASK: Final = 7
_SIDE, _TIF, _POST_ONLY, _PREVENT_BY, _MINIMUM, _REFERENCE = 3, 4, 6, 7, 9, 10
_PHASE: Final = 3


class StepKind(IntEnum):
    """What the book was told."""

    SUBMIT = 0
    CANCEL = 1
    AMEND = 2
    ENTER = 3
    UNCROSS = 4


_SUBMIT: Final = int(StepKind.SUBMIT)
_CANCEL: Final = int(StepKind.CANCEL)
_AMEND: Final = int(StepKind.AMEND)
_ENTER: Final = int(StepKind.ENTER)
_UNCROSS: Final = int(StepKind.UNCROSS)


class BadPage(ValueError):
    """Bytes that are no page of a journal."""


class Entry(NamedTuple):
    """One step as read back; what its kind does not need is 0.

    ``owner`` and ``party`` are the ids of a self-trade group and a party, as 128-bit integers.
    ``lots`` are those of ``Book.submit`` and ``Book.amend``; ``rank`` is an amendment's;
    ``reference`` an uncrossing's price in minor units, None without one.
    """

    kind: StepKind
    ref: int = 0
    owner: int = 0
    party: int = 0
    side: int = 0
    price: int = 0
    lots: int = 0
    tif: int = 0
    post_only: bool = False
    prevent_by: int = 0
    minimum: int = 0
    rank: int = 0
    phase: Phase = Phase.CONTINUOUS
    reference: int | None = None


class Page:
    """The steps of one book in one batch; ``phase`` is that after the last one."""

    __slots__ = ("_first_phase", "_ids", "_places", "phase", "words")

    def __init__(self, phase: Phase) -> None:
        self._first_phase = self.phase = phase
        self._ids: list[bytes] = []
        self._places: dict[int, int] = {}
        self.words: list[int] = []

    def enter(self, phase: Phase) -> None:
        """Note the book's phase, if it is another one than at the last step."""
        if phase is not self.phase:
            self.phase = phase
            self.words.append(_ENTER | phase << _PHASE)

    def place(self, number: int, name: UUID) -> int:
        """Where the page lists ``name``, which this process calls ``number``."""
        place = self._places.get(number)
        if place is None:
            place = self._places[number] = len(self._ids)
            self._ids.append(name.bytes)
        return place

    def to_bytes(self) -> bytes:
        """The page as it is stored."""
        header = _HEADER.pack(VERSION, self._first_phase, len(self._ids))
        return b"".join((header, *self._ids, pack(self.words)))


class Journal:
    """What one batch has told the books, by plan, in order."""

    def __init__(self) -> None:
        self._pages: dict[UUID, Page] = {}

    @property
    def pages(self) -> Mapping[UUID, Page]:
        """By plan, in the order of their first steps."""
        return self._pages

    def submit(
        self, phase: Phase, order: LiveOrder, owner: int, party: int, tif: int, minimum: int
    ) -> None:
        """Note a new order, with the numbers that the book knows its group and party by."""
        page = self._page(order.plan_id, phase)
        names = page.place(owner, order.group) << _PARTY_BITS | page.place(party, order.party_id)
        head = (
            order.side << _SIDE
            | tif << _TIF
            | order.post_only << _POST_ONLY
            | order.prevent_by << _PREVENT_BY
        )
        if minimum:
            page.words += (
                head | 1 << _MINIMUM,
                order.seq,
                names,
                order.price,
                order.left,
                minimum,
            )
        else:
            page.words += (head, order.seq, names, order.price, order.left)

    def cancel(self, plan_id: UUID, phase: Phase, ref: int) -> None:
        """Note that an order was taken out."""
        self._page(plan_id, phase).words += (_CANCEL, ref)

    def amend(
        self,
        plan_id: UUID,
        phase: Phase,
        ref: int,
        rank: int,
        price: int,
        lots: int,
        post_only: bool,
        prevent_by: int,
    ) -> None:
        """Note other terms of a resting order (the arguments of ``Book.amend``)."""
        head = _AMEND | post_only << _POST_ONLY | prevent_by << _PREVENT_BY
        self._page(plan_id, phase).words += (head, ref, rank, price, lots)

    def uncross(self, plan_id: UUID, phase: Phase, reference: int | None) -> None:
        """Note the end of a call auction, before it is carried out (it changes the phase)."""
        page = self._page(plan_id, phase)
        if reference is None:
            page.words.append(_UNCROSS)
        else:
            page.words += (_UNCROSS | 1 << _REFERENCE, reference)
        page.phase = Phase.CONTINUOUS

    def _page(self, plan_id: UUID, phase: Phase) -> Page:
        page = self._pages.get(plan_id)
        if page is None:
            page = self._pages[plan_id] = Page(phase)
        else:
            page.enter(phase)
        return page


def read_page(data: bytes) -> tuple[Phase, list[Entry]]:
    """The phase to begin in and the steps. Raises BadPage."""
    try:
        version, phase, count = _HEADER.unpack_from(data)
        if version != VERSION:
            raise BadPage(f"version {version}")
        end = _HEADER.size + count * _ID_SIZE
        if end > len(data):
            raise BadPage("cut short")
        ids = [
            int.from_bytes(data[start : start + _ID_SIZE], "big")
            for start in range(_HEADER.size, end, _ID_SIZE)
        ]
        words = unpack(data[end:])
        return Phase(phase), list(_entries(words, ids))
    except BadPage:
        raise
    except (IndexError, ValueError, StructError) as error:
        raise BadPage(str(error)) from error


def _entries(words: list[int], ids: list[int]) -> Iterator[Entry]:
    index = 0
    while index < len(words):
        head = words[index]
        kind = StepKind(head & _KIND_MASK)
        if kind is StepKind.SUBMIT:
            ref, names, price, lots = words[index + 1 : index + 5]
            minimum = words[index + 5] if head >> _MINIMUM & 1 else 0
            index += 6 if minimum else 5
            yield Entry(
                kind,
                ref=ref,
                owner=ids[names >> _PARTY_BITS],
                party=ids[names & _PARTY_MASK],
                side=head >> _SIDE & 1,
                price=price,
                lots=lots,
                tif=head >> _TIF & 3,
                post_only=bool(head >> _POST_ONLY & 1),
                prevent_by=head >> _PREVENT_BY & 3,
                minimum=minimum,
            )
        elif kind is StepKind.CANCEL:
            yield Entry(kind, ref=words[index + 1])
            index += 2
        elif kind is StepKind.AMEND:
            ref, rank, price, lots = words[index + 1 : index + 5]
            index += 5
            yield Entry(
                kind,
                ref=ref,
                rank=rank,
                price=price,
                lots=lots,
                post_only=bool(head >> _POST_ONLY & 1),
                prevent_by=head >> _PREVENT_BY & 3,
            )
        elif kind is StepKind.ENTER:
            yield Entry(kind, phase=Phase(head >> _PHASE))
            index += 1
        else:
            known = head >> _REFERENCE & 1
            yield Entry(kind, reference=words[index + 1] if known else None)
            index += 2 if known else 1


def digest(
    plan_id: UUID,
    *,
    sequence: int,
    checksum: int,
    orders: int,
    first_seq: int,
    last_seq: int,
    at_us: int,
    steps: bytes,
    levels: bytes,
) -> bytes:
    """16 bytes over everything in a row, so that a changed byte shows even where no later match
    depends on it. ``at_us``: microseconds since 1970.
    """
    frame = _FRAME.pack(sequence, checksum, orders, first_seq, last_seq, at_us, len(steps))
    content = b"".join((plan_id.bytes, frame, steps, levels))
    return blake2b(content, digest_size=DIGEST_SIZE).digest()
