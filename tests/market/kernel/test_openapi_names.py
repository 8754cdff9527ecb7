"""Schemas of the same name in two packages get names, titles and references of their own."""

from typing import Any

import pytest

from market.kernel.openapi_names import name_apart

PLACE = "#/components/schemas/"


def described(*names: str) -> dict[str, Any]:
    schemas: dict[str, Any] = {name: {"title": name.split("__")[-1]} for name in names}
    uses = [{"$ref": PLACE + name} for name in names]
    mapping = {name: PLACE + name for name in names}
    schemas["User"] = {"oneOf": uses, "discriminator": {"mapping": mapping}}
    return {"paths": {"/x": {"get": {"anyOf": uses}}}, "components": {"schemas": schemas}}


def test_names_titles_and_references_follow() -> None:
    document = described("pricing__models__Unit", "market__auctions__models__Unit", "Plain")
    name_apart(document)
    schemas = document["components"]["schemas"]
    assert list(schemas) == ["AuctionsUnit", "Plain", "PricingUnit", "User"]
    assert [schemas[name].get("title") for name in schemas] == [
        "AuctionsUnit",
        "Plain",
        "PricingUnit",
        None,
    ]
    expected = [PLACE + name for name in ("PricingUnit", "AuctionsUnit", "Plain")]
    assert [use["$ref"] for use in document["paths"]["/x"]["get"]["anyOf"]] == expected
    assert list(schemas["User"]["discriminator"]["mapping"].values()) == expected


def test_two_of_one_package_are_refused() -> None:
    with pytest.raises(ValueError, match="PricingUnit"):
        name_apart(described("pricing__models__Unit", "pricing__schemas__Unit"))
    with pytest.raises(ValueError, match="PricingUnit"):
        name_apart(described("pricing__models__Unit", "PricingUnit"))
