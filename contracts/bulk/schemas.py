"""API shapes of bulk delivery."""

from pydantic import Field

from contracts.models import Unit
from market.kernel.ids import VersionId
from market.kernel.schemas import Schema


class BulkManifest(Schema):
    """What a whole-version download is: its size, checksum and price in units."""

    version_id: VersionId
    version: int = Field(ge=1, description="The version's number.")
    media_type: str = Field(examples=["application/vnd.apache.parquet"])
    bytes: int = Field(ge=1)
    rows: int = Field(ge=1)
    sha256: str = Field(description="Of the file, in hex; also its ETag.")
    part_bytes: int = Field(ge=1, description="The file is metered in parts of so many bytes.")
    parts: int = Field(ge=1)
    unit: Unit
    units: int = Field(ge=0, description="What the whole costs under one Delivery-Id.")
