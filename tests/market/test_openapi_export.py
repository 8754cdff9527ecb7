"""The exported files: per package, complete, deterministic, and compared."""

import json
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from market import openapi_export

bearer = HTTPBearer(scheme_name="bearer")


class Inner(BaseModel):
    n: int


class Outer(BaseModel):
    inner: Inner


class Other(BaseModel):
    text: str


async def show_outer(_token: Annotated[object, Security(bearer)]) -> Outer:
    return Outer(inner=Inner(n=1))


async def show_other() -> Other:
    return Other(text="x")


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr(show_outer, "__module__", "listings.endpoints")
    monkeypatch.setattr(show_other, "__module__", "market.parties.endpoints")
    router = APIRouter(prefix="/v1")
    router.get("/things")(show_outer)
    router.post("/things")(show_other)
    made = FastAPI(title="Test")
    made.include_router(router)
    return made


def test_each_service_file_holds_its_operations_and_what_they_reach(app: FastAPI) -> None:
    files = {name: json.loads(text) for name, text in openapi_export.documents(app).items()}
    assert sorted(files) == [
        "auctions.json",
        "contracts.json",
        "demand.json",
        "listings.json",
        "market.json",
        "matching.json",
        "parties.json",
        "pricing.json",
        "settlement.json",
    ]
    assert sorted(files["market.json"]["paths"]["/v1/things"]) == ["get", "post"]
    listings = files["listings.json"]
    assert listings["info"]["title"] == "Test: listings"
    assert list(listings["paths"]["/v1/things"]) == ["get"]
    assert sorted(listings["components"]["schemas"]) == ["Inner", "Outer"]
    assert list(listings["components"]["securitySchemes"]) == ["bearer"]
    parties = files["parties.json"]
    assert list(parties["paths"]["/v1/things"]) == ["post"]
    assert sorted(parties["components"]) == ["schemas"]
    assert sorted(parties["components"]["schemas"]) == ["Other"]
    assert files["pricing.json"]["paths"] == {}
    assert "components" not in files["pricing.json"]


def test_write_then_no_difference_then_a_diff(
    app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openapi_export, "FOLDER", tmp_path / "openapi")
    assert "+++ openapi/listings.json (code)" in openapi_export.differences(app).splitlines()
    assert len(openapi_export.write(app)) == 9
    assert openapi_export.write(app) == []
    assert openapi_export.differences(app) == ""

    path = tmp_path / "openapi/parties.json"
    path.write_text(path.read_text().replace('"Other"', '"Another"'))
    difference = openapi_export.differences(app)
    assert difference.splitlines()[:2] == [
        "--- openapi/parties.json (committed)",
        "+++ openapi/parties.json (code)",
    ]
    assert openapi_export.write(app) == ["parties.json"]


def test_a_huge_diff_is_cut(app: FastAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openapi_export, "FOLDER", tmp_path)
    monkeypatch.setattr(openapi_export, "DIFF_LINES_MAX", 10)
    lines = openapi_export.differences(app).splitlines()
    assert len(lines) == 11
    assert lines[-1].endswith(" more lines")
