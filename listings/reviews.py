"""Operators' work: the review queue, approval and rejection, suspension and resumption."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, case, literal, select as sql_select, tuple_, union_all
from sqlmodel import col

from listings import catalog_entries, certificates, decisions, offers
from listings.errors import IllegalTransition
from listings.lifecycle import (
    PRODUCT,
    VERSION,
    Action,
    ListingStatus,
    ProductStatus,
    VersionStatus,
    advance,
)
from listings.models import Listing, Product, ProductVersion
from listings.offering import emit, step_listing, view_of as listing_view
from listings.products import latest_version, lock_product, require_admissible, view_of
from listings.schemas import ListingView, ProductView, Reason, ReviewItem, SubjectKind
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import show
from market.kernel.schemas import BadCursor, LocalizedText, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import get_parties, require_verified


async def approve_product(kernel: Kernel, actor: Actor, product_id: UUID) -> ProductView:
    """Register the product, or certify the new version of a registered one.

    Raises RoleRequired (403), ProductNotFound (404), IllegalTransition (409), PartyNotVerified
    (403) when its owner may no longer trade, and the unmet requirements of its grade (422).
    Emits ``product.registered`` and ``certificate.issued``.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        product, version = await _under_review(uow, product_id, Action.APPROVE)
        owner = await require_verified(uow, product.owner_id)
        require_admissible(product, version)
        if product.status == ProductStatus.IN_REVIEW:
            target = advance(PRODUCT, ProductStatus.IN_REVIEW, Action.APPROVE)
            decisions.step(uow, actor, SubjectKind.PRODUCT, product, Action.APPROVE, target=target)
            product.revision += 1
            product.updated_at = uow.now
            fact = {"product_id": show("prd", product.id)}
            uow.emit("product.registered", product.id, fact, parties=[product.owner_id])
        certified = advance(VERSION, VersionStatus(version.status), Action.APPROVE)
        decisions.step(uow, actor, SubjectKind.VERSION, version, Action.APPROVE, target=certified)
        certificates.issue(uow, kernel, actor, product=product, version=version, owner=owner)
        view = await view_of(uow, product)
        await uow.answer(view, status=200)
    return view


async def reject_product(
    kernel: Kernel, actor: Actor, product_id: UUID, body: Reason
) -> ProductView:
    """Refuse a registration, or the new version of a registered product, with a reason.

    Raises RoleRequired (403), ProductNotFound (404), IllegalTransition (409). Emits
    ``product.rejected``.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        product, version = await _under_review(uow, product_id, Action.REJECT)
        if product.status == ProductStatus.IN_REVIEW:
            target = advance(PRODUCT, ProductStatus.IN_REVIEW, Action.REJECT)
            decisions.step(
                uow,
                actor,
                SubjectKind.PRODUCT,
                product,
                Action.REJECT,
                target=target,
                reason=body.reason,
            )
            product.revision += 1
            product.updated_at = uow.now
        refused = advance(VERSION, VersionStatus(version.status), Action.REJECT)
        decisions.step(
            uow,
            actor,
            SubjectKind.VERSION,
            version,
            Action.REJECT,
            target=refused,
            reason=body.reason,
        )
        uow.emit(
            "product.rejected",
            product.id,
            {"product_id": show("prd", product.id), "version": version.number},
            parties=[product.owner_id],
        )
        view = await view_of(uow, product)
        await uow.answer(view, status=200)
    return view


async def _under_review(
    uow: UnitOfWork, product_id: UUID, action: Action
) -> tuple[Product, ProductVersion]:
    product = await lock_product(uow, product_id)
    version = await latest_version(uow, product_id)
    if version is None or version.status != VersionStatus.IN_REVIEW:
        raise IllegalTransition(
            f"{action} is not possible: nothing of this product waits for a review.",
            current=product.status,
            allowed=[],
        )
    return product, version


async def approve_listing(kernel: Kernel, actor: Actor, listing_id: UUID) -> ListingView:
    """Put a listing on the market.

    Raises RoleRequired and PartyNotVerified (403), ListingNotFound (404), IllegalTransition
    (409). Emits ``listing.listed``.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.lock_listing(uow, listing_id)
        step_listing(uow, actor, listing, Action.APPROVE)
        listing.listed_at = uow.now
        await _publish(uow, listing)
        emit(uow, listing, "listing.listed")
        view = listing_view(listing)
        await uow.answer(view, status=200)
    return view


async def reject_listing(
    kernel: Kernel, actor: Actor, listing_id: UUID, body: Reason
) -> ListingView:
    """Refuse a listing with a reason. Raises RoleRequired (403), ListingNotFound (404),
    IllegalTransition (409). Emits ``listing.rejected``."""
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.lock_listing(uow, listing_id)
        step_listing(uow, actor, listing, Action.REJECT, reason=body.reason)
        emit(uow, listing, "listing.rejected")
        view = listing_view(listing)
        await uow.answer(view, status=200)
    return view


async def suspend_listing(
    kernel: Kernel, actor: Actor, listing_id: UUID, body: Reason
) -> ListingView:
    """Take a listing off the market until it is resumed. Raises RoleRequired (403),
    ListingNotFound (404), IllegalTransition (409). Emits ``listing.suspended``."""
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.lock_listing(uow, listing_id)
        await suspend(uow, actor, listing, body.reason)
        view = listing_view(listing)
        await uow.answer(view, status=200)
    return view


async def resume_listing(kernel: Kernel, actor: Actor, listing_id: UUID) -> ListingView:
    """Put a suspended listing back on the market, at its old place.

    Raises RoleRequired and PartyNotVerified (403), ListingNotFound (404), IllegalTransition
    (409). Emits ``listing.resumed``.
    """
    actor.require(Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.lock_listing(uow, listing_id)
        step_listing(uow, actor, listing, Action.RESUME)
        await _publish(uow, listing)
        emit(uow, listing, "listing.resumed")
        view = listing_view(listing)
        await uow.answer(view, status=200)
    return view


async def suspend(uow: UnitOfWork, actor: Actor, listing: Listing, reason: str) -> None:
    """Suspend a locked listing. Raises IllegalTransition (409)."""
    step_listing(uow, actor, listing, Action.SUSPEND, reason=reason)
    await catalog_entries.withdraw(uow, listing.id)
    emit(uow, listing, "listing.suspended")


async def _publish(uow: UnitOfWork, listing: Listing) -> None:
    seller = await require_verified(uow, listing.seller_id)
    product = await uow.session.get_one(Product, listing.product_id)
    version = await offers.get_version(uow, listing.version_id)
    await catalog_entries.publish(
        uow, listing, product=product, version=version, seller_name=seller.name
    )


async def review_queue(kernel: Kernel, actor: Actor, page: PageQuery) -> Page[ReviewItem]:
    """Everything that waits for an operator, oldest submission first.

    Raises RoleRequired (403), BadCursor (422).
    """
    actor.require(Role.OPERATOR, Role.REGULATOR)
    waiting = union_all(_waiting_versions(), _waiting_listings()).subquery("waiting")
    statement = (
        sql_select(*waiting.c).order_by(waiting.c.submitted_at, waiting.c.id).limit(page.limit + 1)
    )
    key = page.key(2)
    if key is not None:
        try:
            after = (datetime.fromisoformat(key[0]), UUID(key[1]))
        except ValueError as error:
            raise BadCursor(param="after") from error
        statement = statement.where(tuple_(waiting.c.submitted_at, waiting.c.id) > after)
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()  # type: ignore[call-overload]  # plain rows
        owners = await get_parties(uow, [row.owner_id for row in rows])
    items = [
        ReviewItem(
            kind=row.kind,
            id=show("lst" if row.kind == SubjectKind.LISTING else "prd", row.id),
            title=LocalizedText.model_validate(row.title),
            owner_id=row.owner_id,
            owner_name=owners[row.owner_id].name,
            grade=row.grade,
            version=row.number,
            submitted_at=row.submitted_at,
        )
        for row in rows
    ]
    cursors = [(row.submitted_at.isoformat(), row.id) for row in rows]
    return Page.of(items, page.limit, cursors)


def _waiting_versions() -> Select[Any]:
    kind: Any = case(
        (col(Product.status) == ProductStatus.REGISTERED, SubjectKind.VERSION.value),
        else_=SubjectKind.PRODUCT.value,
    )
    return (
        sql_select(
            kind.label("kind"),
            col(Product.id).label("id"),
            col(Product.name).label("title"),
            col(Product.owner_id).label("owner_id"),
            col(ProductVersion.grade).label("grade"),
            col(ProductVersion.number).label("number"),
            col(ProductVersion.submitted_at).label("submitted_at"),
        )
        .join(ProductVersion, col(ProductVersion.product_id) == col(Product.id))
        .where(col(ProductVersion.status) == VersionStatus.IN_REVIEW.value)
    )


def _waiting_listings() -> Select[Any]:
    kind: Any = literal(SubjectKind.LISTING.value)
    return (
        sql_select(
            kind.label("kind"),
            col(Listing.id).label("id"),
            col(Listing.title).label("title"),
            col(Listing.seller_id).label("owner_id"),
            col(Listing.grade).label("grade"),
            col(ProductVersion.number).label("number"),
            col(Listing.submitted_at).label("submitted_at"),
        )
        .join(ProductVersion, col(ProductVersion.id) == col(Listing.version_id))
        .where(col(Listing.status) == ListingStatus.IN_REVIEW.value)
    )
