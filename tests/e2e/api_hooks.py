"""Loaded into the Schemathesis process: fresh keys, users kept alive, refusals that are right.

JSON in the environment: MARKET_CONTRACT_KEPT names the ids that users cannot do without,
MARKET_CONTRACT_KNOWN lists ids that exist, MARKET_CONTRACT_ROLES says who may do what Alice may
not.
"""

import itertools
import json
import os
import re
from typing import Any

import schemathesis
from schemathesis import BaseSchema, Case, HookContext, Response
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData
from schemathesis.wfc.escalation import restore_identity_assignments

_KEY = "Idempotency-Key"
_KEY_FORM = re.compile(r"^[!-~]{8,255}$")
_KEPT = frozenset(json.loads(os.environ["MARKET_CONTRACT_KEPT"]))
_KNOWN = {
    ids[0].partition("_")[0]: itertools.cycle(ids)
    for ids in json.loads(os.environ["MARKET_CONTRACT_KNOWN"])
}
_numbers = itertools.count(1)
# What would end the run rather than test it, by the id that must not be a kept one.
_DESTRUCTIVE = {
    "POST /v1/parties/{party_id}/block-trading": "party_id",
    "POST /v1/parties/{party_id}/suspend": "party_id",
    "PUT /v1/parties/{party_id}/trading-quota": "party_id",
    "DELETE /v1/credentials/{credential_id}": "credential_id",
}
# How a validator's ValueError reads; ids and times, whose form is published, say "expected".
_RULE_PREFIX = "Value error, "
_FORM_PREFIX = "Value error, expected "
_NOT_INTEGER = "Input should be a valid integer"
_EXAMPLE = re.compile(r"([a-z]{3})_0190f3a1b2c37d4e8f90a1b2c3d4e5f6")
# A port that nobody listens on.
_NOBODY = "http://127.0.0.1:1"
_CLOCK = "POST /v1/sandbox/clock/advance"
_TARGETS = "POST /v1/push-targets"
# Well-formed requests that a rule of the market refuses by 402, 412 or 422; the problem's code
# says which rule. The schema promises form, not that money, cursors or files are good.
_RULES = {
    "amount_too_small": "the payout minimum is a setting",
    "call_times_invalid": "the time",
    "cursor_invalid": "cursors are opaque and differ by list",
    "bid_below_reserve": "the auction's reserve",
    "bid_not_raised": "the bid so far",
    "bundle_currencies": "what the plans are priced in",
    "card_declined": "the card's bank",
    "card_not_accepted": "the payment provider's form of a token",
    "column_unknown": "see filter_invalid",
    "core_data_refused": "what a product says of itself decides what it needs",
    "correction_invalid": "what may be corrected, and that it has happened",
    "day_not_over": "the time",
    "debt_too_small": "what the party owes",
    "destination_not_accepted": "see card_not_accepted",
    "delivery_id_reused": "what was asked under it before",
    "deidentification_required": "see core_data_refused",
    "evidence_invalid": "a body has a media type, but what is inside is not JSON",
    "exchange_rate_invalid": "two fields together",
    "expiry_out_of_range": "the time",
    "fee_backdated": "the time",
    "file_unreadable": "see evidence_invalid",
    "filing_required": "see core_data_refused",
    "filter_invalid": "the columns of the data",
    "fingerprint_invalid": "see filter_invalid",
    "format_not_offered": "any Accept is well-formed",
    "insufficient_funds": "the balance",
    "key_invalid": "the columns of the data",
    "lots_off_step": "see price_off_tick",
    "mask_invalid": "see filter_invalid",
    "month_unknown": "the time",
    "invitee_unknown": "who is registered",
    "operation_invalid": "two fields of an operation together",
    "order_too_large": "price times lots",
    "order_invalid": "see filter_invalid",
    "parameters_invalid": "the schema that the upstream's seller wrote",
    "period_invalid": "two parameters together, and the time",
    "push_parts_too_many": "how many rows the version has",
    "push_since_later": "which version the agreement reads",
    "push_target_invalid": "see upstream_invalid",
    "quote_too_large": "price times lots",
    "price_needs_currency": "one parameter needs another",
    "price_off_tick": "the rules that an operator has set for the instrument",
    "price_outside_band": "see price_off_tick",
    "range_invalid": "a range that ends before it begins has the same form",
    "range_unsatisfiable": "the file's size",
    "rules_version_outdated": "the rules in force",
    "product_invalid": "what the draft says already",
    "reason_missing": "who asks: an operator states one",
    "resale_plan_mismatch": "what the grant was bought under",
    "right_missing": "see core_data_refused",
    "same_party": "two fields must differ",
    "schedule_out_of_range": "the time",
    "schema_invalid": "JSON Schema's own rules",
    "secret_invalid": "whether the upstream takes one",
    "share_for_seller": "who sells",
    "share_party_unknown": "who is registered",
    "sharing_request_invalid": "page tokens and times are opaque, and tables have no change feed",
    "file_link_invalid": "links are signed by us",
    "version_not_shared": "the version that was bought",
    "stale_version": "a random ETag is not the current one",
    "token_quota_too_large": "what the grant has left",
    "too_few_lots": "see price_off_tick",
    "too_many_lots": "see price_off_tick",
    "upload_empty": "see evidence_invalid",
    "upstream_invalid": "what an address means, and two fields together",
    "valuation_impossible": "the inputs give no positive value",
    "webhook_signature_invalid": "whoever holds the secret signs",
}


@schemathesis.hook
def after_load_schema(context: HookContext, schema: BaseSchema) -> None:
    """Staff does what is staff's from the first case on, not after everybody else was refused."""
    restore_identity_assignments(schema, json.loads(os.environ["MARKET_CONTRACT_ROLES"]))


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """A key is used once; nobody takes a user's access away; the clock moves a second at most."""
    key = case.headers.get(_KEY) if case.headers else None
    if isinstance(key, str) and _KEY_FORM.match(key):
        case.headers[_KEY] = f"case-{os.getpid()}-{next(_numbers)}"
    label = case.operation.label
    if "/delivery/" in label and _EXAMPLE.fullmatch(str(case.query.get("grant_id"))):
        # The known grants are Alice's, the token is not.
        del case.query["grant_id"]
    for name in ("path_parameters", "query", "body"):
        _point_to_known(getattr(case, name))
    parameter = _DESTRUCTIVE.get(label)
    if parameter and case.path_parameters.get(parameter) in _KEPT:
        prefix = case.path_parameters[parameter].partition("_")[0]
        case.path_parameters[parameter] = f"{prefix}_{next(_numbers):032x}"
    if isinstance(case.body, dict) and "base_url" in case.body:
        # Nobody outside of this machine is looked up or called.
        case.body["base_url"] = _NOBODY if _is_address(case.body["base_url"]) else 0
    if label == _TARGETS and isinstance(case.body, dict):
        for field in ("url", "endpoint"):
            if field in case.body:
                case.body[field] = _NOBODY if _is_address(case.body[field]) else 0
    if label == _CLOCK and isinstance(case.body, dict):
        seconds = case.body.get("seconds")
        if isinstance(seconds, int) and not isinstance(seconds, bool) and seconds > 1:
            case.body["seconds"] = 1


def _is_address(value: Any) -> bool:
    whole = isinstance(value, str) and 9 <= len(value) <= 500
    return whole and re.fullmatch(r"https?://[!-~]+", value) is not None


def _point_to_known(container: Any) -> None:
    """Put ids that exist into the place of the documented examples, which name nothing."""
    if isinstance(container, dict):
        places: Any = container.items()
    elif isinstance(container, list):
        places = enumerate(container)
    else:
        return
    for place, value in list(places):
        found = _EXAMPLE.fullmatch(value) if isinstance(value, str) else None
        if found and found.group(1) in _KNOWN:
            container[place] = next(_KNOWN[found.group(1)])
        else:
            _point_to_known(value)


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """Drop a refusal of valid data only where the code names a rule that no schema can state."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    problem = response.json()
    return problem["code"] not in _RULES and not _beyond_schema(problem)


def _beyond_schema(problem: dict[str, Any]) -> bool:
    """Whether only rules between fields were broken, or 1.0 was sent, an integer to JSON Schema.

    Money and counts take integers that are written as such.
    """
    messages = [str(error["message"]) for error in problem.get("errors", ())]
    return bool(messages) and all(
        message == _NOT_INTEGER
        or (message.startswith(_RULE_PREFIX) and not message.startswith(_FORM_PREFIX))
        for message in messages
    )
