"""A file sent in several pieces: each with its own reservation, settlement and receipt."""

import hashlib
from uuid import uuid4

import httpx
import pytest
from sqlmodel import select

from contracts.metering import meter_of
from contracts.models import Delivery
from contracts.sharing import pace
from contracts.sharing.pace import PIECE_BYTES, PIECE_MAX_BYTES, Paces
from market.kernel.context import Kernel
from tests.contracts.factories import Trade, make_trade, mint
from tests.contracts.sharing.conftest import charged
from tests.contracts.sharing.test_files import query


def small_pieces(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """All pieces have ``size`` bytes, however fast they are taken."""
    monkeypatch.setattr(pace, "PIECE_BYTES", size)
    monkeypatch.setattr(pace, "PIECE_MAX_BYTES", size)


async def deliveries(kernel: Kernel, trade: Trade) -> list[Delivery]:
    """The trade's usage records."""
    await meter_of(kernel).flush()
    statement = select(Delivery).where(Delivery.grant_id == trade.grant_id)
    async with kernel.unit_of_work() as uow:
        return list(await uow.session.exec(statement))


async def test_many_pieces_are_one_file_and_cost_its_rows(
    wire: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 1_000)
    trade = await make_trade(kernel, lot_units=900)
    file = await query(wire, trade, await mint(kernel, trade), limitHint=900)
    answer = await wire.get(file["url"])
    assert len(answer.content) == file["size"]
    assert await charged(kernel, trade, 900) == 900
    found = await deliveries(kernel, trade)
    starts = range(0, file["size"], 1_000)
    assert len(found) == len(starts) > 2
    assert sum(each.units for each in found) == 900
    pieces = [answer.content[at : at + 1_000] for at in starts]
    digests = {hashlib.sha256(piece).hexdigest(): len(piece) for piece in pieces}
    assert {each.body_sha256: each.byte_count for each in found} == digests


async def test_the_units_end_between_two_pieces(
    wire: httpx.AsyncClient, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_pieces(monkeypatch, 2_000)
    trade = await make_trade(kernel, lot_units=900)
    token = await mint(kernel, trade)
    first = await query(wire, trade, token, limitHint=900)
    other = await query(wire, trade, token, limitHint=500)
    assert len((await wire.get(other["url"])).content) == other["size"]
    assert await charged(kernel, trade, 500) == 500
    with pytest.raises(httpx.RemoteProtocolError):
        await wire.get(first["url"])
    # The first piece fits into the 400 units that are left, the second does not.
    due = 900 * 2_000 // first["size"]
    assert 200 < due < 400
    assert await charged(kernel, trade, 500 + due) == 500 + due


async def test_a_reader_that_skips_the_signature_pays_all_rows(
    wire: httpx.AsyncClient, kernel: Kernel
) -> None:
    trade = await make_trade(kernel)
    file = await query(wire, trade, await mint(kernel, trade))
    answer = await wire.get(file["url"], headers={"Range": "bytes=4-"})
    assert (answer.status_code, len(answer.content)) == (206, file["size"] - 4)
    assert await charged(kernel, trade, 1_000) == 1_000
    signature = await wire.get(file["url"], headers={"Range": "bytes=0-3"})
    assert signature.content == b"PAR1"
    assert await charged(kernel, trade, 1_000) == 1_000


@pytest.mark.parametrize(
    ("sent", "seconds", "size"),
    [
        (PIECE_BYTES, 0.0, PIECE_MAX_BYTES),
        (PIECE_BYTES, 2.0, 2 * PIECE_BYTES),
        (PIECE_BYTES, 25.0, PIECE_BYTES),
        (PIECE_BYTES - 1, 0.001, PIECE_BYTES),
    ],
)
def test_a_faster_client_gets_larger_pieces(sent: int, seconds: float, size: int) -> None:
    paces, query_id = Paces(), uuid4()
    assert paces.piece_bytes(query_id) == PIECE_BYTES
    paces.note(query_id, sent=sent, seconds=seconds, hold_s=32)
    assert paces.piece_bytes(query_id) == size
    assert paces.piece_bytes(uuid4()) == PIECE_BYTES
