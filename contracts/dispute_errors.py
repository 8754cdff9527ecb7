"""Refusals of disputes, evidence, arbitration and rulings. The tree:

NotFound ─ DisputeNotFound, EvidenceNotFound, OfferNotFound, RulingNotFound
Conflict ─ DisputeStateRefused, DeadlinePassed, DisputeExists, OpeningWindowClosed, DisputeLimit,
           EvidenceClosed, EvidenceLimit, DisputeAssigned, RulingAccepted, OfferStale,
           ProposalPending
Forbidden ─ WrongSide, ArbiterConflict, ArbiterNotAssigned, OffersWithoutPrejudice
Invalid ─ EvidenceInvalid, NotAnArbiter
UnsupportedMediaType ─ EvidenceTypeRefused
TooLarge ─ EvidenceTooLarge    Unavailable ─ EvidenceCorrupt
"""

from market.kernel.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
)


class DisputeNotFound(NotFound):
    code, title = "dispute_not_found", "No such dispute"


class EvidenceNotFound(NotFound):
    code, title = "evidence_not_found", "No such evidence"


class OfferNotFound(NotFound):
    code, title = "offer_not_found", "No such settlement offer"


class RulingNotFound(NotFound):
    code, title = "ruling_not_found", "There is no ruling yet"


class DisputeStateRefused(Conflict):
    """Extra member ``current``: the dispute's status."""

    code, title = "dispute_state", "The dispute's state does not allow this"


class DeadlinePassed(Conflict):
    code, title = "dispute_deadline_passed", "The deadline has passed"
    default_hint = "The default outcome of this stage applies; read the dispute again."


class DisputeExists(Conflict):
    code, title = "dispute_exists", "The agreement has an open dispute already"


class OpeningWindowClosed(Conflict):
    code, title = "dispute_window_closed", "The time to open a dispute has passed"


class DisputeLimit(Conflict):
    code, title = "dispute_limit", "The agreement has been disputed too often"


class EvidenceClosed(Conflict):
    code, title = "evidence_closed", "Evidence is not accepted from you now"
    default_hint = "Late evidence is only taken when the arbiter asks for it, or with an appeal."


class EvidenceLimit(Conflict):
    code, title = "evidence_limit", "You have submitted as much evidence as a dispute takes"


class DisputeAssigned(Conflict):
    code, title = "dispute_assigned", "Another arbiter has this dispute"


class RulingAccepted(Conflict):
    code, title = "ruling_accepted", "You have accepted this ruling"


class OfferStale(Conflict):
    code, title = "offer_stale", "This settlement offer no longer stands"
    default_hint = "Only the latest offer stands, until it expires or a ruling is made."


class ProposalPending(Conflict):
    code, title = "ruling_pending", "A ruling awaits the second arbiter"


class WrongSide(Forbidden):
    code, title = "dispute_side", "This step belongs to another side of the dispute"


class ArbiterConflict(Forbidden):
    """Extra member ``reason``: related_party, former_arbiter or same_arbiter."""

    code, title = "arbiter_conflict", "You are not impartial in this dispute"
    default_hint = "Leave this case to another arbiter."


class ArbiterNotAssigned(Forbidden):
    code, title = "arbiter_not_assigned", "The dispute is not assigned to you"
    default_hint = "Claim it with POST /v1/disputes/{id}/assign first."


class OffersWithoutPrejudice(Forbidden):
    code, title = "offers_without_prejudice", "Arbiters do not see settlement offers"


class EvidenceInvalid(Invalid):
    code, title = "evidence_invalid", "The content is not what its type says"


class NotAnArbiter(Invalid):
    code, title = "not_an_arbiter", "This organization cannot take a dispute"
    default_hint = "Name an active organization with the role arbiter."


class EvidenceTypeRefused(UnsupportedMediaType):
    code, title = "evidence_type", "This type of content is not taken as evidence"


class EvidenceTooLarge(TooLarge):
    code, title = "evidence_too_large", "The evidence is too large"


class EvidenceCorrupt(Unavailable):
    code, title = "evidence_corrupt", "The stored evidence does not match its hash"
    default_hint = "The operator has been alarmed; the recorded hash stays authoritative."
