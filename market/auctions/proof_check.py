"""Repeat the decision of a random-sampling auction offline: pure, needs the proof's file only."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from market.auctions.outcome import Sealed, sampled
from market.auctions.schemas import AuctionProof
from market.kernel.ids import show

PROOF_MAX_BYTES = 2**20


class ProofInvalid(ValueError):
    """The file does not prove what it says; the message tells where it breaks."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What was repeated; ``revenue_minor`` is the sum of what winners pay."""

    auction_id: str
    commitment: str
    bids: int
    winners: int
    prices: tuple[int | None, int | None]
    revenue_minor: int
    currency: str

    def summary(self) -> dict[str, object]:
        """As printed by ``market auction verify``."""
        return {
            "auction_id": self.auction_id,
            "commitment": self.commitment,
            "bids": self.bids,
            "winners": self.winners,
            "prices_minor": list(self.prices),
            "revenue_minor": self.revenue_minor,
            "currency": self.currency,
        }


def check_proof(data: bytes, *, commitment: str | None = None) -> Proven:
    """Repeat the decision. ``commitment``: what was published when the auction opened.

    Raises ProofInvalid when the file is not a proof, the seed is not the committed one, a bid
    appears twice, or a price or winner is another than the rule gives.
    """
    if len(data) > PROOF_MAX_BYTES:
        raise ProofInvalid(f"a proof has at most {PROOF_MAX_BYTES} bytes")
    try:
        proof = AuctionProof.model_validate_json(data)
    except ValidationError as error:
        raise ProofInvalid(f"not a proof: {error.errors()[0]['msg']}") from error
    if commitment is not None and commitment != proof.commitment:
        raise ProofInvalid("its commitment is another than the published one")
    for name in ("bid_id", "ref"):
        if len({getattr(bid, name) for bid in proof.bids}) != len(proof.bids):
            raise ProofInvalid(f"two bids have one {name}")
    bids = [Sealed(bid.bid_id, bid.ref, bid.amount_minor) for bid in proof.bids]
    try:
        seed = bytes.fromhex(proof.seed)
        offer, prices = sampled(bids, seed, proof.commitment, reserve=proof.reserve_minor)
    except ValueError as error:
        raise ProofInvalid(str(error)) from error
    if list(offer.prices) != proof.prices:
        raise ProofInvalid(f"the prices are {list(offer.prices)}, not {proof.prices}")
    for bid in proof.bids:
        if prices.get(bid.bid_id) != bid.price_minor:
            name = show("bid", bid.bid_id)
            raise ProofInvalid(f"{name} pays {prices.get(bid.bid_id)}, not {bid.price_minor}")
    return Proven(
        show("auc", proof.auction_id),
        proof.commitment,
        len(bids),
        len(prices),
        offer.prices,
        offer.revenue,
        proof.currency,
    )
