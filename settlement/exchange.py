"""Currency exchange: rates set by operators, quotes, conversions through the fx accounts.

A conversion is one transfer of two zero-sum halves: the party's balance to the fx account in one
currency, the fx account to the party (and the spread to fees) in the other. The fx accounts thus
show the exchange's open position in every currency.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlmodel import col, select

from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.money import MAX_MINOR, Currency, Money
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id
from settlement import ledger
from settlement.accounts import AccountKind, AccountRef
from settlement.commands import Leg, Transfer
from settlement.conversion import convert
from settlement.errors import (
    AmountNotConvertible,
    QuoteExpired,
    QuoteNotFound,
    QuoteUsed,
    RateInvalid,
    RateNotFound,
)
from settlement.exchange_models import ExchangeConversion, ExchangeQuote, ExchangeRate
from settlement.exchange_schemas import QuoteRequest, QuoteView, RateRequest, RateView

QUOTE_LASTS = timedelta(seconds=60)


async def set_rate(kernel: Kernel, actor: Actor, body: RateRequest) -> RateView:
    """A new rate for a pair, from now on or later. Operators.

    Raises RateInvalid (422) for a currency against itself or an empty validity.
    """
    actor.require(Role.OPERATOR)
    if body.source == body.target:
        raise RateInvalid("A rate is between two currencies.", param="target")
    async with kernel.unit_of_work() as uow:
        valid_from = body.valid_from or uow.now
        if body.valid_until <= max(valid_from, uow.now):
            raise RateInvalid("The rate would never be valid.", param="valid_until")
        rate = ExchangeRate(
            id=new_id(),
            source=body.source,
            target=body.target,
            numerator=body.numerator,
            denominator=body.denominator,
            spread_bps=body.spread_bps,
            valid_from=valid_from,
            valid_until=body.valid_until,
            set_by=actor.party_id,
            created_at=uow.now,
        )
        uow.session.add(rate)
        view = RateView.model_validate(rate)
        uow.emit("exchange_rate.set", rate.id, {"source": rate.source, "target": rate.target})
        await uow.answer(view)
    return view


async def list_rates(
    kernel: Kernel, page: PageQuery, *, source: Currency | None, target: Currency | None
) -> Page[RateView]:
    """All rates ever set, newest first."""
    query = select(ExchangeRate).order_by(col(ExchangeRate.id).desc()).limit(page.limit + 1)
    after = after_id(page)
    if after is not None:
        query = query.where(col(ExchangeRate.id) < after)
    if source is not None:
        query = query.where(ExchangeRate.source == source)
    if target is not None:
        query = query.where(ExchangeRate.target == target)
    async with kernel.unit_of_work() as uow:
        views = [RateView.model_validate(row) for row in await uow.session.exec(query)]
    return Page[RateView].of(views, page.limit, [(view.id,) for view in views])


async def create_quote(kernel: Kernel, actor: Actor, body: QuoteRequest) -> QuoteView:
    """Offer the actor a conversion at the rate of this moment, for 60 s at most.

    Raises RateNotFound (404: no valid rate for the pair) and AmountNotConvertible (422: nothing
    would be left, or more than the ledger can carry).
    """
    actor.require(Role.BUYER, Role.SELLER)
    async with kernel.unit_of_work() as uow:
        rate = await _rate(uow, body.money.currency, body.target)
        converted = convert(
            body.money.amount_minor,
            rate.source,
            rate.target,
            numerator=rate.numerator,
            denominator=rate.denominator,
            spread_bps=rate.spread_bps,
        )
        if not 1 <= converted.net <= converted.gross <= MAX_MINOR:
            raise AmountNotConvertible(
                f"{body.money.amount_minor} minor units of {rate.source} would become "
                f"{converted.net} of {rate.target}.",
                param="money.amount_minor",
            )
        quote = ExchangeQuote(
            id=new_id(),
            party_id=actor.party_id,
            rate_id=rate.id,
            amount_minor=body.money.amount_minor,
            source=rate.source,
            gross_minor=converted.gross,
            fee_minor=converted.fee,
            target=rate.target,
            expires_at=min(uow.now + QUOTE_LASTS, rate.valid_until),
            created_at=uow.now,
        )
        uow.session.add(quote)
        view = _view(quote, None)
        location = f"/v1/exchange/quotes/{show('fxq', quote.id)}"
        await uow.answer(view, headers={"Location": location})
    return view


async def convert_quote(kernel: Kernel, actor: Actor, quote_id: UUID) -> QuoteView:
    """Take the actor's own quote: one transfer, once.

    Raises QuoteNotFound (404), QuoteExpired and QuoteUsed (409), InsufficientFunds (402).
    """
    actor.require(Role.BUYER, Role.SELLER)
    async with kernel.unit_of_work() as uow:
        quote = await uow.session.get(ExchangeQuote, quote_id)
        if quote is None or quote.party_id != actor.party_id:
            raise QuoteNotFound
        if await uow.session.get(ExchangeConversion, quote_id) is not None:
            raise QuoteUsed
        if quote.expires_at <= uow.now:
            raise QuoteExpired
        key = f"exchange:{quote_id.hex}"
        command = Transfer(key, "exchange", _legs(quote), memo_id=quote_id)
        (done,) = await ledger.post_strict(uow, [command])
        if done.replayed:
            raise QuoteUsed
        assert done.transfer_id is not None
        made = ExchangeConversion(
            quote_id=quote_id, transfer_id=done.transfer_id, converted_at=uow.now
        )
        uow.session.add(made)
        view = _view(quote, made)
        uow.emit(
            "exchange.converted",
            quote_id,
            {"transfer_id": show("txn", done.transfer_id)},
            parties=[quote.party_id],
        )
        await uow.answer(view)
    return view


async def get_quote(kernel: Kernel, actor: Actor, quote_id: UUID) -> QuoteView:
    """One quote of the actor's; operators and regulators see all. Raises QuoteNotFound."""
    async with kernel.unit_of_work() as uow:
        quote = await uow.session.get(ExchangeQuote, quote_id)
        if quote is None or not may_oversee(actor, quote.party_id):
            raise QuoteNotFound
        return _view(quote, await uow.session.get(ExchangeConversion, quote_id))


async def list_quotes(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[QuoteView]:
    """The actor's quotes, newest first; all of them for operators and regulators."""
    query = (
        select(ExchangeQuote, ExchangeConversion)
        .outerjoin(ExchangeConversion, col(ExchangeConversion.quote_id) == col(ExchangeQuote.id))
        .order_by(col(ExchangeQuote.id).desc())
        .limit(page.limit + 1)
    )
    after = after_id(page)
    if after is not None:
        query = query.where(col(ExchangeQuote.id) < after)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        query = query.where(ExchangeQuote.party_id == actor.party_id)
    async with kernel.unit_of_work() as uow:
        views = [_view(quote, made) for quote, made in await uow.session.exec(query)]
    return Page[QuoteView].of(views, page.limit, [(view.id,) for view in views])


async def _rate(uow: UnitOfWork, source: str, target: str) -> ExchangeRate:
    query = (
        select(ExchangeRate)
        .where(
            ExchangeRate.source == source,
            ExchangeRate.target == target,
            col(ExchangeRate.valid_from) <= uow.now,
            col(ExchangeRate.valid_until) > uow.now,
        )
        .order_by(col(ExchangeRate.id).desc())
        .limit(1)
    )
    rate = (await uow.session.exec(query)).first()
    if rate is None:
        raise RateNotFound(f"No rate from {source} to {target} is valid now.", param="target")
    return rate


def _legs(quote: ExchangeQuote) -> tuple[Leg, ...]:
    def fx(currency: str) -> AccountRef:
        return AccountRef(AccountKind.FX, None, currency)

    def own(currency: str) -> AccountRef:
        return AccountRef(AccountKind.AVAILABLE, quote.party_id, currency)

    legs: tuple[Leg, ...] = (
        (own(quote.source), -quote.amount_minor),
        (fx(quote.source), quote.amount_minor),
        (fx(quote.target), -quote.gross_minor),
        (own(quote.target), quote.gross_minor - quote.fee_minor),
    )
    if quote.fee_minor:
        legs += ((AccountRef(AccountKind.FEES, None, quote.target), quote.fee_minor),)
    return legs


def _view(quote: ExchangeQuote, made: ExchangeConversion | None) -> QuoteView:
    net = quote.gross_minor - quote.fee_minor
    return QuoteView(
        id=quote.id,
        party_id=quote.party_id,
        rate_id=quote.rate_id,
        money=Money(amount_minor=quote.amount_minor, currency=quote.source),
        gross=Money(amount_minor=quote.gross_minor, currency=quote.target),
        fee_minor=quote.fee_minor,
        net=Money(amount_minor=net, currency=quote.target),
        expires_at=quote.expires_at,
        created_at=quote.created_at,
        transfer_id=None if made is None else made.transfer_id,
        converted_at=None if made is None else made.converted_at,
    )
