"""HTTP of the ledger beyond balances: statements, proofs, corrections, currency exchange."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import StreamingResponse
from pydantic.json_schema import SkipJsonSchema

from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AccountId, CorrectionId, ExchangeQuoteId, TransferId, show
from market.kernel.money import Currency
from market.kernel.schemas import Moment, Page, PageQuery
from market.parties.access import ActorDep, OperatorDep, OversightDep, TraderDep
from settlement import corrections, exchange, periods, proofs, statement_formats
from settlement.exchange_schemas import (
    CorrectionRequest,
    CorrectionView,
    QuoteRequest,
    QuoteView,
    RateRequest,
    RateView,
)
from settlement.proof_check import Proof
from settlement.schemas import Basis, StatementView
from settlement.statement_formats import MEDIA_TYPES, StatementFormat

router = APIRouter(route_class=IdempotentRoute, tags=["settlement"])

PageDep = Annotated[PageQuery, Depends()]
_STATEMENT: dict[str, Any] = {
    "description": "The statement in the asked format.",
    "model": StatementView,
    "content": {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for format_, media_type in MEDIA_TYPES.items()
        if format_ is not StatementFormat.JSON
    },
}


@router.get(
    "/v1/accounts/{account_id}/statement",
    response_class=Response,
    responses={200: _STATEMENT, **problems(401, 404, 406, 422)},
)
async def show_statement(
    kernel: KernelDep,
    actor: ActorDep,
    account_id: AccountId,
    start: Annotated[Moment | None, Query(alias="from", description="Default: ever.")] = None,
    until: Annotated[Moment | None, Query(description="Not included; default: now.")] = None,
    by: Annotated[Basis, Query(description="Booking time, or the time of the event.")] = (
        Basis.BOOKING
    ),
    format_: Annotated[
        StatementFormat | None, Query(alias="format", description="Default: by `Accept`.")
    ] = None,
    accept: Annotated[str | SkipJsonSchema[None], Header()] = None,
) -> Response:
    """A period of an account with opening and closing balance: JSON, CSV or Parquet.

    At most 100,000 lines. In CSV the first and the last row are the balances.
    """
    chosen = statement_formats.choose(format_, accept)
    statement = await periods.open_statement(
        kernel, actor, account_id, start=start, end=until, basis=by
    )
    name = f"statement-{show('acc', account_id)}-{statement.start:%Y%m%d}-{statement.end:%Y%m%d}"
    pieces = periods.read_lines(kernel, statement)
    return StreamingResponse(
        statement_formats.write(statement, pieces, chosen),
        media_type=MEDIA_TYPES[chosen],
        headers={
            "Content-Disposition": f'attachment; filename="{name}.{chosen.value}"',
            "Cache-Control": "private, no-store",
            "Vary": "Accept",
        },
    )


@router.get(
    "/v1/ledger/transfers/{transfer_id}/proof",
    response_model=Proof,
    responses=problems(401, 404, 409, 422, 503),
)
async def show_transfer_proof(
    kernel: KernelDep, actor: ActorDep, transfer_id: TransferId
) -> Response:
    """Prove one of your transfers up to a signed checkpoint; operators and regulators: any.

    Save the bytes as they are: `market ledger check-proof` refuses a reformatted file.
    """
    proof = await proofs.transfer_proof(kernel, actor, transfer_id)
    return Response(proof.to_bytes(), media_type="application/json")


@router.post(
    "/v1/ledger/corrections", status_code=201, responses=problems(400, 401, 403, 404, 409, 422)
)
async def propose_correction(
    kernel: KernelDep, actor: OperatorDep, body: CorrectionRequest
) -> CorrectionView:
    """Propose a correcting transfer, with its reason. Nothing is booked before the approval."""
    return await corrections.propose(kernel, actor, body)


@router.get("/v1/ledger/corrections", responses=problems(401, 403, 422))
async def list_corrections(
    kernel: KernelDep, actor: OversightDep, page: PageDep
) -> Page[CorrectionView]:
    """Proposed and booked corrections, newest first."""
    return await corrections.list_corrections(kernel, actor, page)


@router.get("/v1/ledger/corrections/{correction_id}", responses=problems(401, 403, 404, 422))
async def show_correction(
    kernel: KernelDep, actor: OversightDep, correction_id: CorrectionId
) -> CorrectionView:
    """One correction."""
    return await corrections.get_correction(kernel, actor, correction_id)


@router.post(
    "/v1/ledger/corrections/{correction_id}/approval",
    status_code=201,
    responses=problems(400, 401, 402, 403, 404, 409, 422, 503),
)
async def approve_correction(
    kernel: KernelDep, actor: OperatorDep, correction_id: CorrectionId
) -> CorrectionView:
    """Book a correction that another operator has proposed."""
    return await corrections.approve(kernel, actor, correction_id)


@router.post("/v1/exchange/rates", status_code=201, responses=problems(400, 401, 403, 409, 422))
async def set_exchange_rate(kernel: KernelDep, actor: OperatorDep, body: RateRequest) -> RateView:
    """Set the rate of a pair of currencies; the newest valid one counts."""
    return await exchange.set_rate(kernel, actor, body)


@router.get("/v1/exchange/rates", responses=problems(401, 422))
async def list_exchange_rates(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    source: Annotated[Currency | None, Query()] = None,
    target: Annotated[Currency | None, Query()] = None,
) -> Page[RateView]:
    """All exchange rates, newest first."""
    return await exchange.list_rates(kernel, page, source=source, target=target)


@router.post(
    "/v1/exchange/quotes", status_code=201, responses=problems(400, 401, 403, 404, 409, 422)
)
async def create_exchange_quote(
    kernel: KernelDep, actor: TraderDep, body: QuoteRequest
) -> QuoteView:
    """Ask what an amount becomes in another currency. The offer stands for 60 seconds."""
    return await exchange.create_quote(kernel, actor, body)


@router.get("/v1/exchange/quotes", responses=problems(401, 422))
async def list_exchange_quotes(
    kernel: KernelDep, actor: ActorDep, page: PageDep
) -> Page[QuoteView]:
    """Your exchange quotes, newest first; operators and regulators see all."""
    return await exchange.list_quotes(kernel, actor, page)


@router.get("/v1/exchange/quotes/{quote_id}", responses=problems(401, 404, 422))
async def show_exchange_quote(
    kernel: KernelDep, actor: ActorDep, quote_id: ExchangeQuoteId
) -> QuoteView:
    """One exchange quote, and its conversion."""
    return await exchange.get_quote(kernel, actor, quote_id)


@router.post(
    "/v1/exchange/quotes/{quote_id}/conversion",
    status_code=201,
    responses=problems(400, 401, 402, 403, 404, 409, 422, 503),
)
async def convert_exchange_quote(
    kernel: KernelDep, actor: TraderDep, quote_id: ExchangeQuoteId
) -> QuoteView:
    """Take the quote: convert your available balance, once, at its amounts."""
    return await exchange.convert_quote(kernel, actor, quote_id)
