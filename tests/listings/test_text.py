"""Search terms and facet counts."""

from hypothesis import given, strategies as st

from listings.facets import Cell, count, total
from listings.text import document_terms, query_literal, query_terms, vector_literal

han = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=2, max_size=12)


def test_bigrams_make_every_part_findable() -> None:
    terms = document_terms(["交通运行数据"])
    assert {"交通", "通运", "运行", "行数", "数据"} <= set(terms.han)
    assert query_terms("交通").han == ("'交通'",)


def test_scripts_are_separated_and_folded() -> None:
    terms = document_terms(["ＧＤＰ 数据", None, "Weather"])
    assert terms.latin.split() == ["gdp", "weather"]
    assert "数据" in terms.han


def test_one_character_matches_beginnings() -> None:
    assert query_literal(query_terms("路")) == "'路':*"
    assert "路" in document_terms(["道路"]).han


def test_particles_between_words_are_dropped() -> None:
    assert query_terms("城市交通的数据").han == ("'城市'", "'交通'", "'数据'")


def test_vector_literal_weights_and_positions() -> None:
    assert vector_literal([("A", ("交通",)), ("C", ("数据", "运行"))]) == (
        "'交通':1A '数据':2C '运行':3C"
    )


@given(han, han)
def test_any_substring_is_found(before: str, part: str) -> None:
    document = set(document_terms([before + part + before]).han)
    for expression in query_terms(part).han:
        token = expression.strip("'").removesuffix("':*")
        if expression.endswith(":*"):
            assert any(term.startswith(token) for term in document)
        else:
            assert token in document


@given(st.text(max_size=300))
def test_hostile_text_yields_plain_tokens(text: str) -> None:
    for token in document_terms([text]).han:
        assert "'" not in token
        assert "\\" not in token
    assert len(query_terms(text).han) <= 32


CELLS = [
    Cell("transport", "general", "CNY", ("license", "metered"), 3),
    Cell("transport", "important", "CNY", ("license",), 2),
    Cell("weather", "general", "USD", ("metered",), 4),
    Cell("weather", "general", "", (), 1),
    Cell("health", "general", "CNY", ("license",), 0),
]


def test_facets_keep_alternatives_to_their_own_filter() -> None:
    found = count(CELLS, {"category": "transport"})
    assert found["category"] == [("transport", 5), ("weather", 5)]
    assert found["grade"] == [("general", 3), ("important", 2)]
    assert found["currency"] == [("CNY", 5)]
    assert found["plan_kind"] == [("license", 5), ("metered", 3)]


def test_totals_apply_every_filter() -> None:
    assert total(CELLS, {}) == 10
    assert total(CELLS, {"plan_kind": "metered"}) == 7
    assert total(CELLS, {"plan_kind": "metered", "currency": "USD"}) == 4
    assert total(CELLS, {"category": "health"}) == 0
