"""Pushes into a bucket, addressed and signed as S3 wants it."""

import hashlib
import io

import orjson
import pyarrow.parquet as pq
import pytest

from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.push.bucket import ACCESS_KEY, REGION, SECRET_KEY, bucket_serving
from tests.contracts.push.conftest import MakeRoute

S3 = {
    "kind": "s3",
    "region": REGION,
    "bucket": "tide-tables",
    "access_key_id": ACCESS_KEY,
    "secret_access_key": SECRET_KEY,
}


@pytest.mark.parametrize("prefix", ["", "in/market"])
async def test_a_version_becomes_objects_and_a_manifest(
    make_route: MakeRoute, kernel: Kernel, prefix: str
) -> None:
    route = await make_route()
    async with bucket_serving() as (bucket, endpoint):
        made = await route.register(**S3, endpoint=endpoint, prefix=prefix, url=None)
        assert made.status_code == 201, made.text
        assert SECRET_KEY not in made.text
        assert ACCESS_KEY not in made.text
        assert (await route.verify())["ok"]
        push = await route.push(format="parquet", page_rows=400)
        await route.work()
    assert (await route.state(push))["status"] == "completed"
    folder = "/".join(["/tide-tables", *([prefix] if prefix else []), push])
    paths = [f"{folder}/part-{number:05d}.parquet" for number in (1, 2, 3)]
    sent = {path for path in bucket.objects if path.startswith(folder)}
    assert sent == {*paths, f"{folder}/manifest.json"}
    tables = [pq.read_table(io.BytesIO(bucket.objects[path])) for path in paths]
    assert [row for table in tables for row in table["id"].to_pylist()] == list(range(1_000))
    manifest = orjson.loads(bucket.objects[f"{folder}/manifest.json"])
    assert [part["sha256"] for part in manifest["parts"]] == [
        hashlib.sha256(bucket.objects[path]).hexdigest() for path in paths
    ]
    assert await settled(kernel, route.trade) == 1_000
    assert bucket.refusals == 0


async def test_credentials_that_are_wrong_are_found_by_the_ping(make_route: MakeRoute) -> None:
    route = await make_route()
    async with bucket_serving() as (bucket, endpoint):
        wrong = {**S3, "secret_access_key": "x" * 40}
        assert (await route.register(**wrong, endpoint=endpoint, url=None)).status_code == 201
        pinged = await route.verify()
    assert (pinged["ok"], pinged["problem"]) == (False, "target_answered_403")
    assert (bucket.objects, bucket.refusals) == ({}, 1)
    assert (await route.start()).json()["code"] == "push_target_not_verified"


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": "Upper"},
        {"bucket": "a/b"},
        {"prefix": "../up"},
        {"prefix": "/root"},
        {"region": "eu central"},
        {"endpoint": "https://10.1.2.3"},
    ],
    ids=["case", "slash", "climb", "root", "region", "private"],
)
async def test_places_that_are_none(make_route: MakeRoute, wrong: dict[str, str]) -> None:
    route = await make_route()
    body = {**S3, "endpoint": "https://s3.example.com", "url": None, **wrong}
    refused = await route.register(**body)
    assert refused.status_code == 422
