"""Price observations: what our own trades say about the worth of a category's units."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from market.kernel.db import UnitOfWork
from pricing.models import Unit
from pricing.sql import ComparableRow, ObservationRow, insert_observations, read_comparables

OBSERVATIONS_PER_BATCH_MAX = 100_000
# A valuation reads at most this many trades, the newest first, and as many listings as can be
# shown line by line in its trace.
TRADES_MAX = 10_000
COMPARABLES_MAX = 50


@dataclass(frozen=True, slots=True)
class Observation:
    """One trade: ``price_minor`` is per lot of the plan, in minor units of ``currency``."""

    plan_id: UUID
    listing_id: UUID
    category: str
    price_minor: int
    lots: int
    currency: str
    traded_at: datetime


async def record(uow: UnitOfWork, observations: Sequence[Observation]) -> None:
    """Append observations in the caller's transaction, one statement for all.

    Raises ValueError for a plan that does not exist, or more than 100,000 at once: both are
    mistakes of the caller, not of a user.
    """
    if not observations:
        return
    if len(observations) > OBSERVATIONS_PER_BATCH_MAX:
        raise ValueError(f"at most {OBSERVATIONS_PER_BATCH_MAX} observations at once")
    await uow.session.flush()
    inserted = await insert_observations(
        await uow.raw(),
        [
            ObservationRow(
                item.plan_id,
                item.listing_id,
                item.category,
                item.currency,
                item.price_minor,
                item.lots,
                item.traded_at,
            )
            for item in observations
        ],
    )
    if inserted != len(observations):
        raise ValueError("an observation names a plan that does not exist")


async def comparables(
    uow: UnitOfWork,
    *,
    category: str,
    currency: str,
    unit: Unit,
    window_days: int,
    except_listing: UUID,
) -> list[ComparableRow]:
    """Other listings of a category with trades in the last ``window_days``, newest first.

    One entry per listing, whatever its number of trades, so that a busy seller does not set the
    median alone. The listing that is valued does not count as its own comparable.
    """
    return await read_comparables(
        await uow.raw(),
        category=category,
        currency=currency,
        unit=unit.value,
        after=uow.now - timedelta(days=window_days),
        until=uow.now,
        except_listing=except_listing,
        trades_max=TRADES_MAX,
        listings_max=COMPARABLES_MAX,
    )
