"""Public market data from committed rows: the aggregated book and the tape of trades."""

from __future__ import annotations

from uuid import UUID

from sqlmodel import col, or_, select

from market.kernel.context import Kernel
from market.kernel.errors import Unauthorized
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor
from market.matching import sql
from market.matching.models import OrderSide, Trade
from market.matching.schemas import BookLevel, BookView, TradeView
from pricing import plans


class TokenNeeded(Unauthorized):
    """Own trades were asked for without saying who asks."""

    code = "token_missing"
    title = "Own trades need an access token"


async def show_book(kernel: Kernel, plan_id: UUID, *, levels_max: int) -> BookView:
    """The best ``levels_max`` price levels of each side. Raises PlanNotFound (404).

    One snapshot: sequence and levels belong together, whichever process answers.
    """
    async with kernel.unit_of_work() as uow:
        plan = await plans.get_plan(uow, plan_id)
        rows = await sql.read_book(await uow.raw(), plan_id, levels_max=levels_max)
    sides: dict[str, list[BookLevel]] = {side.value: [] for side in OrderSide}
    for row in rows:
        if row["side"] is not None:
            sides[row["side"]].append(
                BookLevel(
                    price_minor=row["price_minor"],
                    lots=row["lots"],
                    orders=row["orders"],
                    unlimited=row["unlimited"],
                )
            )
    return BookView(
        plan_id=plan_id,
        currency=plan.currency,
        sequence=rows[0]["sequence"],
        bids=sides[OrderSide.BUY],
        asks=sides[OrderSide.SELL],
    )


async def list_trades(
    kernel: Kernel,
    actor: Actor | None,
    page: PageQuery,
    *,
    plan_id: UUID | None = None,
    order_id: UUID | None = None,
    mine: bool = False,
) -> Page[TradeView]:
    """Trades, newest first. ``mine``: the actor's own, with side, order and agreement.

    ``order_id`` implies ``mine``. Raises TokenNeeded (401) when own trades are asked for
    anonymously, BadCursor (422).
    """
    own = mine or order_id is not None
    if own and actor is None:
        raise TokenNeeded
    statement = select(Trade).order_by(col(Trade.seq).desc()).limit(page.limit + 1)
    after = _after_seq(page)
    if after is not None:
        statement = statement.where(col(Trade.seq) < after)
    if plan_id is not None:
        statement = statement.where(Trade.plan_id == plan_id)
    if order_id is not None:
        statement = statement.where(
            or_(Trade.buy_order_id == order_id, Trade.sell_order_id == order_id)
        )
    if own and actor is not None:
        statement = statement.where(
            or_(Trade.buyer_id == actor.party_id, Trade.seller_id == actor.party_id)
        )
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()
    views = [_view(row, actor if own else None) for row in rows]
    return Page.of(views, page.limit, [(row.seq,) for row in rows])


def _view(trade: Trade, actor: Actor | None) -> TradeView:
    bought = actor is not None and trade.buyer_id == actor.party_id
    took = actor is not None and bought == (trade.taker_side == OrderSide.BUY)
    return TradeView(
        id=trade.id,
        plan_id=trade.plan_id,
        lots=trade.lots,
        price_minor=trade.price_minor,
        currency=trade.currency,
        taker_side=OrderSide(trade.taker_side),
        traded_at=trade.traded_at,
        side=None if actor is None else OrderSide.BUY if bought else OrderSide.SELL,
        order_id=None if actor is None else trade.buy_order_id if bought else trade.sell_order_id,
        agreement_id=None if actor is None else trade.agreement_id,
        bundle_id=trade.bundle_id if took else None,
    )


def _after_seq(page: PageQuery) -> int | None:
    key = page.key(1)
    if key is None:
        return None
    if not (key[0].isascii() and key[0].isdigit() and len(key[0]) <= 18):
        raise BadCursor(param="after")
    return int(key[0])
