"""What a resale inherits from the agreement that its units come from. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from contracts.models import PlanKind
from contracts.schemas import ResaleTerm, ShareTerm, Terms
from market.kernel.money import PPM


def may_resell(terms: Terms) -> bool:
    """Whether units bought under ``terms`` may be sold on: metered, allowed, not counted.

    A count clause bounds the deliveries of one buyer; two buyers would have twice as many.
    """
    policy = terms.policy
    return terms.kind is PlanKind.METERED and policy.resale is not None and policy.count is None


def last_offer(terms: Terms) -> datetime:
    """The moment from which units under ``terms`` are not sold on. They must allow resale."""
    assert terms.policy.resale is not None
    return terms.expires_at - timedelta(days=terms.policy.resale.min_remaining_days)


def resale_term(terms: Terms) -> ResaleTerm:
    """The lineage of a resale of units bought under ``terms``."""
    assert terms.policy.resale is not None
    before = terms.resale
    return ResaleTerm(
        resold_from=terms.agreement_id,
        original_agreement_id=before.original_agreement_id if before else terms.agreement_id,
        original_seller_id=before.original_seller_id if before else terms.seller_id,
        royalty_ppm=terms.policy.resale.royalty_ppm,
    )


def royalty_shares(terms: Terms) -> list[ShareTerm]:
    """Who gets how much of a reseller's net, in ppm: contributors, then the original seller.

    The royalty is cut as the original seller's own sales are; each contributor's part is rounded
    down and the seller has the rest, so they sum to the royalty. A later resale pays the same.
    """
    if terms.resale is not None:
        return terms.shares
    assert terms.policy.resale is not None
    royalty = terms.policy.resale.royalty_ppm
    shares = [
        ShareTerm(party_id=share.party_id, ppm=share.ppm * royalty // PPM) for share in terms.shares
    ]
    rest = royalty - sum(share.ppm for share in shares)
    shares.append(ShareTerm(party_id=terms.seller_id, ppm=rest))
    return [share for share in shares if share.ppm]
