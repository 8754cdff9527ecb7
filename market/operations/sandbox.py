"""The movable clock of the sandbox: windows and deadlines can be tried without waiting."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field, StrictInt
from sqlalchemy import text

from market.kernel.context import Kernel
from market.kernel.errors import NotFound
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.schemas import Schema
from market.kernel.security import Actor, Role
from market.parties.access import ActorDep

router = APIRouter(prefix="/v1/sandbox", tags=["operations"], route_class=IdempotentRoute)

ADVANCE_MAX_S = 400 * 86_400


class NotSandbox(NotFound):
    code = "not_sandbox"
    title = "This exchange is not a sandbox"


class AdvanceClock(Schema):
    """How far to move on, in seconds (at most 400 days a call). Time never goes back."""

    seconds: Annotated[StrictInt, Field(ge=1, le=ADVANCE_MAX_S)]


class MarketTime(Schema):
    """The market's time after the move."""

    now: datetime
    ahead_s: int


@router.post(
    "/clock/advance",
    status_code=201,
    operation_id="advance_sandbox_clock",
    responses=problems(401, 403, 404, 409),
)
async def advance(kernel: KernelDep, actor: ActorDep, body: AdvanceClock) -> MarketTime:
    """Move the sandbox clock of all processes ahead. Operators only; never in production."""
    return await advance_clock(kernel, actor, body)


async def advance_clock(kernel: Kernel, actor: Actor, body: AdvanceClock) -> MarketTime:
    """See :func:`advance`. Raises NotSandbox, RoleRequired."""
    actor.require(Role.OPERATOR)
    if not kernel.settings.is_sandbox:
        raise NotSandbox
    async with kernel.unit_of_work() as uow:
        row = (
            await uow.execute(
                text(
                    "UPDATE kernel.sandbox_clock SET ahead = ahead + :step WHERE id = 1"
                    " RETURNING now() + ahead, ahead"
                ),
                {"step": timedelta(seconds=body.seconds)},
            )
        ).one()
        moved = MarketTime(now=row[0], ahead_s=int(row[1].total_seconds()))
        uow.emit("sandbox.clock_advanced", actor.party_id, {"seconds": body.seconds})
        await uow.answer(moved)
    # Here at once; other processes see it at the start of their next unit of work.
    kernel.clock.offset = timedelta(seconds=moved.ahead_s)
    return moved
