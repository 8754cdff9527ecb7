"""One run of Schemathesis against a live market: its configuration, the process, its report."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.api_world import PEERS, ApiWorld

HOOKS = Path(__file__).with_name("api_hooks.py")
PHASES = ("examples", "coverage", "fuzzing", "stateful")
# Renewed before it expires (access_token_ttl_s).
LOGIN_REFRESH_S = 600
REQUEST_TIMEOUT_S = 30
RUN_TIMEOUT_S = 1_800
# How often a parameter names something that exists.
KNOWN_ID_PROBABILITY = 0.7

# Fields of bodies and queries that name something, by the path parameter of the same kind.
_NAMED = {
    "body.agreement_id": "agreement_id",
    "body.listing_id": "listing_id",
    "body.plan_id": "plan_id",
    "body.product_id": "product_id",
    "body.from_party_id": "party_id",
    "body.target_id": "target_id",
    "body.token_id": "token_id",
    "query.agreement_id": "agreement_id",
    "query.auction_id": "auction_id",
    "query.listing_id": "listing_id",
    "query.order_id": "order_id",
    "query.party_id": "party_id",
    "query.plan_id": "plan_id",
    "query.request_id": "request_id",
}
_WORDS = {
    "body.card": ("tok_success", "tok_declined", "tok_delayed", "tok_timeout"),
    "body.destination": ("dst_success", "dst_closed", "dst_delayed"),
    "body.money.currency": ("CNY", "USD"),
    "body.currency": ("CNY", "USD"),
    "body.operation": ("flights", "none"),
    "path.number": (1, 2),
    "path.operation": ("flights", "none"),
    "query.q": ("flights", "航班"),
    "header.If-Match": ('"0"', '"1"', '"2"', '"3"'),
    "header.accept": ("application/json", "text/csv", "application/vnd.apache.parquet"),
    "query.filter": ("carrier = 'UA'", "delay > 15 and day < '2022-03-01'"),
    "query.select": ("id,carrier", "delay"),
    "query.order": ("-id", "carrier,-delay"),
}


_ROLES = {
    "operator": (
        "GET /v1/ledger/corrections",
        "GET /v1/ledger/corrections/{correction_id}",
        "GET /v1/debts",
        "GET /v1/ledger/trial-balance",
        "GET /v1/operator-actions",
        "GET /v1/parties",
        "GET /v1/payout-runs",
        "GET /v1/payout-runs/{payout_run_id}",
        "GET /v1/payout-runs/{payout_run_id}/lines",
        "GET /v1/rail-cases",
        "GET /v1/rail-cases/{case_id}",
        "GET /v1/reconciliations",
        "GET /v1/reviews",
        "GET /v1/surveillance/alerts",
        "GET /v1/surveillance/alerts/{alert_id}",
        "GET /v1/webhook-events",
        "POST /v1/agreements/{agreement_id}/terminate",
        "POST /v1/agreements/{agreement_id}/usage-holds/release",
        "POST /v1/auctions/{auction_id}/cancel",
        "POST /v1/exchange/rates",
        "POST /v1/ledger/corrections",
        "POST /v1/ledger/corrections/{correction_id}/approval",
        "POST /v1/claims",
        "POST /v1/debts/{party_id}/write-offs",
        "POST /v1/fee-schedules",
        "POST /v1/call-auctions/{call_auction_id}/cancel",
        "POST /v1/instruments/{plan_id}/call-auctions",
        "POST /v1/instruments/{plan_id}/halt",
        "POST /v1/instruments/{plan_id}/resume",
        "POST /v1/listings/{listing_id}/approve",
        "POST /v1/listings/{listing_id}/reject",
        "POST /v1/listings/{listing_id}/resume",
        "POST /v1/listings/{listing_id}/suspend",
        "POST /v1/market/halt",
        "POST /v1/market/resume",
        "POST /v1/parties/{party_id}/block-trading",
        "POST /v1/parties/{party_id}/suspend",
        "POST /v1/parties/{party_id}/unblock-trading",
        "POST /v1/parties/{party_id}/verify",
        "POST /v1/payout-runs",
        "POST /v1/products/{product_id}/approve",
        "POST /v1/products/{product_id}/reject",
        "POST /v1/rail-cases/{case_id}/closing",
        "POST /v1/surveillance/alerts/{alert_id}/decisions",
        "POST /v1/reconciliations",
        "POST /v1/sandbox/clock/advance",
        "POST /v1/staff",
        "POST /v1/webhook-events/{webhook_event_id}/replay",
        "PUT /v1/instruments/{plan_id}/rules",
        "PUT /v1/parties/{party_id}/trading-quota",
    ),
    "arbiter": (
        "GET /v1/arbitration/queue",
        "GET /v1/disputes/{dispute_id}/ruling-preview",
        "POST /v1/disputes/{dispute_id}/assign",
        "POST /v1/disputes/{dispute_id}/evidence-requests",
        "POST /v1/disputes/{dispute_id}/recuse",
        "POST /v1/disputes/{dispute_id}/rulings",
        "POST /v1/disputes/{dispute_id}/rulings/{ruling_id}/review",
    ),
    "delivery": (
        "GET /v1/delivery/bulk",
        "GET /v1/delivery/bulk/manifest",
        "GET /v1/delivery/proxy",
        "GET /v1/delivery/rows",
        "GET /v1/delivery/rows/count",
        "POST /v1/delivery/proxy/{operation}",
        "GET /v1/delta-sharing/profile",
        "GET /v1/delta-sharing/profile/oauth",
        "GET /v1/delta-sharing/shares",
        "GET /v1/delta-sharing/shares/{share}",
        "GET /v1/delta-sharing/shares/{share}/all-tables",
        "GET /v1/delta-sharing/shares/{share}/schemas",
        "GET /v1/delta-sharing/shares/{share}/schemas/{schema}/tables",
        "GET /v1/delta-sharing/shares/{share}/schemas/{schema}/tables/{table_name}/changes",
        "GET /v1/delta-sharing/shares/{share}/schemas/{schema}/tables/{table_name}/metadata",
        "GET /v1/delta-sharing/shares/{share}/schemas/{schema}/tables/{table_name}/version",
        "POST /v1/delta-sharing/shares/{share}/schemas/{schema}/tables/{table_name}/query",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """How the run ended: exit code, printed text, and the JSON report."""

    code: int
    text: str
    report: Mapping[str, Any]

    def accepted(self) -> set[str]:
        """Operations that did what they are for at least once."""
        return {
            operation
            for operation, phases in self.report["valid_rates"].items()
            if any(rates["accepted"] for rates in phases.values())
        }


def run_contract(
    url: str,
    world: ApiWorld,
    folder: Path,
    *,
    seed: int,
    examples: int,
    max_time_s: int | None = None,
    options: Sequence[str] = (),
) -> Outcome:
    """Check the API at ``url``; ``examples`` per operation, in at most ``max_time_s`` if given."""
    login = folder / "users.json"
    login.write_text(json.dumps({"auth": list(_users(world))}))
    config = folder / "schemathesis.toml"
    config.write_text("\n".join(_configuration(world, login, seed)))
    report = folder / "report.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"]
    command += [f"{url}/openapi.json", "--no-color", "--phases", ",".join(PHASES)]
    # One worker: threads that build syntax trees at once break each other in CPython 3.11
    # ("AST constructor recursion depth mismatch"), and Hypothesis builds them all the time.
    command += ["--max-examples", str(examples), "--continue-on-failure", "--workers", "1"]
    command += ["--report", "json", "--report-json-path", str(report)]
    command += [*(["--max-time", str(max_time_s)] if max_time_s else []), *options]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **_environment(world)},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S + (max_time_s or 0),
        check=False,
    )
    found = json.loads(report.read_text()) if report.exists() else {}
    return Outcome(done.returncode, done.stdout + done.stderr, found)


def _environment(world: ApiWorld) -> dict[str, str]:
    roles = {label: user for user, labels in _ROLES.items() for label in labels}
    return {
        "MARKET_CONTRACT_KEPT": json.dumps(list(world.kept)),
        "MARKET_CONTRACT_KNOWN": json.dumps(list(world.ids.values())),
        "MARKET_CONTRACT_ROLES": json.dumps(roles),
    }


def _users(world: ApiWorld) -> list[dict[str, Any]]:
    """Web Fuzzing Commons: who may act; each operation takes the first whom it serves."""
    entries: list[dict[str, Any]] = []
    for name, member in world.users.items():
        form = f"client_id={member.client_id}&client_secret={member.client_secret}"
        entries.append(
            {
                "name": name,
                "loginEndpointAuth": {
                    "endpoint": "/oauth2/token",
                    "verb": "POST",
                    "contentType": "application/x-www-form-urlencoded",
                    "payloadRaw": f"grant_type=client_credentials&{form}",
                    "token": {
                        "extractFrom": "body",
                        "extractSelector": "/access_token",
                        "sendIn": "header",
                        "sendName": "Authorization",
                        "sendTemplate": "Bearer {token}",
                    },
                },
            }
        )
    delivery = {"name": "Authorization", "value": f"Bearer {world.delivery_token}"}
    entries.append({"name": "delivery", "fixedHeaders": [delivery]})
    return entries


def _configuration(world: ApiWorld, login: Path, seed: int) -> list[str]:
    lines = [
        f"seed = {seed}",
        f"hooks = {json.dumps(str(HOOKS))}",
        f"request-timeout = {REQUEST_TIMEOUT_S}",
        # The event stream never ends by itself.
        "max-stream-events = 1",
        "[cache]",
        "enabled = false",
        "[generation]",
        'database = "none"',
        "[auth.wfc]",
        f"path = {json.dumps(str(login))}",
        f"refresh_interval = {LOGIN_REFRESH_S}",
        f"peers = {json.dumps(list(PEERS))}",
    ]
    bound: dict[str, Sequence[str | int]] = {
        **{f"path.{name}": ids for name, ids in world.ids.items()},
        **{field: world.ids[name] for field, name in _NAMED.items()},
        "body.shares[*].party_id": [world.partner_id],
        "query.grant_id": [world.delivery_grant],
        **_WORDS,
    }
    for number, (field, values) in enumerate(bound.items()):
        lines += [f"[dictionaries.d{number}]", f"values = {json.dumps(list(values))}"]
        lines += [f"[parameters.{json.dumps(field)}]", f'dictionary = "d{number}"']
        lines.append(f"probability = {KNOWN_ID_PROBABILITY}")
    return lines + _EXPECTATIONS.splitlines()


_EXPECTATIONS = """
# 428 is what RFC 6585 made for a missing If-Match; one that is no ETag of ours fails the match.
[[operations]]
include-operation-id = [
    "change_listing", "change_product", "change_request", "edit_party", "replace_upstream",
    "set_intermediary", "set_shares",
]
checks.missing_required_header.expected-statuses = [401, 403, 422, 428]
checks.negative_data_rejection.expected-statuses = [400, 401, 403, 404, 409, 412, 415, 422, 428]

# `GET …/evidence/complete` is a GET of the evidence named "complete": 422, a wrong id.
[[operations]]
include-operation-id = ["complete_evidence", "submit_evidence_file"]
checks.unsupported_method.enabled = false
checks.allow_header_conformance.enabled = false

# The members' directory: whoever signed a party up, every member sees its public profile.
[[operations]]
include-operation-id = "show_party"
checks.object_level_authorization.enabled = false

# Once an operator approves a listing, which the run does at random moments, every member sees it
# and its plans (drafts: test_plans_of_a_draft_are_seen_by_its_seller_and_overseers_only).
[[operations]]
include-operation-id = ["show_listing", "list_plans", "show_plan", "show_plan_tax"]
checks.object_level_authorization.enabled = false

# Auctions are announced to everybody.
[[operations]]
include-operation-id = "show_auction"
checks.object_level_authorization.enabled = false

# An open request without a list of invited sellers is there to be seen; of its quotes a stranger
# is shown its own, so none.
[[operations]]
include-operation-id = ["show_request", "list_request_quotes"]
checks.object_level_authorization.enabled = false
"""
