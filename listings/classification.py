"""Grading after GB/T 43697-2024: core, important or general; the strictest element wins. Pure.

The standard grades by what a leak, change or loss would harm, and how badly, judged for each of
eight elements (field, group, region, precision, scale, depth, coverage, importance). Its text
could not be retrieved while this was written; `_TABLE` follows its table 1 as commonly
reproduced and an operator confirms every grade at review.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

# Regulation on Network Data Security (in force 2025-01-01) art. 28: handlers of personal
# information of ten million people or more carry the duties for important data.
PEOPLE_IMPORTANT_MIN = 10_000_000


class Grade(StrEnum):
    """Strictest first."""

    CORE = "core"
    IMPORTANT = "important"
    GENERAL = "general"


class Element(StrEnum):
    """The grading elements of GB/T 43697-2024, 6.3."""

    FIELD = "field"
    GROUP = "group"
    REGION = "region"
    PRECISION = "precision"
    SCALE = "scale"
    DEPTH = "depth"
    COVERAGE = "coverage"
    IMPORTANCE = "importance"


class ImpactObject(StrEnum):
    """What would be harmed (6.4)."""

    NATIONAL_SECURITY = "national_security"
    ECONOMIC_OPERATION = "economic_operation"
    SOCIAL_ORDER = "social_order"
    PUBLIC_INTEREST = "public_interest"
    ORGANIZATION_RIGHTS = "organization_rights"
    PERSONAL_RIGHTS = "personal_rights"


class ImpactDegree(StrEnum):
    """How badly (6.4)."""

    ESPECIALLY_SERIOUS = "especially_serious"
    SERIOUS = "serious"
    GENERAL = "general"


class Requirement(StrEnum):
    """What stands between a product and its review; the value is the error code."""

    CORE_DATA_REFUSED = "core_data_refused"
    FILING_REQUIRED = "filing_required"
    DEIDENTIFICATION_REQUIRED = "deidentification_required"


_STRICTNESS = {Grade.CORE: 0, Grade.IMPORTANT: 1, Grade.GENERAL: 2}
_STATE = (Grade.CORE, Grade.CORE, Grade.IMPORTANT)
_SOCIETY = (Grade.CORE, Grade.IMPORTANT, Grade.GENERAL)
_OWN = (Grade.GENERAL, Grade.GENERAL, Grade.GENERAL)
# Columns in the order of ImpactDegree.
_TABLE: dict[ImpactObject, tuple[Grade, Grade, Grade]] = {
    ImpactObject.NATIONAL_SECURITY: _STATE,
    ImpactObject.ECONOMIC_OPERATION: _SOCIETY,
    ImpactObject.SOCIAL_ORDER: _SOCIETY,
    ImpactObject.PUBLIC_INTEREST: _SOCIETY,
    ImpactObject.ORGANIZATION_RIGHTS: _OWN,
    ImpactObject.PERSONAL_RIGHTS: _OWN,
}
_DEGREES = tuple(ImpactDegree)


@dataclass(frozen=True, slots=True)
class Impact:
    """One judged element: harming ``object`` to ``degree``."""

    element: Element
    object: ImpactObject
    degree: ImpactDegree


@dataclass(frozen=True, slots=True)
class Declared:
    """What the seller states. ``people_count`` is the number of people the data is about."""

    impacts: Sequence[Impact] = ()
    contains_personal_data: bool = False
    people_count: int = 0
    deidentified: bool = False
    filed: bool = False


@dataclass(frozen=True, slots=True)
class Assessment:
    """The grade, the elements that decided it, and what is still required for a review."""

    grade: Grade
    deciding: tuple[Element, ...]
    personal_data: bool
    requirements: tuple[Requirement, ...]


def grade_of(impact: Impact) -> Grade:
    """Table 1 for one element."""
    return _TABLE[impact.object][_DEGREES.index(impact.degree)]


def strictest(grades: Sequence[Grade]) -> Grade:
    """The strictest of ``grades``; general when there are none."""
    return min(grades, key=lambda grade: _STRICTNESS[grade], default=Grade.GENERAL)


def assess(declared: Declared, sensitive_columns: Sequence[str] = ()) -> Assessment:
    """Grade the declaration together with what the profile found.

    ``sensitive_columns`` are columns in which personal identifiers were detected: the data then
    counts as personal, whatever was declared.
    """
    personal = (
        declared.contains_personal_data or bool(sensitive_columns) or declared.people_count > 0
    )
    judged = [(impact.element, grade_of(impact)) for impact in declared.impacts]
    if personal and declared.people_count >= PEOPLE_IMPORTANT_MIN:
        judged.append((Element.SCALE, Grade.IMPORTANT))
    grade = strictest([each for _, each in judged])
    deciding = tuple(dict.fromkeys(element for element, each in judged if each is grade))
    requirements: list[Requirement] = []
    if grade is Grade.CORE:
        requirements.append(Requirement.CORE_DATA_REFUSED)
    if grade is Grade.IMPORTANT and not declared.filed:
        requirements.append(Requirement.FILING_REQUIRED)
    if personal and not declared.deidentified:
        requirements.append(Requirement.DEIDENTIFICATION_REQUIRED)
    return Assessment(grade, deciding, personal, tuple(requirements))
