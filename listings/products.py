"""Registration of products: draft, change, submission for review, reading."""

from collections.abc import Sequence
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy.dialects.postgresql import distinct_on
from sqlmodel import col, select

from listings import classification, decisions
from listings.classification import Requirement
from listings.errors import (
    CoreDataRefused,
    DeidentificationRequired,
    FilingRequired,
    NotEditable,
    ProductInvalid,
    ProductNotFound,
    VersionMissing,
)
from listings.lifecycle import PRODUCT, VERSION, Action, ProductStatus, VersionStatus, advance
from listings.models import Certificate, Product, ProductVersion
from listings.schemas import (
    Assessment,
    DecisionView,
    ProductInput,
    ProductPatch,
    ProductView,
    SubjectKind,
)
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.errors import MarketError
from market.kernel.http import require_version
from market.kernel.ids import new_id, show
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.access import may_oversee
from market.parties.directory import after_id, require_verified

_REFUSALS: dict[Requirement, type[MarketError]] = {
    Requirement.CORE_DATA_REFUSED: CoreDataRefused,
    Requirement.FILING_REQUIRED: FilingRequired,
    Requirement.DEIDENTIFICATION_REQUIRED: DeidentificationRequired,
}


async def create_product(kernel: Kernel, actor: Actor, body: ProductInput) -> ProductView:
    """Open a registration as a draft. Raises RoleRequired (403). Emits ``product.created``."""
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        product = Product(
            id=new_id(),
            owner_id=actor.party_id,
            **body.model_dump(mode="json"),
            grade=_assess_input(body).grade,
            status=ProductStatus.DRAFT,
            revision=1,
            created_at=uow.now,
            updated_at=uow.now,
        )
        uow.session.add(product)
        uow.emit(
            "product.created",
            product.id,
            {"product_id": show("prd", product.id)},
            parties=[product.owner_id],
        )
        view = _view(product, None, None)
        await uow.answer(view, headers={"Location": f"/v1/products/{show('prd', product.id)}"})
    return view


async def change_product(
    kernel: Kernel, actor: Actor, product_id: UUID, body: ProductPatch, *, revision: int
) -> ProductView:
    """Change a draft, or take a rejected product back to draft with changes.

    Raises ProductNotFound (404), PreconditionFailed (412), NotEditable (409), ProductInvalid
    (422) when the fields do not fit together.
    """
    async with kernel.unit_of_work() as uow:
        product = await lock_own_product(uow, actor, product_id)
        require_version(revision, product.revision)
        if product.status not in (ProductStatus.DRAFT, ProductStatus.REJECTED):
            raise NotEditable(f"The product is {product.status}.", current=product.status)
        merged = {**_input_of(product).model_dump(), **body.model_dump(exclude_unset=True)}
        try:
            changed = ProductInput.model_validate(merged)
        except ValidationError as error:
            first = error.errors()[0]
            param = ".".join(str(part) for part in first["loc"])
            raise ProductInvalid(str(first["msg"])[:300], param=param or None) from error
        product.sqlmodel_update(changed.model_dump(mode="json"))
        latest = await latest_version(uow, product_id)
        product.grade = _assess_input(changed, _sensitive(latest)).grade
        await revise(uow, actor, product, latest)
        product.revision += 1
        product.updated_at = uow.now
        return await view_of(uow, product)


async def submit_product(kernel: Kernel, actor: Actor, product_id: UUID) -> ProductView:
    """Ask for registration, or, once registered, for certification of the newest version.

    Raises ProductNotFound (404), PartyNotVerified (403), VersionMissing and IllegalTransition
    (409), CoreDataRefused, FilingRequired, DeidentificationRequired (422). Emits
    ``product.submitted``.
    """
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        product = await lock_own_product(uow, actor, product_id)
        await require_verified(uow, actor.party_id)
        version = await latest_version(uow, product_id)
        if product.status != ProductStatus.REGISTERED:
            target = advance(PRODUCT, ProductStatus(product.status), Action.SUBMIT)
            if version is None:
                raise VersionMissing
            require_admissible(product, version)
            decisions.step(uow, actor, SubjectKind.PRODUCT, product, Action.SUBMIT, target=target)
            product.submitted_at = uow.now
        if version is None:
            raise VersionMissing
        status = VersionStatus(version.status)
        if status is VersionStatus.REJECTED:
            status = advance(VERSION, status, Action.REVISE)
            decisions.step(uow, actor, SubjectKind.VERSION, version, Action.REVISE, target=status)
            await uow.session.flush()
        target_version = advance(VERSION, status, Action.SUBMIT)
        version.grade = require_admissible(product, version).grade
        decisions.step(
            uow, actor, SubjectKind.VERSION, version, Action.SUBMIT, target=target_version
        )
        version.submitted_at = uow.now
        product.grade = version.grade
        product.revision += 1
        product.updated_at = uow.now
        uow.emit(
            "product.submitted",
            product.id,
            {"product_id": show("prd", product.id), "version": version.number},
            parties=[product.owner_id],
        )
        view = await view_of(uow, product)
        await uow.answer(view, status=200)
    return view


async def show_product(kernel: Kernel, actor: Actor, product_id: UUID) -> ProductView:
    """One product, for its owner and the overseers. Raises ProductNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        return await view_of(uow, await get_product(uow, actor, product_id))


async def list_products(
    kernel: Kernel, actor: Actor, page: PageQuery, *, status: ProductStatus | None = None
) -> Page[ProductView]:
    """The actor's own products, or everybody's for operators and regulators; oldest first."""
    statement = select(Product).order_by(col(Product.id)).limit(page.limit + 1)
    if not actor.has(Role.OPERATOR, Role.REGULATOR):
        statement = statement.where(Product.owner_id == actor.party_id)
    after = after_id(page)
    if after is not None:
        statement = statement.where(col(Product.id) > after)
    if status is not None:
        statement = statement.where(Product.status == status)
    async with kernel.unit_of_work() as uow:
        rows = (await uow.session.exec(statement)).all()
        views = await _views(uow, rows)
    return Page.of(views, page.limit, [(row.id,) for row in rows])


async def product_history(kernel: Kernel, actor: Actor, product_id: UUID) -> list[DecisionView]:
    """The status steps of a product. Raises ProductNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        await get_product(uow, actor, product_id)
        return await decisions.history(uow, product_id)


async def get_product(uow: UnitOfWork, actor: Actor, product_id: UUID) -> Product:
    """Raises ProductNotFound (404), also for a product that the actor may not see."""
    product = await uow.session.get(Product, product_id)
    if product is None or not may_oversee(actor, product.owner_id):
        raise ProductNotFound
    return product


async def lock_product(uow: UnitOfWork, product_id: UUID) -> Product:
    """The row, locked until the unit of work ends. Raises ProductNotFound (404)."""
    statement = (
        select(Product)
        .where(Product.id == product_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    product = (await uow.session.exec(statement)).one_or_none()
    if product is None:
        raise ProductNotFound
    return product


async def lock_own_product(uow: UnitOfWork, actor: Actor, product_id: UUID) -> Product:
    """The actor's own product, locked. Raises ProductNotFound (404) for anybody else's."""
    product = await lock_product(uow, product_id)
    if product.owner_id != actor.party_id:
        raise ProductNotFound
    return product


async def latest_version(uow: UnitOfWork, product_id: UUID) -> ProductVersion | None:
    """The newest upload, whatever its status (protected by the product's lock)."""
    statement = (
        select(ProductVersion)
        .where(ProductVersion.product_id == product_id)
        .order_by(col(ProductVersion.number).desc())
        .limit(1)
    )
    return (await uow.session.exec(statement)).one_or_none()


def require_admissible(
    product: Product, version: ProductVersion | None
) -> classification.Assessment:
    """Grade the product as it stands. Raises the first unmet requirement (422)."""
    found = _sensitive(version)
    assessment = _assess_input(_input_of(product), found)
    for requirement in assessment.requirements:
        named = f" Detected columns: {', '.join(found)}." if found else ""
        refusal = _REFUSALS[requirement]
        raise refusal(f"{refusal.title}.{named}", grade=assessment.grade.value)
    return assessment


async def revise(
    uow: UnitOfWork, actor: Actor, product: Product, version: ProductVersion | None
) -> None:
    """Take a rejected product, and its rejected newest version, back to draft."""
    if product.status != ProductStatus.REJECTED:
        return
    target = advance(PRODUCT, ProductStatus.REJECTED, Action.REVISE)
    decisions.step(uow, actor, SubjectKind.PRODUCT, product, Action.REVISE, target=target)
    if version is not None and version.status == VersionStatus.REJECTED:
        draft = advance(VERSION, VersionStatus.REJECTED, Action.REVISE)
        decisions.step(uow, actor, SubjectKind.VERSION, version, Action.REVISE, target=draft)
    await uow.session.flush()


async def view_of(uow: UnitOfWork, product: Product) -> ProductView:
    """The owner's view of one product."""
    return (await _views(uow, [product]))[0]


async def _views(uow: UnitOfWork, products: Sequence[Product]) -> list[ProductView]:
    ids = [product.id for product in products]
    # Without the profiles: they are the largest part of a row.
    newest = (
        select(
            ProductVersion.product_id, ProductVersion.number, col(ProductVersion.sensitive_columns)
        )
        .where(col(ProductVersion.product_id).in_(ids))
        .ext(distinct_on(col(ProductVersion.product_id)))
        .order_by(col(ProductVersion.product_id), col(ProductVersion.number).desc())
    )
    rows = (await uow.session.exec(newest)).all() if ids else []
    latest = {product_id: (number, found) for product_id, number, found in rows}
    issued = (
        select(Certificate.product_id, Certificate.id)
        .where(col(Certificate.product_id).in_(ids))
        .ext(distinct_on(col(Certificate.product_id)))
        .order_by(col(Certificate.product_id), col(Certificate.id).desc())
    )
    certificates = dict((await uow.session.exec(issued)).all()) if ids else {}
    return [
        _view(product, latest.get(product.id), certificates.get(product.id)) for product in products
    ]


def _input_of(product: Product) -> ProductInput:
    return ProductInput.model_validate(
        {name: getattr(product, name) for name in ProductInput.model_fields}
    )


def _assess_input(body: ProductInput, sensitive: Sequence[str] = ()) -> classification.Assessment:
    declared = classification.Declared(
        impacts=[
            classification.Impact(each.element, each.object, each.degree) for each in body.impacts
        ],
        contains_personal_data=body.contains_personal_data,
        people_count=body.people_count,
        deidentified=body.deidentification is not None,
        filed=body.filing_reference is not None,
    )
    return classification.assess(declared, sensitive)


def _sensitive(version: ProductVersion | None) -> Sequence[str]:
    return version.sensitive_columns if version is not None else ()


def _view(
    product: Product, latest: tuple[int, list[str]] | None, certificate_id: UUID | None
) -> ProductView:
    body = _input_of(product)
    number, sensitive = latest or (None, ())
    assessment = _assess_input(body, sensitive)
    return ProductView(
        **dict(body),
        id=product.id,
        owner_id=product.owner_id,
        status=ProductStatus(product.status),
        status_reason=product.status_reason,
        assessment=Assessment(
            grade=assessment.grade,
            deciding=list(assessment.deciding),
            personal_data=assessment.personal_data,
            requirements=list(assessment.requirements),
        ),
        latest_version=number,
        certificate_id=certificate_id,
        revision=product.revision,
        created_at=product.created_at,
        updated_at=product.updated_at,
    )
