"""HTTP of usage: aggregates, exports, monthly statements, alerts."""

from enum import StrEnum
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response, StreamingResponse

from contracts import usage, usage_alerts, usage_export, usage_statements
from contracts.usage_alert_schemas import ThresholdsInput, ThresholdsView, UsageAlertView
from contracts.usage_export import MEDIA_TYPES, UsageFormat
from contracts.usage_schemas import UsageGroup, UsageGrouping, UsageStatement
from market.kernel.http import IdempotentRoute, KernelDep, problems
from market.kernel.ids import AgreementId, GrantId, show
from market.kernel.schemas import Moment, Page, PageQuery
from market.parties.access import ActorDep
from settlement.billing_schemas import Month
from settlement.printing import Form, document

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])

PageDep = Annotated[PageQuery, Depends()]
_EXPORT: Final[dict[str, Any]] = {
    "description": "The records in the asked format, oldest first.",
    "content": {
        media_type: {"schema": {"type": "string", "format": "binary"}}
        for media_type in MEDIA_TYPES.values()
    },
}
_CSV: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
}


class StatementForm(StrEnum):
    """How a usage statement is sent."""

    JSON = "json"
    CSV = "csv"


def _selection(
    start: Annotated[
        Moment | None, Query(alias="from", description="Default: 30 days before `until`.")
    ] = None,
    until: Annotated[Moment | None, Query(description="Not included; default: now.")] = None,
    grant_id: Annotated[GrantId | None, Query()] = None,
    agreement_id: Annotated[AgreementId | None, Query()] = None,
) -> usage.Selection:
    return usage.Selection(start, until, grant_id, agreement_id)


SelectionDep = Annotated[usage.Selection, Depends(_selection)]


@router.get("/v1/usage", responses=problems(401, 404, 422))
async def sum_usage(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    wanted: SelectionDep,
    group_by: UsageGrouping = UsageGrouping.DAY,
) -> Page[UsageGroup]:
    """Your usage as buyer or seller, summed up; overseers see all. A period of 366 days at most."""
    return await usage.usage_groups(kernel, actor, wanted, group_by, page=page)


@router.get(
    "/v1/usage/export",
    response_class=StreamingResponse,
    responses={200: _EXPORT, **problems(401, 404, 422)},
)
async def export_usage(
    kernel: KernelDep,
    actor: ActorDep,
    wanted: SelectionDep,
    format_: Annotated[UsageFormat, Query(alias="format")] = UsageFormat.CSV,
) -> StreamingResponse:
    """The usage records themselves: CSV, NDJSON or Parquet, a million at most."""
    body = await usage_export.export(kernel, actor, wanted, format_)
    return StreamingResponse(
        body,
        media_type=MEDIA_TYPES[format_],
        headers={
            "Content-Disposition": f'attachment; filename="usage.{format_.value}"',
            "Cache-Control": "private, no-store",
        },
    )


@router.get(
    "/v1/agreements/{agreement_id}/usage-statements/{month}",
    response_model=UsageStatement,
    responses={**_CSV, **problems(401, 404, 422)},
)
async def show_usage_statement(
    kernel: KernelDep,
    actor: ActorDep,
    agreement_id: AgreementId,
    month: Month,
    form: Annotated[StatementForm, Query(alias="format")] = StatementForm.JSON,
) -> UsageStatement | Response:
    """An agreement's month: use by day, its worth, the ledger's releases, the invoice."""
    made = await usage_statements.usage_statement(kernel, actor, agreement_id, month)
    if form is StatementForm.JSON:
        return made
    name = f"usage-{show('agr', agreement_id)}-{month}"
    return document(Form.CSV, content=usage_statements.statement_csv(made), name=name)


@router.get("/v1/usage/alerts", responses=problems(401, 422))
async def list_usage_alerts(
    kernel: KernelDep,
    actor: ActorDep,
    page: PageDep,
    grant_id: Annotated[GrantId | None, Query()] = None,
) -> Page[UsageAlertView]:
    """Quota thresholds that your grants have reached, newest first; overseers see all."""
    return await usage_alerts.list_alerts(kernel, actor, page=page, grant_id=grant_id)


@router.get("/v1/grants/{grant_id}/usage-thresholds", responses=problems(401, 404, 422))
async def show_usage_thresholds(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId
) -> ThresholdsView:
    """At which percentages of a grant's quota its buyer is alerted."""
    return await usage_alerts.get_thresholds(kernel, actor, grant_id)


@router.put("/v1/grants/{grant_id}/usage-thresholds", responses=problems(401, 404, 422))
async def set_usage_thresholds(
    kernel: KernelDep, actor: ActorDep, grant_id: GrantId, body: ThresholdsInput
) -> ThresholdsView:
    """Replace them (buyer); those that are reached already alert at once."""
    return await usage_alerts.set_thresholds(kernel, actor, grant_id, body)
