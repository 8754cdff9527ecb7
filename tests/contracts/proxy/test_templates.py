"""From operations and parameters to requests: every value stays in its place."""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import orjson
import pytest
from hypothesis import given, settings, strategies as st

from contracts.proxy.errors import OperationInvalid, ParametersInvalid
from contracts.proxy.templates import Injected, Outgoing, checked_path, render

BASE = "https://api.example.com/v2"


def rendered(
    parameters: dict[str, Any],
    *,
    path: str = "/items/{id}",
    method: str = "GET",
    secret: Injected | None = None,
) -> Outgoing:
    return render(BASE, method, path, parameters, accept="text/csv", delivery="d-1", secret=secret)


def test_path_query_and_headers() -> None:
    made = rendered({"id": "a/b ?", "n": 3, "all": True, "tag": ["x", "y&z"]})
    assert made.url == f"{BASE}/items/a%2Fb%20%3F?all=true&n=3&tag=x&tag=y%26z"
    assert dict(made.headers) == {
        "Accept": "text/csv",
        "Accept-Encoding": "gzip",
        "Delivery-Id": "d-1",
        "User-Agent": "data-element-market-proxy",
    }
    assert made.body is None


def test_a_post_carries_json() -> None:
    made = rendered({"id": 7, "deep": {"a": [None, 1.5]}}, method="POST")
    assert made.url == f"{BASE}/items/7"
    assert orjson.loads(made.body or b"") == {"deep": {"a": [None, 1.5]}}
    assert dict(made.headers)["Content-Type"] == "application/json"


def test_the_secret_goes_where_it_belongs_and_cannot_be_given_by_the_buyer() -> None:
    header = rendered({"id": 1}, secret=Injected("header", "Authorization", "Bearer s", "s"))
    assert dict(header.headers)["Authorization"] == "Bearer s"
    assert "Bearer" not in header.url
    query = rendered({"id": 1, "key": "mine"}, secret=Injected("query", "key", "a b&c", "a b&c"))
    assert query.url == f"{BASE}/items/1?key=a%20b%26c"


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"id": None},
        {"id": ""},
        {"id": ".."},
        {"id": "."},
        {"id": ["a"]},
        {"id": {"a": 1}},
        {"id": 1, "deep": {"a": 1}},
        {"id": 1, "none": None},
        {"id": "x" * 9_000},
    ],
)
def test_values_without_a_place_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParametersInvalid):
        rendered(parameters)


def test_dots_beside_dots_do_not_climb() -> None:
    with pytest.raises(ParametersInvalid):
        rendered({"a": ".", "b": "."}, path="/x/{a}{b}/y")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(TEXT, TEXT)
@settings(max_examples=300, deadline=None)
def test_no_text_leaves_its_place(segment: str, value: str) -> None:
    if segment in (".", ".."):
        return
    made = rendered({"id": segment, "q": value})
    parts = urlsplit(made.url)
    assert (parts.scheme, parts.netloc) == ("https", "api.example.com")
    assert unquote(parts.path) == f"/v2/items/{segment}"
    assert parts.path.count("/") == 3
    assert parse_qsl(parts.query, keep_blank_values=True) == [("q", value)]
    assert made.url.isascii()
    assert " " not in made.url


PARAMETERS = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "opt": {"type": "string"}},
    "required": ["id"],
}


@pytest.mark.parametrize(
    "path",
    [
        "items",
        "/items/{id",
        "/items/id}",
        "/items/{}",
        "/items/{opt}",
        "/items/{unknown}",
        "/a/../b",
        "/./b",
        "/%2e%2e/b",
        "/a?b=1",
        "/a#b",
        "/a b",
        "/é",
        "//evil.example.com/{id}\n",
    ],
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(OperationInvalid):
        checked_path(path, PARAMETERS, param="path")


def test_paths_that_are_taken() -> None:
    for path in ("/", "/items/{id}", "/v1/{id}.json", "/a/{id}/b:{id}"):
        assert checked_path(path, PARAMETERS, param="path") == path
