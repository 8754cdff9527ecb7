"""The platform's fee schedule: effective-dated, per category and currency, append-only.

An agreement freezes the fee in force when it is formed; a later schedule never touches it. A
schedule of the listing's category comes before one for all categories; without either, the
percentage of the settings holds, with no minimum and no cap.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlmodel import col, select

from listings.vocabulary import Category
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.kernel.settings import Settings
from market.parties.directory import after_id
from settlement.billing_models import FeeSchedule
from settlement.billing_schemas import FeePreview, FeeScheduleInput, FeeScheduleView
from settlement.errors import FeeBackdated
from settlement.split import SplitTerms, fee_of
from settlement.tax import contained

# Per pair the category's own schedule first, then the newest that has begun.
_IN_FORCE = """
SELECT DISTINCT ON (k.category, k.currency) k.category AS wanted, k.currency,
       s.id, s.fee_ppm, s.minimum_minor, s.cap_minor, s.vat_ppm
FROM unnest($1::text[], $2::text[]) AS k(category, currency)
JOIN settlement.fee_schedule s ON s.currency = k.currency AND s.effective_from <= $3
     AND (s.category = k.category OR s.category IS NULL)
ORDER BY k.category, k.currency, (s.category IS NULL), s.effective_from DESC, s.id DESC
"""


@dataclass(frozen=True, slots=True)
class Fee:
    """A fee in force. Minor units; ``vat_ppm`` is the tax that the fee contains."""

    schedule_id: UUID | None
    fee_ppm: int
    minimum_minor: int
    cap_minor: int | None
    vat_ppm: int

    @property
    def terms(self) -> SplitTerms:
        """As the split reads it, without shares."""
        return SplitTerms(self.fee_ppm, (), self.minimum_minor, self.cap_minor)


async def fees_in_force(
    uow: UnitOfWork, settings: Settings, pairs: Collection[tuple[str, str]], *, at: datetime
) -> dict[tuple[str, str], Fee]:
    """The fee of each (category, currency) at a moment, in one query."""
    standard = Fee(None, settings.platform_fee_ppm, 0, None, settings.platform_vat_ppm)
    found = dict.fromkeys(pairs, standard)
    if found:
        categories, currencies = zip(*found, strict=True)
        connection = await uow.raw()
        for row in await connection.fetch(_IN_FORCE, list(categories), list(currencies), at):
            found[row["wanted"], row["currency"]] = Fee(
                row["id"], row["fee_ppm"], row["minimum_minor"], row["cap_minor"], row["vat_ppm"]
            )
    return found


async def set_fee(kernel: Kernel, actor: Actor, body: FeeScheduleInput) -> FeeScheduleView:
    """Decide a fee for agreements formed from ``effective_from`` on (default: now).

    Raises RoleRequired (403) and FeeBackdated (422). Effects: a row with its reason (the audit
    record), event ``fee_schedule.set`` with it for staff.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        begins = body.effective_from or uow.now
        if begins < uow.now:
            raise FeeBackdated(param="effective_from")
        made = FeeSchedule(
            id=new_id(),
            category=body.category,
            currency=body.currency,
            fee_ppm=body.fee_ppm,
            minimum_minor=body.minimum_minor,
            cap_minor=body.cap_minor,
            vat_ppm=body.vat_ppm,
            effective_from=begins,
            reason=body.reason,
            set_by=actor.party_id,
            created_at=uow.now,
        )
        uow.session.add(made)
        view = _view(made, audited=True)
        uow.emit("fee_schedule.set", made.id, view.model_dump(mode="json"))
        await uow.answer(view)
        return view


async def list_fees(
    kernel: Kernel,
    actor: Actor | None,
    page: PageQuery,
    *,
    category: Category | None = None,
    currency: str | None = None,
) -> Page[FeeScheduleView]:
    """All schedules, past and announced, newest decision first. Public.

    Reason and author are shown to operators and regulators only. Raises BadCursor.
    """
    after = after_id(page)
    query = select(FeeSchedule).order_by(col(FeeSchedule.id).desc()).limit(page.limit + 1)
    if after is not None:
        query = query.where(col(FeeSchedule.id) < after)
    if category is not None:
        query = query.where(FeeSchedule.category == category.value)
    if currency is not None:
        query = query.where(FeeSchedule.currency == currency)
    audited = actor is not None and actor.has(Role.OPERATOR, Role.REGULATOR)
    async with kernel.unit_of_work() as uow:
        views = [_view(row, audited=audited) for row in await uow.session.exec(query)]
    return Page[FeeScheduleView].of(views, page.limit, [(view.id,) for view in views])


async def preview_fee(
    kernel: Kernel, *, category: Category, currency: str, amount_minor: int
) -> FeePreview:
    """What the platform would take of ``amount_minor`` released under today's schedule."""
    async with kernel.unit_of_work() as uow:
        pair = (category.value, currency)
        fee = (await fees_in_force(uow, kernel.settings, [pair], at=uow.now))[pair]
    taken = fee_of(amount_minor, fee.terms)
    vat = contained(taken, fee.vat_ppm)
    return FeePreview(
        schedule_id=fee.schedule_id,
        category=category,
        currency=currency,
        amount_minor=amount_minor,
        fee_ppm=fee.fee_ppm,
        minimum_minor=fee.minimum_minor,
        cap_minor=fee.cap_minor,
        fee_minor=taken,
        fee_without_tax_minor=vat.without_tax,
        fee_tax_minor=vat.tax,
        vat_ppm=fee.vat_ppm,
        net_minor=amount_minor - taken,
    )


def _view(row: FeeSchedule, *, audited: bool) -> FeeScheduleView:
    return FeeScheduleView(
        id=row.id,
        category=None if row.category is None else Category(row.category),
        currency=row.currency,
        fee_ppm=row.fee_ppm,
        minimum_minor=row.minimum_minor,
        cap_minor=row.cap_minor,
        vat_ppm=row.vat_ppm,
        effective_from=row.effective_from,
        created_at=row.created_at,
        reason=row.reason if audited else None,
        set_by=row.set_by if audited else None,
    )
