"""Grading: the table, strictest element, and what each grade requires."""

import pytest
from hypothesis import given, strategies as st

from listings.classification import (
    PEOPLE_IMPORTANT_MIN,
    Declared,
    Element,
    Grade,
    Impact,
    ImpactDegree,
    ImpactObject,
    Requirement,
    assess,
    grade_of,
)

ORDER = [Grade.CORE, Grade.IMPORTANT, Grade.GENERAL]
impacts = st.builds(
    Impact, st.sampled_from(Element), st.sampled_from(ImpactObject), st.sampled_from(ImpactDegree)
)


@pytest.mark.parametrize(
    ("harmed", "degree", "grade"),
    [
        ("national_security", "especially_serious", "core"),
        ("national_security", "serious", "core"),
        ("national_security", "general", "important"),
        ("economic_operation", "especially_serious", "core"),
        ("social_order", "serious", "important"),
        ("public_interest", "general", "general"),
        ("organization_rights", "especially_serious", "general"),
        ("personal_rights", "especially_serious", "general"),
    ],
)
def test_table(harmed: str, degree: str, grade: str) -> None:
    impact = Impact(Element.FIELD, ImpactObject(harmed), ImpactDegree(degree))
    assert grade_of(impact) == grade


@given(st.lists(impacts, max_size=12), impacts)
def test_another_element_never_relaxes_the_grade(found: list[Impact], more: Impact) -> None:
    before = assess(Declared(impacts=found)).grade
    after = assess(Declared(impacts=[*found, more])).grade
    assert ORDER.index(after) <= ORDER.index(before)
    assert ORDER.index(after) == min(ORDER.index(before), ORDER.index(grade_of(more)))


@given(st.lists(impacts, max_size=12))
def test_order_of_elements_does_not_matter(found: list[Impact]) -> None:
    assert assess(Declared(impacts=found)).grade == assess(Declared(impacts=found[::-1])).grade


def test_core_is_refused_whatever_is_filed() -> None:
    impact = Impact(Element.REGION, ImpactObject.NATIONAL_SECURITY, ImpactDegree.SERIOUS)
    found = assess(Declared(impacts=[impact], filed=True))
    assert found.grade is Grade.CORE
    assert found.deciding == (Element.REGION,)
    assert found.requirements == (Requirement.CORE_DATA_REFUSED,)


def test_important_needs_a_filing() -> None:
    impact = Impact(Element.SCALE, ImpactObject.SOCIAL_ORDER, ImpactDegree.SERIOUS)
    assert assess(Declared(impacts=[impact])).requirements == (Requirement.FILING_REQUIRED,)
    assert assess(Declared(impacts=[impact], filed=True)).requirements == ()


def test_personal_data_needs_evidence_declared_or_detected() -> None:
    needed = (Requirement.DEIDENTIFICATION_REQUIRED,)
    assert assess(Declared(contains_personal_data=True)).requirements == needed
    assert assess(Declared(), ["phone"]).requirements == needed
    assert assess(Declared(deidentified=True), ["phone"]).requirements == ()
    assert assess(Declared()).requirements == ()


def test_ten_million_people_make_personal_data_important() -> None:
    few = Declared(contains_personal_data=True, people_count=PEOPLE_IMPORTANT_MIN - 1)
    many = Declared(contains_personal_data=True, people_count=PEOPLE_IMPORTANT_MIN)
    assert assess(few).grade is Grade.GENERAL
    assert assess(many).grade is Grade.IMPORTANT
    assert assess(many).deciding == (Element.SCALE,)
