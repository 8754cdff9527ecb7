"""Lint the committed API description: valid OpenAPI 3.1, and our own conventions.

Conventions: unique snake_case operation ids, a tag and a description per operation, declared
problem documents, bounded page sizes, Idempotency-Key on POST, objects that refuse unknown
fields, and amounts that are never floating-point.
"""

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openapi_spec_validator import OpenAPIV31SpecValidator

FOLDER = Path(__file__).resolve().parents[1] / "openapi"
METHODS = ("get", "put", "post", "delete", "patch")
OPERATION_ID = re.compile(r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")
PAGE_LIMIT_MAX = 200
# Rows of data are delivered in larger pages than objects (settings.delivery_page_max_rows), and
# the changes of a book are small: a client that fell behind catches up in few requests.
PAGE_LIMITS = {
    "/v1/delivery/changes": 100_000,
    "/v1/delivery/rows": 100_000,
    "/v1/instruments/{plan_id}/book/updates": 1_000,
}
# POSTs without the header, which the code must declare too (`x-idempotent: false`): the token
# endpoints (RFC 6749) and introspection change nothing, a token that is revoked twice is revoked,
# and their standards know no such header; Stripe's events carry an id of their own, UNIQUE with
# their source, and a hundred copies at once are stored once
# (tests/settlement/rails/test_webhooks.py); a query of Delta Sharing charges nothing, and its
# clients know no such header; a proxied call has its Delivery-Id, and its meter charges one id
# once.
KEYLESS_POSTS = frozenset(
    {
        "/oauth2/introspect",
        "/oauth2/revoke",
        "/oauth2/token",
        "/v1/delivery/proxy/{operation}",
        "/v1/webhooks/stripe/{source}",
        "/v1/delta-sharing/oauth/token",
        "/v1/delta-sharing/shares/{share}/schemas/{schema}/tables/{table_name}/query",
    }
)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def validity(document: dict[str, Any]) -> Iterator[str]:
    for error in OpenAPIV31SpecValidator(document).iter_errors():
        where = "/".join(str(step) for step in error.absolute_path)
        yield f"invalid at {where}: {error.message[:200]}"


def conventions(document: dict[str, Any]) -> Iterator[str]:
    counted = Counter(op.get("operationId", "") for _, _, op in operations(document))
    for path, method, operation in operations(document):
        where = f"{method.upper()} {path}"
        name = operation.get("operationId", "")
        if not OPERATION_ID.match(name):
            yield f"{where}: operation id {name!r} is not snake_case"
        if counted[name] > 1:
            yield f"{where}: operation id {name!r} is not unique"
        if not operation.get("tags"):
            yield f"{where}: no tag"
        if not operation.get("description"):
            yield f"{where}: no description"
        if any(letter.isupper() for letter in re.sub(r"\{.*?\}", "", path)):
            yield f"{where}: upper case in the path"
        yield from problem_answers(where, operation)
        yield from parameters(where, path, method, operation)


def problem_answers(where: str, operation: dict[str, Any]) -> Iterator[str]:
    for status, answer in operation.get("responses", {}).items():
        if status[0] in "45" and "application/problem+json" not in answer.get("content", {}):
            yield f"{where}: answer {status} is no application/problem+json"


def parameters(where: str, path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    declared = {
        (parameter.get("in"), parameter.get("name", "").lower()): parameter
        for parameter in operation.get("parameters", [])
    }
    limit = declared.get(("query", "limit"))
    bound = PAGE_LIMITS.get(path, PAGE_LIMIT_MAX)
    if limit is not None and not 1 <= limit["schema"].get("maximum", 0) <= bound:
        yield f"{where}: limit is not bounded by {bound}"
    keyless = operation.get("x-idempotent") is False
    if keyless is not (method == "post" and path in KEYLESS_POSTS):
        yield f"{where}: x-idempotent and the list of keyless POSTs differ"
    if method == "post" and not keyless and ("header", "idempotency-key") not in declared:
        yield f"{where}: no Idempotency-Key"


def schemas(document: dict[str, Any]) -> Iterator[str]:
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        for field, value in schema.get("properties", {}).items():
            if field.endswith("_minor") and "number" in types_of(value):
                yield f"schema {name}.{field}: money is an integer of minor units"


def types_of(schema: dict[str, Any]) -> set[str]:
    found = {str(schema["type"])} if isinstance(schema.get("type"), str) else set()
    for inner in schema.get("anyOf", []):
        found |= types_of(inner)
    return found


def main() -> int:
    failures = 0
    files = sorted(FOLDER.glob("*.json"))
    if not files:
        sys.stdout.write("openapi: no files; run `make openapi`\n")
        return 1
    for path in files:
        document = json.loads(path.read_text())
        found = list(validity(document))
        if path.name == "market.json":
            found += [*conventions(document), *schemas(document)]
        failures += len(found)
        sys.stdout.write("".join(f"openapi/{path.name}: {line}\n" for line in found))
    if not failures:
        sys.stdout.write(f"openapi: {len(files)} files ok\n")
    return bool(failures)


if __name__ == "__main__":
    raise SystemExit(main())
