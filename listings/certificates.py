"""Registration certificates: issued once per version, public, verifiable offline."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlmodel import select

from listings.errors import CertificateNotFound
from listings.models import Certificate, Product, ProductVersion
from listings.schemas import CertificateClaims, CertificateView
from market.kernel.context import Kernel
from market.kernel.db import UnitOfWork
from market.kernel.ids import new_id, show
from market.kernel.security import (
    Actor,
    InvalidToken,
    canonical_json,
    sha256_hex,
    verify_with_jwks,
)
from market.parties.models import Party

CERTIFICATE_TYP = "certificate+jws"
# A certificate has about 1 kB; more is not ours, and decoding stays bounded.
JWS_MAX_CHARS = 16_384


def issue(
    uow: UnitOfWork,
    kernel: Kernel,
    actor: Actor,
    *,
    product: Product,
    version: ProductVersion,
    owner: Party,
) -> Certificate:
    """Sign the registration of ``version`` and add it to the transaction. Emits
    ``certificate.issued``."""
    certificate_id = new_id()
    payload = {
        "certificate_id": show("crt", certificate_id),
        "product_id": show("prd", product.id),
        "product_name": product.name,
        "owner_id": show("pty", owner.id),
        "owner_name": owner.name,
        "version_id": show("ver", version.id),
        "version_number": version.number,
        "sha256": version.sha256,
        "row_count": version.row_count,
        "byte_count": version.byte_count,
        "rights": {name: right["held"] for name, right in product.rights.items()},
        "grade": version.grade,
        "profile_sha256": profile_digest(version.profile),
        "issued_at": uow.now.isoformat(),
    }
    jws = kernel.keys.sign(CERTIFICATE_TYP, payload)
    certificate = Certificate(
        id=certificate_id,
        product_id=product.id,
        version_id=version.id,
        owner_id=owner.id,
        jws=jws,
        claims=kernel.keys.verify(CERTIFICATE_TYP, jws),
        issued_by=actor.party_id,
        issued_at=uow.now,
    )
    uow.session.add(certificate)
    uow.emit(
        "certificate.issued",
        certificate_id,
        {
            "certificate_id": show("crt", certificate_id),
            "product_id": show("prd", product.id),
            "version_id": show("ver", version.id),
        },
        parties=[owner.id],
    )
    return certificate


def profile_digest(profile: Mapping[str, Any]) -> str:
    """SHA-256 of the profile as the API shows it: JSON with sorted keys and no spaces."""
    return sha256_hex(canonical_json(dict(profile)))


def verify_certificate(jws: str, jwks: Mapping[str, Any]) -> dict[str, Any]:
    """Check a certificate offline against a published JWKS and return its claims.

    Raises InvalidToken for a wrong signature, type, key or content. No I/O.
    """
    if len(jws) > JWS_MAX_CHARS:
        raise InvalidToken("The certificate is too long.")
    claims = verify_with_jwks(CERTIFICATE_TYP, jws.strip(), jwks)
    try:
        CertificateClaims.model_validate(claims)
    except ValidationError as error:
        raise InvalidToken("The certificate lacks required statements.") from error
    return claims


async def show_certificate(kernel: Kernel, certificate_id: UUID) -> CertificateView:
    """One certificate; public. Raises CertificateNotFound (404)."""
    async with kernel.unit_of_work() as uow:
        certificate = await uow.session.get(Certificate, certificate_id)
        if certificate is None:
            raise CertificateNotFound
        return view_of(certificate)


async def find_certificate(uow: UnitOfWork, version_id: UUID) -> Certificate | None:
    """The certificate of a version, if it has one."""
    statement = select(Certificate).where(Certificate.version_id == version_id)
    return (await uow.session.exec(statement)).one_or_none()


def view_of(certificate: Certificate) -> CertificateView:
    """As published."""
    return CertificateView(
        id=certificate.id,
        product_id=certificate.product_id,
        version_id=certificate.version_id,
        claims=CertificateClaims.model_validate(certificate.claims),
        jws=certificate.jws,
        issued_at=certificate.issued_at,
    )
