"""HTTP edge of listings: registration, versions, certificates, offers, reviews."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.requests import ClientDisconnect

from listings import certificates, offering, products, reviews, versions
from listings.catalog_endpoints import router as catalog_router
from listings.errors import UploadInterrupted
from listings.lifecycle import ListingStatus, ProductStatus
from listings.schemas import (
    CertificateView,
    DecisionView,
    ListingInput,
    ListingPatch,
    ListingView,
    ProductInput,
    ProductPatch,
    ProductView,
    Reason,
    ReviewItem,
    VersionSummary,
    VersionView,
)
from market.kernel.http import IdempotentRoute, IfMatch, KernelDep, etag, problems
from market.kernel.ids import CertificateId, ListingId, ProductId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep, OperatorDep, OversightDep, SellerDep

router = APIRouter(route_class=IdempotentRoute)
PageDep = Annotated[PageQuery, Depends()]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_UPLOAD: dict[str, Any] = {
    "x-streamed": True,
    "requestBody": {
        "required": True,
        "description": "The file itself, as CSV with a header line or as Parquet.",
        "content": {"text/csv": _BINARY, "application/vnd.apache.parquet": _BINARY},
    },
}
_READ = problems(401, 403, 404)
_WRITE = problems(400, 401, 403, 404, 409)
_EDIT = problems(401, 403, 404, 409, 412, 428)


@router.post("/v1/products", status_code=201, tags=["products"], responses=_WRITE)
async def create_product(kernel: KernelDep, actor: SellerDep, body: ProductInput) -> ProductView:
    """Open a registration."""
    return await products.create_product(kernel, actor, body)


@router.get("/v1/products", tags=["products"], responses=_READ)
async def list_products(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    status: Annotated[ProductStatus | None, Query()] = None,
) -> Page[ProductView]:
    """Own products; operators and regulators see all."""
    return await products.list_products(kernel, actor, page, status=status)


@router.get("/v1/products/{product_id}", tags=["products"], responses=_READ)
async def show_product(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId, response: Response
) -> ProductView:
    """One product, with the ETag that a change must send."""
    view = await products.show_product(kernel, actor, product_id)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.patch("/v1/products/{product_id}", tags=["products"], responses=_EDIT)
async def change_product(
    kernel: KernelDep,
    actor: SellerDep,
    product_id: ProductId,
    body: ProductPatch,
    revision: IfMatch,
    response: Response,
) -> ProductView:
    """Change a draft; a rejected product becomes a draft again."""
    view = await products.change_product(kernel, actor, product_id, body, revision=revision)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.post(
    "/v1/products/{product_id}/versions",
    status_code=201,
    tags=["products"],
    openapi_extra=_UPLOAD,
    responses={**_WRITE, **problems(413, 415, 422, 503)},
)
async def upload_version(
    kernel: KernelDep, actor: SellerDep, product_id: ProductId, request: Request
) -> VersionView:
    """Upload data: streamed, size-capped, converted to Parquet and profiled."""
    try:
        return await versions.upload_version(
            kernel,
            actor,
            product_id,
            content_type=request.headers.get("Content-Type"),
            body=request.stream(),
        )
    except ClientDisconnect as error:
        raise UploadInterrupted from error


@router.get("/v1/products/{product_id}/versions", tags=["products"], responses=_READ)
async def list_versions(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId, page: PageDep
) -> Page[VersionSummary]:
    """The versions of a product, oldest first."""
    return await versions.list_versions(kernel, actor, product_id, page)


@router.get("/v1/products/{product_id}/versions/{number}", tags=["products"], responses=_READ)
async def show_version(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId, number: VersionNumber
) -> VersionView:
    """One version with its schema, profile, scores and grade."""
    return await versions.show_version(kernel, actor, product_id, number)


@router.get("/v1/products/{product_id}/decisions", tags=["products"], responses=_READ)
async def product_decisions(
    kernel: KernelDep, actor: ActorDep, product_id: ProductId
) -> list[DecisionView]:
    """Every status step of a product, oldest first."""
    return await products.product_history(kernel, actor, product_id)


@router.post("/v1/products/{product_id}/submit", tags=["products"], responses=_WRITE)
async def submit_product(kernel: KernelDep, actor: SellerDep, product_id: ProductId) -> ProductView:
    """Ask for registration, or for certification of the newest version."""
    return await products.submit_product(kernel, actor, product_id)


@router.post("/v1/products/{product_id}/approve", tags=["reviews"], responses=_WRITE)
async def approve_product(
    kernel: KernelDep, actor: OperatorDep, product_id: ProductId
) -> ProductView:
    """Register it and issue the certificate."""
    return await reviews.approve_product(kernel, actor, product_id)


@router.post("/v1/products/{product_id}/reject", tags=["reviews"], responses=_WRITE)
async def reject_product(
    kernel: KernelDep, actor: OperatorDep, product_id: ProductId, body: Reason
) -> ProductView:
    """Refuse it with a reason."""
    return await reviews.reject_product(kernel, actor, product_id, body)


@router.get("/v1/certificates/{certificate_id}", tags=["certificates"], responses=problems(404))
async def show_certificate(kernel: KernelDep, certificate_id: CertificateId) -> CertificateView:
    """A registration certificate; public, verifiable offline."""
    return await certificates.show_certificate(kernel, certificate_id)


@router.post("/v1/listings", status_code=201, tags=["listings"], responses=_WRITE)
async def create_listing(kernel: KernelDep, actor: SellerDep, body: ListingInput) -> ListingView:
    """Draft an offer of a certified version."""
    return await offering.create_listing(kernel, actor, body)


@router.get("/v1/listings", tags=["listings"], responses=_READ)
async def list_listings(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    status: Annotated[ListingStatus | None, Query()] = None,
) -> Page[ListingView]:
    """Own listings; operators and regulators see all."""
    return await offering.list_listings(kernel, actor, page, status=status)


@router.get("/v1/listings/{listing_id}", tags=["listings"], responses=_READ)
async def show_listing(
    kernel: KernelDep, actor: ActorDep, listing_id: ListingId, response: Response
) -> ListingView:
    """One listing, with the ETag that a change must send."""
    view = await offering.show_listing(kernel, actor, listing_id)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.patch("/v1/listings/{listing_id}", tags=["listings"], responses=_EDIT)
async def change_listing(
    kernel: KernelDep,
    actor: SellerDep,
    listing_id: ListingId,
    body: ListingPatch,
    revision: IfMatch,
    response: Response,
) -> ListingView:
    """Change a draft; a rejected listing becomes a draft again."""
    view = await offering.change_listing(kernel, actor, listing_id, body, revision=revision)
    response.headers["ETag"] = etag(view.revision)
    return view


@router.get("/v1/listings/{listing_id}/decisions", tags=["listings"], responses=_READ)
async def listing_decisions(
    kernel: KernelDep, actor: ActorDep, listing_id: ListingId
) -> list[DecisionView]:
    """Every status step of a listing, oldest first."""
    return await offering.listing_history(kernel, actor, listing_id)


@router.post("/v1/listings/{listing_id}/submit", tags=["listings"], responses=_WRITE)
async def submit_listing(kernel: KernelDep, actor: SellerDep, listing_id: ListingId) -> ListingView:
    """Ask for publication."""
    return await offering.submit_listing(kernel, actor, listing_id)


@router.post("/v1/listings/{listing_id}/approve", tags=["reviews"], responses=_WRITE)
async def approve_listing(
    kernel: KernelDep, actor: OperatorDep, listing_id: ListingId
) -> ListingView:
    """Put it on the market."""
    return await reviews.approve_listing(kernel, actor, listing_id)


@router.post("/v1/listings/{listing_id}/reject", tags=["reviews"], responses=_WRITE)
async def reject_listing(
    kernel: KernelDep, actor: OperatorDep, listing_id: ListingId, body: Reason
) -> ListingView:
    """Refuse it with a reason."""
    return await reviews.reject_listing(kernel, actor, listing_id, body)


@router.post("/v1/listings/{listing_id}/suspend", tags=["reviews"], responses=_WRITE)
async def suspend_listing(
    kernel: KernelDep, actor: OperatorDep, listing_id: ListingId, body: Reason
) -> ListingView:
    """Take it off the market until it is resumed."""
    return await reviews.suspend_listing(kernel, actor, listing_id, body)


@router.post("/v1/listings/{listing_id}/resume", tags=["reviews"], responses=_WRITE)
async def resume_listing(
    kernel: KernelDep, actor: OperatorDep, listing_id: ListingId
) -> ListingView:
    """Put a suspended listing back on the market."""
    return await reviews.resume_listing(kernel, actor, listing_id)


@router.post("/v1/listings/{listing_id}/delist", tags=["listings"], responses=_WRITE)
async def delist(kernel: KernelDep, actor: ActorDep, listing_id: ListingId) -> ListingView:
    """Take it off the market for good; its seller or an operator."""
    return await offering.delist(kernel, actor, listing_id)


@router.get("/v1/reviews", tags=["reviews"], responses=_READ)
async def review_queue(kernel: KernelDep, actor: OversightDep, page: PageDep) -> Page[ReviewItem]:
    """What waits for an operator, oldest submission first."""
    return await reviews.review_queue(kernel, actor, page)


router.include_router(catalog_router)
