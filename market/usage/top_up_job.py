"""The worker's part of automatic top-ups: notice, order, move on.

Each occasion of a rule is one row, unique by rule and revision, written before its order is
placed. The order goes through the engine's own door under a key made of the two, with a client
order id of the same name: a run that dies in between, or runs twice, places it once.
"""

from __future__ import annotations

import hashlib
from uuid import UUID

import orjson
from sqlmodel import col, select

from contracts.models import Agreement
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.ids import new_id, parse, show
from market.kernel.logging import get_logger
from market.matching.commands import Place, Reply
from market.matching.engine import MatchingEngine
from market.matching.errors import ClientOrderIdTaken
from market.matching.models import Order, OrderSide
from market.matching.relay import Relay
from market.matching.schemas import OrderRequest
from market.usage.models import AutoTopUpStatus, TopUpOrder, TopUpRule

BATCH = 20

_DUE = """
SELECT r.id FROM usage.top_up_rule r JOIN contracts.access_grant g USING (agreement_id)
WHERE r.enabled AND g.status IN ('active', 'exhausted')
  AND (g.granted_units - g.settled_units - g.resold_units)::numeric * 100
      <= g.granted_units::numeric * r.at_percent
  AND NOT EXISTS (SELECT FROM usage.top_up_order o
                  WHERE o.rule_id = r.id AND o.revision = r.revision)
  AND (SELECT count(*) FROM usage.top_up_order o
       WHERE o.rule_id = r.id AND o.status <> 'refused'
       AND o.created_at >= date_trunc('month', kernel.market_now(), 'UTC')) < r.max_per_month
ORDER BY r.id LIMIT $1 FOR UPDATE OF r SKIP LOCKED
"""
# Rules whose latest order has made an agreement.
_FILLED = """
SELECT r.id, a.id AS made FROM usage.top_up_rule r
JOIN usage.top_up_order o ON o.rule_id = r.id AND o.revision = r.revision
JOIN matching.order m ON m.id = o.order_id AND m.filled_lots > 0
CROSS JOIN LATERAL (
    SELECT max(x.id::text)::uuid AS id FROM contracts.agreement x
    WHERE x.buyer_id = r.buyer_id AND x.buy_order_id = o.order_id) a
WHERE o.status = 'placed' AND r.enabled AND a.id IS NOT NULL
ORDER BY r.id LIMIT $1 FOR UPDATE OF r SKIP LOCKED
"""

_log = get_logger(__name__)


async def run_top_ups(kernel: Kernel) -> int:
    """Follow filled orders, notice what has run low, order; give how many steps were done.

    Effects: orders; events ``usage.top_up_placed``, ``usage.top_up_refused`` and
    ``usage.top_up_filled``, for the buyer. An engine that cannot be reached is asked again.
    """
    followed = await _follow(kernel)
    noticed = await _notice(kernel)
    return followed + noticed + await _order(kernel)


async def _follow(kernel: Kernel) -> int:
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(_FILLED, BATCH)
        for row in rows:
            rule = await uow.session.get_one(TopUpRule, row["id"])
            before = rule.agreement_id
            taken = select(TopUpRule).where(TopUpRule.agreement_id == row["made"])
            if (await uow.session.exec(taken)).one_or_none() is None:
                rule.agreement_id = row["made"]
                rule.revision += 1
            else:
                # The buyer was faster and has set a rule for the new agreement.
                rule.enabled = False
            rule.updated_at = uow.now
            uow.emit(
                "usage.top_up_filled",
                rule.id,
                {"agreement_id": show("agr", before), "made": show("agr", row["made"])},
                parties=[rule.buyer_id],
            )
    return len(rows)


async def _notice(kernel: Kernel) -> int:
    async with kernel.unit_of_work() as uow:
        rows = await (await uow.raw()).fetch(_DUE, BATCH)
        for row in rows:
            rule = await uow.session.get_one(TopUpRule, row["id"])
            uow.session.add(
                TopUpOrder(
                    id=new_id(),
                    rule_id=rule.id,
                    revision=rule.revision,
                    agreement_id=rule.agreement_id,
                    buyer_id=rule.buyer_id,
                    plan_id=rule.plan_id,
                    lots=rule.lots,
                    limit_price_minor=rule.limit_price_minor,
                    status=AutoTopUpStatus.PENDING,
                    created_at=uow.now,
                )
            )
    return len(rows)


async def _order(kernel: Kernel) -> int:
    query = (
        select(TopUpOrder)
        .where(TopUpOrder.status == AutoTopUpStatus.PENDING.value)
        .order_by(col(TopUpOrder.id))
        .limit(BATCH)
    )
    async with kernel.unit_of_work() as uow:
        pending = list(await uow.session.exec(query))
    if not pending:
        return 0
    done = 0
    # The worker has no books. An engine that was never started owns none either, and its relay
    # leaves the command with the process that does.
    engine = MatchingEngine(kernel)
    async with Relay(kernel, engine):
        for item in pending:
            try:
                reply = await engine.submit(_command(item))
            except MarketError as error:
                _log.warning("top_up_deferred", rule=str(item.rule_id), code=error.code)
                continue
            await _note(kernel, item.id, reply)
            done += 1
    return done


def _name(item: TopUpOrder) -> str:
    return f"auto-top-up:{item.rule_id.hex}:{item.revision}"


def _command(item: TopUpOrder) -> Place:
    body = OrderRequest(
        plan_id=item.plan_id,
        side=OrderSide.BUY,
        lots=item.lots,
        price_minor=item.limit_price_minor,
        client_order_id=_name(item),
    )
    digest = hashlib.sha256(body.model_dump_json().encode()).digest()
    return Place(item.buyer_id, _name(item), digest, body, request_id="auto-top-up")


async def _note(kernel: Kernel, item_id: UUID, reply: Reply) -> None:
    answer = orjson.loads(reply.answer.body)
    async with kernel.unit_of_work() as uow:
        item = await uow.session.get_one(
            TopUpOrder, item_id, with_for_update=True, populate_existing=True
        )
        if item.status != AutoTopUpStatus.PENDING:
            return
        order_id: UUID | None = None
        if reply.answer.status < 300:
            order_id = parse("ord", answer["id"])
        elif answer["code"] == ClientOrderIdTaken.code:
            # Placed by a run whose idempotency key has been forgotten since.
            named = select(Order.id).where(
                Order.party_id == item.buyer_id, Order.client_order_id == _name(item)
            )
            order_id = (await uow.session.exec(named)).one()
        item.order_id = order_id
        item.code = None if order_id else answer["code"]
        item.status = AutoTopUpStatus.PLACED if order_id else AutoTopUpStatus.REFUSED
        agreement = await uow.session.get_one(Agreement, item.agreement_id)
        uow.emit(
            f"usage.top_up_{item.status.value}",
            item.rule_id,
            {
                "agreement_id": show("agr", agreement.id),
                "order_id": show("ord", order_id) if order_id else None,
                "code": item.code,
            },
            parties=[item.buyer_id],
        )
