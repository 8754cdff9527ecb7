"""HTTP of auctions, bids and proofs."""

from typing import Annotated

from fastapi import APIRouter, Depends

from market.auctions import auctions, bids, proofs, trace_section
from market.auctions.models import AuctionStatus, BidStatus
from market.auctions.schemas import (
    AuctionCancelInput,
    AuctionInput,
    AuctionProof,
    AuctionView,
    BidInput,
    BidView,
)
from market.kernel.http import IdempotentRoute, KernelDep, created, problems
from market.kernel.ids import AuctionId, BidId, ListingId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, BuyerDep, OperatorDep, SellerDep

router = APIRouter(route_class=IdempotentRoute, tags=["auctions"])
trace_section.install()

PageDep = Annotated[PageQuery, Depends()]
_WRITE = problems(400, 401, 403, 404, 409, 422)
_PAID = problems(400, 401, 402, 403, 404, 409, 422)


@router.post(
    "/v1/auctions",
    operation_id="create_auction",
    status_code=201,
    responses={
        **created("The auction", "auction_id", "show_auction", "place_bid", "cancel_auction"),
        **_WRITE,
    },
)
async def create_auction(kernel: KernelDep, actor: SellerDep, body: AuctionInput) -> AuctionView:
    """Sell licenses of one of your plans by sealed bids."""
    return await auctions.create_auction(kernel, actor, body)


@router.get("/v1/auctions", operation_id="list_auctions", responses=problems(401, 422))
async def list_auctions(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    mine: bool = False,
    status: AuctionStatus | None = None,
    listing_id: ListingId | None = None,
) -> Page[AuctionView]:
    """Auctions, newest first; with ``mine`` only your own."""
    return await auctions.list_auctions(
        kernel, actor, page, mine=mine, status=status, listing_id=listing_id
    )


@router.get(
    "/v1/auctions/{auction_id}", operation_id="show_auction", responses=problems(401, 404, 422)
)
async def show_auction(kernel: KernelDep, actor: ActorDep, auction_id: AuctionId) -> AuctionView:
    """One auction; its result once it has ended."""
    return await auctions.show_auction(kernel, actor, auction_id)


@router.post("/v1/auctions/{auction_id}/cancel", operation_id="cancel_auction", responses=_WRITE)
async def cancel_auction(
    kernel: KernelDep, actor: OperatorDep, auction_id: AuctionId, body: AuctionCancelInput
) -> AuctionView:
    """End an auction without a sale (operators); all bids are void, their money is free."""
    return await auctions.cancel_auction(kernel, actor, auction_id, body)


@router.post(
    "/v1/auctions/{auction_id}/bids",
    operation_id="place_bid",
    status_code=201,
    responses={**created("The bid", "bid_id", "show_bid", "raise_bid", "withdraw_bid"), **_PAID},
)
async def place_bid(
    kernel: KernelDep, actor: BuyerDep, auction_id: AuctionId, body: BidInput
) -> BidView:
    """Bid for one license; the amount is held on your balance, and secret until the end."""
    return await bids.place_bid(kernel, actor, auction_id, body)


@router.get(
    "/v1/auctions/{auction_id}/proof",
    operation_id="show_auction_proof",
    responses=problems(401, 404, 409, 422),
)
async def show_auction_proof(
    kernel: KernelDep, _actor: ActorDep, auction_id: AuctionId
) -> AuctionProof:
    """All that a random_sampling auction was decided from; `market auction verify` repeats it."""
    return await proofs.show_proof(kernel, auction_id)


@router.get("/v1/bids", operation_id="list_bids", responses=problems(401, 422))
async def list_bids(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    auction_id: AuctionId | None = None,
    status: BidStatus | None = None,
) -> Page[BidView]:
    """Your own bids, newest first."""
    return await bids.list_bids(kernel, actor, page, auction_id=auction_id, status=status)


@router.get("/v1/bids/{bid_id}", operation_id="show_bid", responses=problems(401, 404, 422))
async def show_bid(kernel: KernelDep, actor: ActorDep, bid_id: BidId) -> BidView:
    """One of your bids; it tells your own result."""
    return await bids.show_bid(kernel, actor, bid_id)


@router.post("/v1/bids/{bid_id}/raise", operation_id="raise_bid", responses=_PAID)
async def raise_bid(kernel: KernelDep, actor: BuyerDep, bid_id: BidId, body: BidInput) -> BidView:
    """Raise your living bid until the close."""
    return await bids.raise_bid(kernel, actor, bid_id, body)


@router.post("/v1/bids/{bid_id}/withdraw", operation_id="withdraw_bid", responses=_WRITE)
async def withdraw_bid(kernel: KernelDep, actor: BuyerDep, bid_id: BidId) -> BidView:
    """Take your living bid back before the close; its money is free."""
    return await bids.withdraw_bid(kernel, actor, bid_id)
