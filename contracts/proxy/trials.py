"""Test calls: a seller tries an operation as a buyer would, without a meter and without a body."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from uuid import UUID

from contracts.proxy import secrets, upstreams
from contracts.proxy.calling import Request, require_fitting
from contracts.proxy.calls import AnswerBroken
from contracts.proxy.delivery import proxy_service
from contracts.proxy.errors import OperationNotFound, ParametersInvalid, UpstreamSecretMissing
from contracts.proxy.schemas import Finding, TrialBody, TrialView
from market.kernel.context import Kernel
from market.kernel.errors import MarketError
from market.kernel.ids import new_id
from market.kernel.security import Actor

TRIAL_S = 20.0
PER_MINUTE = 60


async def run(kernel: Kernel, actor: Actor, upstream_id: UUID, body: TrialBody) -> TrialView:
    """Call an operation of the actor's own upstream and say how it went.

    The answer is read, checked and thrown away: what an address answers is nothing to show to
    whoever can name addresses. A streamed operation is tried up to its first bytes. Raises
    UpstreamNotFound, OperationNotFound (404), UpstreamRetired (409), ParametersInvalid (422),
    RateLimited (429), SecretsUnavailable, UpstreamBusy (503); how the call failed is in the view.
    """
    async with kernel.unit_of_work() as uow:
        upstream, stored = await upstreams.own(uow, actor, upstream_id)
    window = await kernel.limits.hit("upstream_trial", actor.party_id.hex, limit=PER_MINUTE)
    window.require()
    operation = upstreams.operations_of(upstream).get(body.operation)
    if operation is None:
        raise OperationNotFound(param="operation")
    await require_fitting(operation, body.parameters)
    secret = secrets.injected(kernel, upstream, stored)
    if upstream.secret is not None and stored is None:
        # Not a refusal: the seller is being told what is still missing.
        view = _view(time.monotonic(), problem=UpstreamSecretMissing.code)
    else:
        view = await _try(
            kernel, Request(upstream, operation, body.parameters, new_id().hex, secret)
        )
    async with kernel.unit_of_work() as uow:
        await uow.answer(view, status=200)
    return view


async def _try(kernel: Kernel, request: Request) -> TrialView:
    calls = proxy_service(kernel).calls
    begun = time.monotonic()
    problem, status, count, digest = None, None, None, None
    findings: list[Finding] = []
    try:
        if request.operation.stream:
            async with calls.open(request, deadline=begun + TRIAL_S) as answer:
                async for _ in answer.chunks():
                    break
            count, status = answer.taken, 200
        else:
            read = await calls.read(request, deadline=begun + TRIAL_S)
            count, digest, status = len(read), hashlib.sha256(read).hexdigest(), 200
    except AnswerBroken as broken:
        problem, count, digest = "upstream_answer_invalid", broken.byte_count, broken.body_sha256
        findings = [Finding.model_validate(finding) for finding in broken.findings]
    except ParametersInvalid:
        raise
    except MarketError as refused:
        problem, status = refused.code, refused.extra.get("upstream_status")
    return _view(begun, problem=problem, status=status, count=count, digest=digest, found=findings)


def _view(
    begun: float,
    *,
    problem: str | None,
    status: int | None = None,
    count: int | None = None,
    digest: str | None = None,
    found: Sequence[Finding] = (),
) -> TrialView:
    return TrialView(
        ok=problem is None,
        problem=problem,
        upstream_status=status,
        byte_count=count,
        body_sha256=digest,
        elapsed_ms=int((time.monotonic() - begun) * 1_000),
        findings=list(found),
    )
