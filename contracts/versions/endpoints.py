"""HTTP of the versions of a grant."""

from typing import Annotated

from fastapi import APIRouter, Depends

from contracts.versions import offered
from contracts.versions.schemas import GrantVersionView
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import GrantId
from market.kernel.schemas import Page, PageQuery
from market.parties.access import ActorDep

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])


@router.get("/v1/grants/{grant_id}/versions", responses=problems(401, 404, 422))
async def list_grant_versions(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId, page: Annotated[PageQuery, Depends()]
) -> Page[GrantVersionView]:
    """The versions that a grant may read, newest first, and when each takes effect."""
    return await offered.list_versions(kernel, actor, grant_id, page=page)
