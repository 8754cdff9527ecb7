"""HTTP of market.parties: sign-up, log-in, credentials, parties, identity decisions, rules."""

from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response

from market.kernel.http import IdempotentRoute, IfMatch, KernelDep, etag, problems
from market.kernel.ids import CredentialId, PartyId
from market.kernel.schemas import Page, PageQuery
from market.kernel.security import Role
from market.parties import (
    credentials,
    directory,
    oauth,
    profiles,
    registration,
    tokens,
    verification,
)
from market.parties.access import (
    TOKEN_URL,
    ActorDep,
    OperatorDep,
    OversightDep,
)
from market.parties.jurisdictions import Jurisdiction
from market.parties.models import PartyStatus
from market.parties.rules import current_rules
from market.parties.schemas import (
    AccessToken,
    CredentialRequest,
    CredentialView,
    DecisionView,
    NewCredential,
    PartyPatch,
    PartyView,
    PublicParty,
    Registration,
    RulesView,
    SignUp,
    StaffSignUp,
    Suspension,
    Verification,
)
from market.parties.throttle import address_of

router = APIRouter(route_class=IdempotentRoute, tags=["parties"])

PageDep = Annotated[PageQuery, Depends()]

_PARTY_LINKS: Final[dict[str, Any]] = {
    name: {
        "operationId": operation,
        "parameters": {"party_id": "$response.body#/party/id"},
    }
    for name, operation in (
        ("show", "show_party"),
        ("verify", "verify_party"),
        ("suspend", "suspend_party"),
        ("decisions", "list_party_decisions"),
    )
}
_CREATED_PARTY: Final[dict[int | str, dict[str, Any]]] = {
    201: {
        "description": "The party and its first credential",
        "headers": {"Location": {"schema": {"type": "string"}}},
        "links": _PARTY_LINKS,
    }
}
_TOKEN_FORM: Final[dict[str, Any]] = {
    "x-idempotent": False,
    "requestBody": {
        "required": True,
        "content": {
            oauth.FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["grant_type"],
                    "properties": {
                        "grant_type": {"type": "string", "enum": ["client_credentials"]},
                        "client_id": {"type": "string", "examples": ["crd_0190f3a1b2c37d4e…"]},
                        "client_secret": {"type": "string", "format": "password"},
                        "scope": {
                            "type": "string",
                            "description": "Some of the credential's roles, space-separated.",
                        },
                    },
                }
            }
        },
    },
}


@router.get("/v1/rules", operation_id="show_rules")
async def show_rules() -> RulesView:
    """The rules that every organization accepts at sign-up (public)."""
    return RulesView.model_validate(current_rules())


@router.post(
    "/v1/parties",
    operation_id="sign_up",
    status_code=201,
    responses={**_CREATED_PARTY, **problems(400, 409, 422, 429, 503)},
)
async def sign_up(kernel: KernelDep, request: Request, body: SignUp) -> Registration:
    """Register an organization (public). It may trade once an operator has verified it."""
    return await registration.sign_up(kernel, body, address=address_of(request))


@router.post(
    TOKEN_URL,
    operation_id="create_access_token",
    tags=["oauth2"],
    openapi_extra=_TOKEN_FORM,
    responses=problems(400, 401, 413, 429, 503),
)
async def create_access_token(
    kernel: KernelDep, request: Request, response: Response
) -> AccessToken:
    """Exchange client id and secret for an access token (RFC 6749 client_credentials).

    The client authenticates by form fields or HTTP Basic. Errors carry RFC 6749's `error` and
    `error_description` beside the problem members.
    """
    wish = oauth.read_token_request(
        request.headers.get("content-type"),
        request.headers.get("authorization"),
        await request.body(),
    )
    token = await tokens.log_in(kernel, wish, address=address_of(request))
    response.headers["Cache-Control"] = "no-store"
    response.headers["Pragma"] = "no-cache"
    return token


@router.post(
    "/v1/staff",
    operation_id="appoint_staff",
    status_code=201,
    responses={**_CREATED_PARTY, **problems(400, 401, 403, 409, 422, 503)},
)
async def appoint_staff(kernel: KernelDep, actor: OperatorDep, body: StaffSignUp) -> Registration:
    """Create an operator, arbiter or regulator (operators only)."""
    return await registration.appoint_staff(kernel, actor, body)


@router.get("/v1/parties", operation_id="list_parties", responses=problems(401, 403, 422))
async def list_parties(
    kernel: KernelDep,
    actor: OversightDep,
    page: PageDep,
    status: PartyStatus | None = None,
    role: Role | None = None,
    jurisdiction: Jurisdiction | None = None,
    affiliate_group: UUID | None = None,
) -> Page[PartyView]:
    """All parties in order of registration (operators and regulators)."""
    return await directory.list_parties(
        kernel,
        actor,
        page,
        status=status,
        role=role,
        jurisdiction=jurisdiction,
        affiliate_group=affiliate_group,
    )


@router.get(
    "/v1/parties/{party_id}", operation_id="show_party", responses=problems(401, 403, 404, 422)
)
async def show_party(
    kernel: KernelDep, actor: ActorDep, party_id: PartyId, response: Response
) -> PartyView | PublicParty:
    """A party: the full record (with ETag) to itself and the overseers, else the public one."""
    view = await directory.show_party(kernel, actor, party_id)
    if isinstance(view, PartyView):
        response.headers["ETag"] = etag(view.version)
    return view


@router.patch(
    "/v1/parties/{party_id}",
    operation_id="edit_party",
    responses=problems(400, 401, 403, 404, 409, 412, 422, 428),
)
async def edit_party(
    kernel: KernelDep,
    actor: ActorDep,
    party_id: PartyId,
    version: IfMatch,
    body: PartyPatch,
    response: Response,
) -> PartyView:
    """Change your own record, or as operator any record."""
    view = await profiles.edit_party(kernel, actor, party_id, body, expected_version=version)
    response.headers["ETag"] = etag(view.version)
    return view


@router.post(
    "/v1/parties/{party_id}/verify",
    operation_id="verify_party",
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def verify_party(
    kernel: KernelDep, actor: OperatorDep, party_id: PartyId, body: Verification
) -> PartyView:
    """Confirm an organization's identity, or lift its suspension (operators only)."""
    return await verification.verify_party(kernel, actor, party_id, body)


@router.post(
    "/v1/parties/{party_id}/suspend",
    operation_id="suspend_party",
    responses=problems(400, 401, 403, 404, 409, 422),
)
async def suspend_party(
    kernel: KernelDep, actor: OperatorDep, party_id: PartyId, body: Suspension
) -> PartyView:
    """Exclude an organization at once (operators only)."""
    return await verification.suspend_party(kernel, actor, party_id, body)


@router.get(
    "/v1/parties/{party_id}/decisions",
    operation_id="list_party_decisions",
    responses=problems(401, 403, 404, 422),
)
async def list_party_decisions(
    kernel: KernelDep, actor: ActorDep, party_id: PartyId, page: PageDep
) -> Page[DecisionView]:
    """The identity decisions about a party, oldest first."""
    return await verification.list_decisions(kernel, actor, party_id, page)


@router.post(
    "/v1/credentials",
    operation_id="create_credential",
    status_code=201,
    responses={
        201: {
            "description": "The credential with its secret, shown once",
            "links": {
                "revoke": {
                    "operationId": "revoke_credential",
                    "parameters": {"credential_id": "$response.body#/id"},
                }
            },
        },
        **problems(400, 401, 403, 409, 422, 503),
    },
)
async def create_credential(
    kernel: KernelDep, actor: ActorDep, body: CredentialRequest
) -> NewCredential:
    """A further credential of your organization (to rotate, or with fewer roles)."""
    return await credentials.create_credential(kernel, actor, body)


@router.get("/v1/credentials", operation_id="list_credentials", responses=problems(401, 403, 422))
async def list_credentials(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    live: Annotated[bool | None, Query(description="Only live or only revoked ones.")] = None,
) -> Page[CredentialView]:
    """Your organization's credentials, oldest first; never their secrets."""
    return await credentials.list_credentials(kernel, actor, page, live=live)


@router.delete(
    "/v1/credentials/{credential_id}",
    operation_id="revoke_credential",
    status_code=204,
    responses=problems(401, 403, 404, 409, 422),
)
async def revoke_credential(
    kernel: KernelDep, actor: ActorDep, credential_id: CredentialId
) -> None:
    """End a credential; its access tokens are refused at once. Repeating it changes nothing."""
    await credentials.revoke_credential(kernel, actor, credential_id)
