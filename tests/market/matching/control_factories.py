"""Operators' decisions over HTTP and straight to an engine."""

import uuid
from typing import Any
from uuid import UUID

import httpx

from market.kernel.ids import show
from market.matching.commands import Control, ControlAction
from tests.market.matching.factories import Scene
from tests.market.parties.factories import Member

RULES: dict[str, Any] = {
    "tick_minor": 1,
    "lot_step": 1,
    "lots_min": 1,
    "lots_max": 1_000_000_000,
    "band_ppm": None,
    "reference_minor": None,
}


async def set_rules(
    client: httpx.AsyncClient, operator: Member, scene: Scene, **rules: object
) -> dict[str, Any]:
    """PUT the rules of the scene's instrument, the others as the defaults are; the instrument."""
    answer = await client.put(
        f"/v1/instruments/{scene.plan}/rules",
        json={**rules, "reason": "a test"},
        headers=operator.headers(),
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def post(
    client: httpx.AsyncClient, operator: Member, path: str, reason: str = "a test", **body: object
) -> httpx.Response:
    """POST a decision with a reason."""
    return await client.post(
        f"/v1/{path}", json={"reason": reason, **body}, headers=operator.headers()
    )


async def done(
    client: httpx.AsyncClient, operator: Member, path: str, reason: str = "a test", **body: object
) -> dict[str, Any]:
    """The same, and it must be carried out; the answer."""
    answer = await post(client, operator, path, reason, **body)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def instrument(client: httpx.AsyncClient, scene: Scene) -> dict[str, Any]:
    """GET /v1/instruments/{plan_id}, by anybody."""
    answer = await client.get(f"/v1/instruments/{scene.plan}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def decision(operator: Member, action: ControlAction, subject_id: UUID, **terms: object) -> Control:
    """One for an engine without HTTP, under a fresh key."""
    return Control(
        party_id=operator.party_id,
        credential_id=operator.actor.credential_id,
        key=uuid.uuid4().hex,
        request_hash=bytes(32),
        request_id="test",
        action=action,
        subject_id=subject_id,
        reason="a test",
        terms=terms,
    )


def party(member: Member) -> str:
    """Its path."""
    return f"parties/{show('pty', member.party_id)}"
