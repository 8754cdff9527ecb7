"""State machines of products, versions and listings. Pure: statuses and actions in, status out.

A rejected object is revised back to draft, never approved directly, so that every approval
follows a review of exactly what was submitted.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from listings.errors import IllegalTransition


class ProductStatus(StrEnum):
    """A registered product stays registered; its later versions are reviewed on their own."""

    DRAFT = "draft"
    IN_REVIEW = "in_review"
    REGISTERED = "registered"
    REJECTED = "rejected"


class VersionStatus(StrEnum):
    """Only a certified version can be listed and delivered."""

    DRAFT = "draft"
    IN_REVIEW = "in_review"
    CERTIFIED = "certified"
    REJECTED = "rejected"


class ListingStatus(StrEnum):
    """Only a listed one is in the catalog and can be traded."""

    DRAFT = "draft"
    IN_REVIEW = "in_review"
    LISTED = "listed"
    SUSPENDED = "suspended"
    DELISTED = "delisted"
    REJECTED = "rejected"


class Action(StrEnum):
    """What somebody does to an object."""

    SUBMIT = "submit"
    APPROVE = "approve"
    REJECT = "reject"
    REVISE = "revise"
    SUSPEND = "suspend"
    RESUME = "resume"
    DELIST = "delist"


Status = TypeVar("Status", ProductStatus, VersionStatus, ListingStatus)

PRODUCT: Mapping[tuple[ProductStatus, Action], ProductStatus] = {
    (ProductStatus.DRAFT, Action.SUBMIT): ProductStatus.IN_REVIEW,
    (ProductStatus.IN_REVIEW, Action.APPROVE): ProductStatus.REGISTERED,
    (ProductStatus.IN_REVIEW, Action.REJECT): ProductStatus.REJECTED,
    (ProductStatus.REJECTED, Action.REVISE): ProductStatus.DRAFT,
}

VERSION: Mapping[tuple[VersionStatus, Action], VersionStatus] = {
    (VersionStatus.DRAFT, Action.SUBMIT): VersionStatus.IN_REVIEW,
    (VersionStatus.IN_REVIEW, Action.APPROVE): VersionStatus.CERTIFIED,
    (VersionStatus.IN_REVIEW, Action.REJECT): VersionStatus.REJECTED,
    (VersionStatus.REJECTED, Action.REVISE): VersionStatus.DRAFT,
}

LISTING: Mapping[tuple[ListingStatus, Action], ListingStatus] = {
    (ListingStatus.DRAFT, Action.SUBMIT): ListingStatus.IN_REVIEW,
    (ListingStatus.IN_REVIEW, Action.APPROVE): ListingStatus.LISTED,
    (ListingStatus.IN_REVIEW, Action.REJECT): ListingStatus.REJECTED,
    (ListingStatus.REJECTED, Action.REVISE): ListingStatus.DRAFT,
    (ListingStatus.LISTED, Action.SUSPEND): ListingStatus.SUSPENDED,
    (ListingStatus.SUSPENDED, Action.RESUME): ListingStatus.LISTED,
    (ListingStatus.LISTED, Action.DELIST): ListingStatus.DELISTED,
    (ListingStatus.SUSPENDED, Action.DELIST): ListingStatus.DELISTED,
}


def advance(
    machine: Mapping[tuple[Status, Action], Status], status: Status, action: Action
) -> Status:
    """The status after ``action``. Raises IllegalTransition (409), naming what is allowed."""
    target = machine.get((status, action))
    if target is None:
        allowed = sorted(str(act) for state, act in machine if state == status)
        raise IllegalTransition(
            f"{action} is not possible in status {status}.", current=str(status), allowed=allowed
        )
    return target
