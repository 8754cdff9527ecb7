"""The fields of the console's forms, and the API bodies that they become."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from contracts.dispute_models import AccessRemedy, Decision
from contracts.dispute_schemas import CLAUSES_MAX, RulingDecision, RulingRequest
from market.kernel.ids import RulingId
from market.kernel.money import PPM
from market.kernel.schemas import LongText, Schema, ShortText


def _unix(value: object) -> object:
    # Browsers send line ends as CR LF but count each as one character for `maxlength`.
    return value.replace("\r\n", "\n") if isinstance(value, str) else value


def _lines(value: object) -> object:
    texts = value if isinstance(value, list) else [value]
    lines = [line.strip() for text in texts for line in str(text).splitlines()]
    return [line for line in lines if line]


FormText = Annotated[LongText, BeforeValidator(_unix)]
# A text area with one clause a line.
ClauseLines = Annotated[list[ShortText], Field(max_length=CLAUSES_MAX), BeforeValidator(_lines)]


class CsrfForm(Schema):
    """A form that is no command; ``csrf_token`` is checked by the route."""

    csrf_token: str


class ActForm(CsrfForm):
    """A form that does something once; ``idempotency_key`` is honored by the route."""

    idempotency_key: str


class RulingForm(ActForm):
    """A ruling as an arbiter types it."""

    buyer_ppm: Annotated[int, Field(ge=0, le=PPM)]
    access: AccessRemedy
    reasons: FormText
    clauses: ClauseLines = Field(default_factory=list)

    def body(self) -> RulingRequest:
        """The API's body."""
        return RulingRequest(
            buyer_ppm=self.buyer_ppm,
            access=self.access,
            reasons=self.reasons,
            clauses=self.clauses,
        )


class RulingReviewForm(ActForm):
    """A second arbiter's answer to the proposal ``ruling_id``."""

    ruling_id: RulingId
    decision: Decision
    comment: FormText

    def body(self) -> RulingDecision:
        """The API's body."""
        return RulingDecision(decision=self.decision, comment=self.comment)


class RejectionForm(ActForm):
    """Why an operator refuses."""

    reason: FormText
