"""Versions: upload, conversion, profile; reading them back."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import timedelta
from uuid import UUID

from sqlalchemy import update
from sqlalchemy.orm import defer
from sqlmodel import col, delete, func, select

from listings import quality
from listings.classification import Grade
from listings.errors import (
    CoreDataRefused,
    NotEditable,
    UploadExpired,
    VersionDuplicate,
    VersionNotFound,
)
from listings.intake import (
    Declared,
    Parsed,
    Spooled,
    parse,
    read_content_type,
    scratch_folder,
    spool,
)
from listings.lifecycle import ProductStatus, VersionStatus
from listings.models import BlobIntent, Product, ProductVersion
from listings.products import get_product, latest_version, lock_own_product, revise
from listings.schemas import (
    ColumnView,
    Profile,
    Quality,
    VersionSummary,
    VersionView,
)
from listings.vocabulary import UpdateCycle
from market.kernel import idempotency
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.schemas import BadCursor, Page, PageQuery
from market.kernel.security import Actor, Role
from market.parties.directory import require_verified

# Columns that a summary does not show; a wide table's profile has 100 kB.
_LARGE = ("columns", "profile", "preview")
_UPLOADABLE = (ProductStatus.DRAFT, ProductStatus.REJECTED, ProductStatus.REGISTERED)


async def upload_version(
    kernel: Kernel,
    actor: Actor,
    product_id: UUID,
    *,
    content_type: str | None,
    body: AsyncIterator[bytes],
) -> VersionView:
    """Store a new version of a product from a raw CSV or Parquet body.

    The file is read, converted and profiled before anything is written; the blob is stored under
    a registered intent before the row that refers to it, so that a crash leaves nothing that
    `jobs.sweep_blobs` does not remove.

    Raises UploadFormatUnsupported (415), ProductNotFound (404), PartyNotVerified (403),
    NotEditable, VersionDuplicate (409), UploadTooLarge (413), the refusals of
    `errors.PARSE_REFUSALS` and CoreDataRefused (422), UploadsBusy (503). Emits
    ``version.uploaded``.
    """
    declared = read_content_type(content_type)
    actor.require(Role.SELLER)
    async with kernel.unit_of_work() as uow:
        await _admit(uow, actor, product_id)
    async with scratch_folder(kernel.settings.home) as work:
        spooled = await spool(body, work, max_bytes=kernel.settings.upload_max_bytes)
        idempotency.bind_content(bytes.fromhex(spooled.sha256))
        async with kernel.unit_of_work() as uow:
            # A repeated request ends here, with the answer of the first.
            await _admit(uow, actor, product_id)
            await _refuse_duplicate(uow, product_id, spooled.sha256)
            now = uow.now
        parsed, converted = await parse(spooled, declared, now=now)
        version_id = new_id()
        # The content's hash makes the key verifiable, the id makes it this upload's own: a blob
        # is never shared, so sweeping an abandoned one cannot take it from another version.
        key = f"versions/{parsed.sha256[:2]}/{parsed.sha256}-{version_id.hex}.parquet"
        async with kernel.unit_of_work() as uow:
            uow.session.add(BlobIntent(blob_key=key, doomed=False, created_at=uow.now))
        await kernel.blobs.put_file(key, converted)
    async with kernel.unit_of_work() as uow:
        view = await _record(
            uow,
            actor,
            product_id,
            version_id,
            key=key,
            spooled=spooled,
            declared=declared,
            parsed=parsed,
        )
        path = f"/v1/products/{show('prd', product_id)}/versions/{view.number}"
        await uow.answer(view, headers={"Location": path})
    return view


async def _admit(uow: UnitOfWork, actor: Actor, product_id: UUID) -> Product:
    product = await lock_own_product(uow, actor, product_id)
    await require_verified(uow, actor.party_id)
    if product.status not in _UPLOADABLE:
        raise NotEditable(f"The product is {product.status}.", current=product.status)
    if product.grade == Grade.CORE:
        raise CoreDataRefused
    return product


async def _refuse_duplicate(uow: UnitOfWork, product_id: UUID, source_sha256: str) -> None:
    statement = select(ProductVersion.number).where(
        ProductVersion.product_id == product_id, ProductVersion.source_sha256 == source_sha256
    )
    number = (await uow.session.exec(statement)).one_or_none()
    if number is not None:
        raise VersionDuplicate(f"Version {number} has exactly these bytes.", version=number)


async def _record(
    uow: UnitOfWork,
    actor: Actor,
    product_id: UUID,
    version_id: UUID,
    *,
    key: str,
    spooled: Spooled,
    declared: Declared,
    parsed: Parsed,
) -> VersionView:
    product = await _admit(uow, actor, product_id)
    await _refuse_duplicate(uow, product_id, spooled.sha256)
    claimed = await uow.session.exec(
        delete(BlobIntent).where(col(BlobIntent.blob_key) == key, col(BlobIntent.doomed).is_(False))
    )
    if claimed.rowcount != 1:
        raise UploadExpired
    await revise(uow, actor, product, await latest_version(uow, product_id))
    highest = select(func.max(ProductVersion.number)).where(ProductVersion.product_id == product_id)
    number = ((await uow.session.exec(highest)).one() or 0) + 1
    version = _version(
        uow,
        product,
        version_id,
        number,
        key=key,
        spooled=spooled,
        declared=declared,
        parsed=parsed,
    )
    uow.session.add(version)
    product.revision += 1
    product.updated_at = uow.now
    uow.emit(
        "version.uploaded",
        version.id,
        {
            "product_id": show("prd", product_id),
            "version_id": show("ver", version.id),
            "number": number,
            "sha256": version.sha256,
        },
        parties=[product.owner_id],
    )
    return view_of(version)


def _version(
    uow: UnitOfWork,
    product: Product,
    version_id: UUID,
    number: int,
    *,
    key: str,
    spooled: Spooled,
    declared: Declared,
    parsed: Parsed,
) -> ProductVersion:
    scores = quality.score(
        [
            quality.ColumnCounts(
                each.null_count, each.invalid_count, each.spellings, each.canonical_spellings
            )
            for each in parsed.columns
        ],
        rows=parsed.row_count,
        distinct_rows=parsed.distinct_rows,
        cycle=UpdateCycle(product.update_cycle),
        latest=parsed.latest,
        now=uow.now,
    )
    profile = Profile.model_validate(
        parsed.model_dump(include={"row_count", "distinct_rows", "latest", "columns"})
    )
    columns = [
        ColumnView(name=each.name, type=each.type, nullable=each.null_count > 0)
        for each in parsed.columns
    ]
    return ProductVersion(
        id=version_id,
        product_id=product.id,
        number=number,
        status=VersionStatus.DRAFT,
        blob_key=key,
        row_count=parsed.row_count,
        byte_count=parsed.byte_count,
        sha256=parsed.sha256,
        source_format=declared.format.value,
        source_bytes=spooled.byte_count,
        source_sha256=spooled.sha256,
        columns=[each.model_dump(mode="json") for each in columns],
        profile=profile.model_dump(mode="json"),
        quality=asdict(scores),
        preview=parsed.preview,
        sensitive_columns=[each.name for each in parsed.columns if each.sensitive is not None],
        grade=product.grade,
        created_at=uow.now,
    )


async def show_version(kernel: Kernel, actor: Actor, product_id: UUID, number: int) -> VersionView:
    """One version with schema and profile. Raises ProductNotFound, VersionNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        await get_product(uow, actor, product_id)
        statement = select(ProductVersion).where(
            ProductVersion.product_id == product_id, ProductVersion.number == number
        )
        version = (await uow.session.exec(statement)).one_or_none()
        if version is None:
            raise VersionNotFound
        return view_of(version)


async def list_versions(
    kernel: Kernel, actor: Actor, product_id: UUID, page: PageQuery
) -> Page[VersionSummary]:
    """A product's versions, oldest first. Raises ProductNotFound (404), BadCursor (422)."""
    statement = (
        select(ProductVersion)
        .where(ProductVersion.product_id == product_id)
        .order_by(col(ProductVersion.number))
        .limit(page.limit + 1)
        .options(*(defer(getattr(ProductVersion, name)) for name in _LARGE))
    )
    key = page.key(1)
    if key is not None:
        if not key[0].isdecimal() or len(key[0]) > 9:
            raise BadCursor(param="after")
        statement = statement.where(col(ProductVersion.number) > int(key[0]))
    async with kernel.unit_of_work() as uow:
        await get_product(uow, actor, product_id)
        rows = (await uow.session.exec(statement)).all()
    return Page.of([summary_of(row) for row in rows], page.limit, [(row.number,) for row in rows])


def summary_of(version: ProductVersion) -> VersionSummary:
    """Without schema and profile."""
    return VersionSummary.model_validate(
        {name: getattr(version, name) for name in VersionSummary.model_fields}
    )


def view_of(version: ProductVersion) -> VersionView:
    """With schema and profile."""
    return VersionView(
        **{**dict(summary_of(version)), "quality": Quality.model_validate(version.quality)},
        columns=[ColumnView.model_validate(each) for each in version.columns],
        profile=Profile.model_validate(version.profile),
    )


async def doom_abandoned_intents(uow: UnitOfWork, *, age_s: int, limit: int) -> list[str]:
    """Mark intents older than ``age_s`` seconds, so that no upload can complete them any more,
    and return the keys of all marked ones (at most ``limit``)."""
    old = (
        select(BlobIntent.blob_key)
        .where(col(BlobIntent.created_at) < uow.now - timedelta(seconds=age_s))
        .order_by(col(BlobIntent.created_at))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = list((await uow.session.exec(old)).all())
    if keys:
        await uow.session.exec(
            update(BlobIntent).where(col(BlobIntent.blob_key).in_(keys)).values(doomed=True)
        )
    return keys


async def forget_intent(uow: UnitOfWork, blob_key: str) -> None:
    """Remove a marked intent after its blob is gone."""
    await uow.session.exec(
        delete(BlobIntent).where(
            col(BlobIntent.blob_key) == blob_key, col(BlobIntent.doomed).is_(True)
        )
    )
