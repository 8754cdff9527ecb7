"""The console's routes, in order; unknown pages below it are answered in HTML, too."""

from fastapi import APIRouter, Response

from market.console import (
    agreement_pages,
    assets,
    catalog_pages,
    dispute_pages,
    money_pages,
    review_pages,
    sign_in_pages,
)
from market.console.access import VisitDep
from market.console.errors import PageNotFound
from market.console.routes import ConsoleRoute

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)


@router.get(f"{assets.PREFIX}/{{path:path}}")
async def serve_asset(path: str) -> Response:
    """Scripts and styles from the package."""
    return assets.serve(path)


router.include_router(sign_in_pages.router)
router.include_router(catalog_pages.router)
router.include_router(agreement_pages.router)
router.include_router(dispute_pages.router)
router.include_router(review_pages.router)
router.include_router(money_pages.router)


@router.api_route(
    "/console/{path:path}", methods=["GET", "POST"], openapi_extra={"x-idempotent": False}
)
async def unknown_page(visit: VisitDep, path: str) -> Response:
    """Raises PageNotFound (404)."""
    raise PageNotFound
