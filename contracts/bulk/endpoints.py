"""HTTP of bulk delivery: a whole version as a file that can be resumed."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from contracts.bulk.downloads import BulkRequest, download, manifest
from contracts.bulk.ranges import RANGE_PATTERN
from contracts.bulk.response import MEDIA_TYPE
from contracts.bulk.schemas import BulkManifest
from contracts.copies import disclosure
from contracts.delivery.bearer import TokenDep, peer_of
from contracts.delivery.once import DELIVERY_ID_PATTERN
from contracts.versions.granted import NUMBER_MAX
from market.kernel.http import IdempotentRoute, KernelDep, problems

router = APIRouter(route_class=IdempotentRoute, tags=["contracts"])


VersionQuery = Annotated[
    int | None,
    Query(
        ge=1,
        le=NUMBER_MAX,
        description="A version by its number; without, the one that the agreement says.",
    ),
]

_HEADERS = {
    "Data-Version": "The number of the version that was sent.",
    "Delivery-Id": "Repeat it to resume: parts that were paid for are free for 24 hours.",
    disclosure.HEADER: disclosure.DESCRIPTION,
    "Meter-Charged": "Units that this answer costs once all of it is sent.",
    "Meter-Remaining": "Units left after it; absent without a bound.",
    "ETag": "The file's SHA-256; send it as If-Range when resuming.",
    "Repr-Digest": "SHA-256 of the whole file (RFC 9530).",
    "Content-Digest": "The same, when the answer is the whole file (RFC 9530).",
    "Accept-Ranges": "bytes",
}


def _file_answer(description: str, *more: str) -> dict[str, Any]:
    names = {**_HEADERS, **dict.fromkeys(more, "Where in the file the bytes are.")}
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in names.items()
        },
    }


@router.get(
    "/v1/delivery/bulk",
    response_class=Response,
    responses={
        200: _file_answer("The version's file."),
        206: _file_answer("A range of it.", "Content-Range"),
        **problems(401, 402, 403, 404, 409, 410, 416, 422, 429, 503),
    },
)
async def download_version(
    http: Request,
    kernel: KernelDep,
    token: TokenDep,
    range_: Annotated[
        str | SkipJsonSchema[None],
        # Enforced with a code of its own, after the token.
        Header(alias="Range", json_schema_extra={"pattern": RANGE_PATTERN}),
    ] = None,
    if_range: Annotated[
        str | SkipJsonSchema[None],
        Header(description="Another ETag than the file's: the Range is ignored."),
    ] = None,
    delivery_id: Annotated[
        str | SkipJsonSchema[None],
        Header(alias="Delivery-Id", json_schema_extra={"pattern": DELIVERY_ID_PATTERN}),
    ] = None,
    version: VersionQuery = None,
) -> Response:
    """The whole version as one Parquet file, or a range of its bytes; metered in parts.

    Send a Delivery-Id of your own, and repeat it with `Range` after a broken connection: what was
    charged under it is not charged again for 24 hours.
    """
    address = peer_of(http)
    request = BulkRequest(token, range_, if_range, delivery_id, address, version)
    return await download(kernel, request)


@router.get(
    "/v1/delivery/bulk/manifest", responses=problems(401, 403, 404, 409, 410, 422, 429, 503)
)
async def show_bulk_manifest(
    kernel: KernelDep, http: Request, token: TokenDep, version: VersionQuery = None
) -> BulkManifest:
    """Size, checksum and price in units of the download; free."""
    return await manifest(kernel, token, address=peer_of(http), version=version)
