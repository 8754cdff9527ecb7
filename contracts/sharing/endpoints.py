"""HTTP of Delta Sharing: what the official Python client and the Spark connector call."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic.json_schema import SkipJsonSchema

from contracts.copies.disclosure import DESCRIPTION, HEADER, disclosure_of
from contracts.delivery.bearer import delivery_bearer, peer_of
from contracts.delivery.once import DELIVERY_ID_PATTERN
from contracts.sharing import delta, files, links, queries, ranges
from contracts.sharing.catalog import SCHEMA_NAME, Table, at_version, listing, table_of
from contracts.sharing.errors import RangeUnsatisfiable, SharingRequestInvalid
from contracts.sharing.response import MEDIA_TYPE, FileResponse, next_piece
from contracts.sharing.routes import SharingRoute
from contracts.sharing.schemas import (
    INT63_MAX,
    SchemaItems,
    SharedShare,
    ShareItems,
    ShareQueryBody,
    SharingProfile,
    TableItems,
)
from market.kernel.http import KernelDep, problems
from market.parties.errors import TokenMissing

PREFIX = "/v1/delta-sharing"
router = APIRouter(prefix=PREFIX, route_class=SharingRoute, tags=["delta-sharing"])

_REFUSALS = problems(400, 401, 403, 404, 410, 429, 503)

Name = Annotated[str, Path(min_length=1, max_length=100)]
MaxResults = Annotated[int | None, Query(alias="maxResults", ge=0, le=INT63_MAX)]
PageToken = Annotated[str | None, Query(alias="pageToken", max_length=100)]


async def _opened(
    http: Request,
    kernel: KernelDep,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(delivery_bearer)],
) -> Table:
    if bearer is None:
        raise TokenMissing
    return await table_of(kernel, bearer.credentials, address=peer_of(http))


TableDep = Annotated[Table, Depends(_opened)]


def base_url(http: Request, kernel: KernelDep) -> str:
    """Where clients reach this market, without a slash at the end."""
    return (kernel.settings.public_url or str(http.base_url)).rstrip("/")


def _table_item(table: Table) -> dict[str, str]:
    return {
        "name": table.name,
        "schema": SCHEMA_NAME,
        "share": table.share,
        "shareId": table.share,
        "id": table.table_id,
    }


@router.get("/profile", responses=problems(400, 401, 403, 404, 410, 429, 503))
async def download_sharing_profile(
    http: Request,
    kernel: KernelDep,
    table: TableDep,
    bearer: Annotated[HTTPAuthorizationCredentials, Depends(delivery_bearer)],
    response: Response,
) -> SharingProfile:
    """The profile file (version 1) of the delivery token that asks for it."""
    response.headers["Content-Disposition"] = f'attachment; filename="{table.name}.share"'
    expires = datetime.fromtimestamp(table.claims.expires_at_s, UTC)
    return SharingProfile(
        shareCredentialsVersion=1,
        endpoint=f"{base_url(http, kernel)}{PREFIX}",
        bearerToken=bearer.credentials,
        expirationTime=expires.isoformat().replace("+00:00", "Z"),
    )


@router.get("/shares", responses=_REFUSALS, response_model_exclude_none=True)
async def list_shares(
    table: TableDep, max_results: MaxResults = None, page_token: PageToken = None
) -> ShareItems:
    """The shares of the token: its grant's."""
    share = {"name": table.share, "id": table.share}
    return ShareItems.model_validate(listing([share], max_results, page_token))


@router.get("/shares/{share}", responses=_REFUSALS)
async def show_share(table: TableDep, share: Name) -> SharedShare:
    """One share."""
    table.require(share)
    return SharedShare.model_validate({"share": {"name": table.share, "id": table.share}})


@router.get("/shares/{share}/schemas", responses=_REFUSALS, response_model_exclude_none=True)
async def list_share_schemas(
    table: TableDep, share: Name, max_results: MaxResults = None, page_token: PageToken = None
) -> SchemaItems:
    """The schemas of a share: always one, `data`."""
    table.require(share)
    schema = {"name": SCHEMA_NAME, "share": table.share}
    return SchemaItems.model_validate(listing([schema], max_results, page_token))


@router.get(
    "/shares/{share}/schemas/{schema}/tables",
    responses=_REFUSALS,
    response_model_exclude_none=True,
)
async def list_share_tables(
    table: TableDep,
    share: Name,
    schema: Name,
    max_results: MaxResults = None,
    page_token: PageToken = None,
) -> TableItems:
    """The tables of a schema: the product that the grant is about."""
    table.require(share, schema)
    return TableItems.model_validate(listing([_table_item(table)], max_results, page_token))


@router.get("/shares/{share}/all-tables", responses=_REFUSALS, response_model_exclude_none=True)
async def list_all_share_tables(
    table: TableDep, share: Name, max_results: MaxResults = None, page_token: PageToken = None
) -> TableItems:
    """The tables of all schemas of a share."""
    table.require(share)
    return TableItems.model_validate(listing([_table_item(table)], max_results, page_token))


_HEADERS: dict[str, Any] = {
    delta.VERSION_HEADER: {
        "description": "The version's number.",
        "schema": {"type": "string"},
    },
    delta.CAPABILITIES_HEADER: {
        "description": "Always Parquet.",
        "schema": {"type": "string"},
    },
}
_LINES: dict[str, Any] = {
    "description": "One JSON object per line: protocol, metaData, and for a query its file.",
    "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    "headers": _HEADERS,
}


def _headers(table: Table) -> dict[str, str]:
    return {
        delta.VERSION_HEADER: str(table.version),
        delta.CAPABILITIES_HEADER: delta.CAPABILITIES,
    }


_MARKED: dict[str, Any] = {HEADER: {"description": DESCRIPTION, "schema": {"type": "string"}}}
_FILE: dict[str, Any] = {
    "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    "headers": _MARKED,
}
_TABLE = "/shares/{share}/schemas/{schema}/tables/{table_name}"


@router.get(
    f"{_TABLE}/version",
    response_class=Response,
    responses={200: {"description": "Empty.", "headers": _HEADERS}, **_REFUSALS},
)
async def show_table_version(
    table: TableDep,
    share: Name,
    schema: Name,
    table_name: Name,
    starting_timestamp: Annotated[
        str | None, Query(alias="startingTimestamp", max_length=64)
    ] = None,
) -> Response:
    """The table's version in a header: the one that the grant reads now."""
    table.require(share, schema, table_name)
    if starting_timestamp is not None and queries.moment(starting_timestamp) > table.version_at:
        raise SharingRequestInvalid("The version is older.", param="startingTimestamp")
    return Response(None, headers=_headers(table))


@router.get(f"{_TABLE}/metadata", response_class=Response, responses={200: _LINES, **_REFUSALS})
async def show_table_metadata(
    table: TableDep, share: Name, schema: Name, table_name: Name
) -> Response:
    """Protocol and metadata of the table; free."""
    table.require(share, schema, table_name)
    head = delta.head(table_id=table.table_id, name=table.name, fields=table.fields)
    return Response(delta.lines(head), media_type=delta.NDJSON, headers=_headers(table))


@router.post(
    f"{_TABLE}/query",
    response_class=Response,
    responses={
        200: {**_LINES, "headers": {**_HEADERS, **_MARKED}},
        **_REFUSALS,
        **problems(402, 409, 413, 422),
    },
    openapi_extra={"x-idempotent": False},
)
async def query_table(
    http: Request,
    kernel: KernelDep,
    table: TableDep,
    share: Name,
    schema: Name,
    table_name: Name,
    body: ShareQueryBody | None = None,
    delivery_id: Annotated[
        str | SkipJsonSchema[None],
        Header(alias="Delivery-Id", json_schema_extra={"pattern": DELIVERY_ID_PATTERN}),
    ] = None,
) -> Response:
    """The table's file as a signed link; its bytes are charged when they are sent.

    Hints are applied exactly: the file holds the rows that they select and no others.
    """
    table.require(share, schema, table_name)
    body = body or ShareQueryBody()
    if body.version is not None and body.timestamp is None:
        table = await at_version(kernel, table, body.version)
    asked = queries.Asked(
        version=body.version,
        timestamp=body.timestamp,
        limit=body.limitHint,
        json_hint=body.jsonPredicateHints,
        sql_hints=tuple(body.predicateHints),
        delivery_id=delivery_id,
    )
    made = await queries.answer(kernel, table, asked)
    objects = delta.head(table_id=table.table_id, name=table.name, fields=table.fields)
    if made.blob_key is not None:
        now_s = kernel.clock.timestamp_s()
        expires_at_s = min(now_s + links.LINK_TTL_S, table.claims.last_s)
        url = links.sign(kernel, base_url(http, kernel), made.id, expires_at_s=expires_at_s)
        file = {
            "url": url,
            "id": made.query_sha256[:32],
            "partitionValues": {},
            "size": made.byte_count,
            "expirationTimestamp": expires_at_s * 1_000,
        }
        objects.append({"file": file})
    headers = {**_headers(table), **table.disclosed, "Delivery-Id": made.delivery_key}
    return Response(delta.lines(objects), media_type=delta.NDJSON, headers=headers)


@router.get(f"{_TABLE}/changes", responses=_REFUSALS)
async def show_table_changes(table: TableDep, share: Name, schema: Name, table_name: Name) -> None:
    """Always refused: changes are read at `/v1/delivery/changes`."""
    table.require(share, schema, table_name)
    raise SharingRequestInvalid("The table has no change data feed.", param="startingVersion")


FileName = Annotated[str, Path(pattern=r"^[0-9a-f]{32}\.parquet$")]
Signature = Annotated[str, Query(max_length=2_000)]


@router.head("/files/{file_name}", include_in_schema=False)
async def head_shared_file(
    http: Request, kernel: KernelDep, file_name: FileName, signature: Signature
) -> Response:
    """Size of a file; free."""
    query_id = links.verify(kernel, file_name.removesuffix(".parquet"), signature)
    query = await files.find(kernel, query_id)
    await files.admit(kernel, query, address=peer_of(http))
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(query.byte_count)}
    headers |= await disclosure_of(kernel, query.agreement_id)
    return Response(None, media_type=MEDIA_TYPE, headers=headers)


@router.get(
    "/files/{file_name}",
    response_class=Response,
    responses={
        200: {"description": "The file.", **_FILE},
        206: {"description": "The range.", **_FILE},
        **problems(400, 402, 403, 404, 409, 410, 416, 503),
    },
)
async def download_shared_file(
    http: Request,
    kernel: KernelDep,
    file_name: FileName,
    signature: Signature,
    range_: Annotated[str | SkipJsonSchema[None], Header(alias="Range", max_length=200)] = None,
) -> Response:
    """A file, whole or one range: charged once by the bytes that are sent, repetitions are free."""
    query_id = links.verify(kernel, file_name.removesuffix(".parquet"), signature)
    query = await files.find(kernel, query_id)
    size = query.byte_count
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{query.query_sha256}"'}
    try:
        asked = ranges.parse(range_, size)
    except ranges.Unsatisfiable as error:
        raise RangeUnsatisfiable(headers={"Content-Range": f"bytes */{size}"}) from error
    await files.admit(kernel, query, address=peer_of(http))
    headers |= await disclosure_of(kernel, query.agreement_id)
    assert query.blob_key is not None
    path = await kernel.blobs.local_path(query.blob_key)
    span = asked or (0, size)
    if asked is not None:
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{size}"
    first = await files.reserve(kernel, query, next_piece(query.id, span))
    return FileResponse(
        kernel,
        query,
        path,
        span,
        first,
        status_code=200 if asked is None else 206,
        headers=headers,
    )
