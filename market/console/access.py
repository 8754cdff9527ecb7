"""Dependencies of console pages: any visitor, or somebody who is signed in."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Request

from market.console import sessions
from market.console.errors import SignInNeeded
from market.console.rendering import Visit
from market.console.routes import visit_of


async def _visit(request: Request) -> Visit:
    """Anybody. Raises SignInNeeded only for a session that has ended."""
    visit = visit_of(request)
    request.state.visit = visit
    visit = replace(visit, session=await sessions.find(visit.kernel, request))
    # Error pages show who is signed in, too.
    request.state.visit = visit
    return visit


async def _member(visit: Annotated[Visit, Depends(_visit)]) -> Visit:
    if visit.session is None:
        raise SignInNeeded
    return visit


VisitDep = Annotated[Visit, Depends(_visit)]
MemberDep = Annotated[Visit, Depends(_member)]
