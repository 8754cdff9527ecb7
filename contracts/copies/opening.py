"""What an agreement reads of a version: its file, or a copy that policy and marks ask for."""

from __future__ import annotations

from uuid import UUID

from contracts.copies.making import Copy, copies_of
from contracts.copies.marked import MarkedRecipe
from contracts.copies.masked import MaskedRecipe
from contracts.policy import Policy
from listings.models import ProductVersion
from market.kernel.context import Kernel


async def open_masked(
    kernel: Kernel, version: ProductVersion, policy: Policy
) -> ProductVersion | Copy:
    """The version's rows as the policy sells them to everybody.

    Raises CopyPreparing, CopyKeyMissing (503), PolicyRefused (403) when the version lacks columns
    that the policy names, PageTooLarge (413).
    """
    if not policy.masks and policy.row_filter is None:
        return version
    recipe = MaskedRecipe(kernel, version, policy.masks, policy.row_filter)
    return await copies_of(kernel).open(recipe)


async def open_copy(
    kernel: Kernel, version: ProductVersion, agreement_id: UUID, policy: Policy
) -> ProductVersion | Copy:
    """The version's rows as this agreement reads them. Raises as :func:`open_masked`."""
    source = await open_masked(kernel, version, policy)
    if policy.fingerprint is None:
        return source
    recipe = MarkedRecipe(kernel, version.id, source, agreement_id, policy.fingerprint)
    return await copies_of(kernel).open(recipe)
