"""Loaded into the Schemathesis process: fresh keys, users kept alive, refusals that are right.

Reads the world's ``kept`` ids from MARKET_CONTRACT_KEPT (JSON).
"""

import itertools
import json
import os
import re
from typing import Any

import schemathesis
from schemathesis import Case, HookContext

_KEY = "Idempotency-Key"
_KEY_FORM = re.compile(r"^[!-~]{8,255}$")
_KEPT = frozenset(json.loads(os.environ["MARKET_CONTRACT_KEPT"]))
_numbers = itertools.count(1)
# What would end the run rather than test it, by the id that must not be a kept one.
_DESTRUCTIVE = {
    "POST /v1/parties/{party_id}/suspend": "party_id",
    "DELETE /v1/credentials/{credential_id}": "credential_id",
}
_CLOCK = "POST /v1/sandbox/clock/advance"


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """A key is used once; nobody takes a user's access away; the clock moves a second at most."""
    key = (case.headers or {}).get(_KEY)
    if isinstance(key, str) and _KEY_FORM.match(key):
        case.headers[_KEY] = f"case-{next(_numbers):08}"
    label = case.operation.label
    parameter = _DESTRUCTIVE.get(label)
    if parameter and case.path_parameters.get(parameter) in _KEPT:
        prefix = case.path_parameters[parameter].partition("_")[0]
        case.path_parameters[parameter] = f"{prefix}_{next(_numbers):032x}"
    if label == _CLOCK and isinstance(case.body, dict):
        seconds = case.body.get("seconds")
        if isinstance(seconds, int) and not isinstance(seconds, bool) and seconds > 1:
            case.body["seconds"] = 1
