"""Listings by their sellers: draft, change, submission, delisting, reading."""

from uuid import UUID

from sqlmodel import col, select

from listings import catalog_entries, decisions, offers
from listings.classification import Grade
from listings.errors import ListingNotFound, NotEditable, ProductNotRegistered, RightMissing
from listings.fingerprints import require_markable
from listings.lifecycle import LISTING, Action, ListingStatus, VersionStatus, advance
from listings.masks import require_maskable
from listings.models import Listing, Product, ProductVersion
from listings.policy_schemas import Policy
from listings.products import get_product
from listings.schemas import (
    DecisionView,
    ListingInput,
    ListingPatch,
    ListingView,
    PriceSummary,
    SubjectKind,
)
from listings.vocabulary import Category
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.http import require_version
from market.kernel.ids import new_id, show
from market.kernel.schemas import LocalizedText, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, require_verified


async def create_listing(kernel: Kernel, actor: Actor, body: ListingInput) -> ListingView:
    """Draft an offer of a certified version (the newest one by default).

    Raises RoleRequired (403), ProductNotFound (404), ProductNotRegistered (409), RightMissing
    (422) without the right of product operation. Emits ``listing.created``.
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        product = await get_product(uow, actor, body.product_id)
        version = await _certified_version(uow, product, body.version_id)
        if not product.rights["product_operation"]["held"]:
            raise RightMissing(param="product_id")
        _require_deliverable(body.policy, version)
        listing = Listing(
            id=new_id(),
            product_id=product.id,
            version_id=version.id,
            seller_id=product.owner_id,
            title=body.title.model_dump(),
            summary=body.summary,
            category=body.category or product.category,
            grade=version.grade,
            policy=body.policy.model_dump(mode="json"),
            status=ListingStatus.DRAFT,
            plan_kinds=[],
            revision=1,
            created_at=uow.now,
            updated_at=uow.now,
        )
        uow.session.add(listing)
        emit(uow, listing, "listing.created")
        view = view_of(listing)
        await uow.answer(view, headers={"Location": f"/v1/listings/{show('lst', listing.id)}"})
    return view


def _require_deliverable(policy: Policy, version: ProductVersion) -> None:
    """Raises FingerprintInvalid, MaskInvalid, FilterInvalid (422)."""
    require_maskable(policy.masks, policy.row_filter, version.columns)
    if policy.fingerprint is not None:
        require_markable(policy.fingerprint, version.columns)


async def _certified_version(
    uow: UnitOfWork, product: Product, version_id: UUID | None
) -> ProductVersion:
    statement = (
        select(ProductVersion)
        .where(
            ProductVersion.product_id == product.id,
            ProductVersion.status == VersionStatus.CERTIFIED,
        )
        .order_by(col(ProductVersion.number).desc())
        .limit(1)
    )
    if version_id is not None:
        statement = statement.where(ProductVersion.id == version_id)
    version = (await uow.session.exec(statement)).one_or_none()
    if version is None:
        raise ProductNotRegistered
    return version


async def change_listing(
    kernel: Kernel, actor: Actor, listing_id: UUID, body: ListingPatch, *, revision: int
) -> ListingView:
    """Change a draft, or take a rejected listing back to draft with changes.

    Raises ListingNotFound (404), PreconditionFailed (412), NotEditable (409).
    """
    async with kernel.unit_of_work() as uow:
        listing = await _lock_own(uow, actor, listing_id)
        require_version(revision, listing.revision)
        if listing.status == ListingStatus.REJECTED:
            target = advance(LISTING, ListingStatus.REJECTED, Action.REVISE)
            decisions.step(uow, actor, SubjectKind.LISTING, listing, Action.REVISE, target=target)
        elif listing.status != ListingStatus.DRAFT:
            raise NotEditable(f"The listing is {listing.status}.", current=listing.status)
        if body.policy is not None:
            version = await uow.session.get_one(ProductVersion, listing.version_id)
            _require_deliverable(body.policy, version)
        given = body.model_dump(mode="json", exclude_none=True)
        listing.sqlmodel_update(given)
        listing.revision += 1
        listing.updated_at = uow.now
        return view_of(listing)


async def submit_listing(kernel: Kernel, actor: Actor, listing_id: UUID) -> ListingView:
    """Ask for publication. Raises ListingNotFound (404), PartyNotVerified (403),
    IllegalTransition (409). Emits ``listing.submitted``."""
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        listing = await _lock_own(uow, actor, listing_id)
        await require_verified(uow, actor.party_id)
        step_listing(uow, actor, listing, Action.SUBMIT)
        listing.submitted_at = uow.now
        emit(uow, listing, "listing.submitted")
        view = view_of(listing)
        await uow.answer(view, status=200)
    return view


async def delist(kernel: Kernel, actor: Actor, listing_id: UUID) -> ListingView:
    """Take a listing off the market for good; agreements stay. Owner or operator.

    Raises ListingNotFound (404), IllegalTransition (409). Emits ``listing.delisted``.
    """
    actor.require(Role.SELLER, Role.OPERATOR)
    async with kernel.unit_of_work() as uow:
        listing = await offers.lock_listing(uow, listing_id)
        if listing.seller_id != actor.party_id and not actor.has(Role.OPERATOR):
            raise ListingNotFound
        step_listing(uow, actor, listing, Action.DELIST)
        await catalog_entries.withdraw(uow, listing.id)
        emit(uow, listing, "listing.delisted")
        view = view_of(listing)
        await uow.answer(view, status=200)
    return view


async def show_listing(kernel: Kernel, actor: Actor, listing_id: UUID) -> ListingView:
    """A published listing for everybody logged in, any other for its seller and the overseers.

    Raises ListingNotFound (404).
    """
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, listing_id)
        if listing.status != ListingStatus.LISTED and not may_oversee(actor, listing.seller_id):
            raise ListingNotFound
        return view_of(listing)


async def list_listings(
    kernel: Kernel, actor: Actor, page: PageQuery, *, status: ListingStatus | None = None
) -> Page[ListingView]:
    """The actor's own listings, or everybody's for operators and regulators; oldest first."""
    statement = select(Listing).order_by(col(Listing.id)).limit(page.limit + 1)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        statement = statement.where(Listing.seller_id == actor.party_id)
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Listing.id) > after)
    if status is not None:
        statement = statement.where(Listing.status == status)
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()
    return Page.of([view_of(row) for row in rows], page.limit, [(row.id,) for row in rows])


async def listing_history(kernel: Kernel, actor: Actor, listing_id: UUID) -> list[DecisionView]:
    """The status steps of a listing, for its seller and the overseers. Raises ListingNotFound."""
    async with kernel.unit_of_work() as uow:
        listing = await offers.get_listing(uow, listing_id)
        if not may_oversee(actor, listing.seller_id):
            raise ListingNotFound
        return await decisions.history(uow, listing_id)


async def _lock_own(uow: UnitOfWork, actor: Actor, listing_id: UUID) -> Listing:
    listing = await offers.lock_listing(uow, listing_id)
    if listing.seller_id != actor.party_id:
        raise ListingNotFound
    return listing


def step_listing(
    uow: UnitOfWork, actor: Actor, listing: Listing, action: Action, *, reason: str | None = None
) -> None:
    """One recorded status step of a locked listing. Raises IllegalTransition (409)."""
    target = advance(LISTING, ListingStatus(listing.status), action)
    decisions.step(uow, actor, SubjectKind.LISTING, listing, action, target=target, reason=reason)
    listing.revision += 1
    listing.updated_at = uow.now


def emit(uow: UnitOfWork, listing: Listing, type_: str) -> None:
    """An event about a listing, for its seller."""
    uow.emit(
        type_,
        listing.id,
        {
            "listing_id": show("lst", listing.id),
            "product_id": show("prd", listing.product_id),
            "version_id": show("ver", listing.version_id),
            "status": listing.status,
        },
        parties=[listing.seller_id],
    )


def price_of(listing: Listing) -> PriceSummary | None:
    """The price summary, if the listing has active plans."""
    if listing.from_minor is None or listing.currency is None:
        return None
    return PriceSummary(
        from_minor=listing.from_minor, currency=listing.currency, plan_kinds=listing.plan_kinds
    )


def view_of(listing: Listing) -> ListingView:
    """As the API shows it."""
    return ListingView(
        id=listing.id,
        product_id=listing.product_id,
        version_id=listing.version_id,
        seller_id=listing.seller_id,
        title=LocalizedText.model_validate(listing.title),
        summary=listing.summary,
        category=Category(listing.category),
        grade=Grade(listing.grade),
        policy=Policy.model_validate(listing.policy),
        status=ListingStatus(listing.status),
        status_reason=listing.status_reason,
        price=price_of(listing),
        revision=listing.revision,
        created_at=listing.created_at,
        updated_at=listing.updated_at,
        listed_at=listing.listed_at,
    )
