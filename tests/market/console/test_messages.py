"""Nothing on a page is untranslated, in either language."""

import re
import string
from datetime import UTC, datetime
from enum import StrEnum
from importlib.resources import files

import pytest
from jinja2 import TemplateSyntaxError, nodes

from contracts import dispute_models, dispute_states
from contracts.agreement_states import AgreementStatus
from contracts.models import GrantStatus, PlanKind, Unit
from listings.classification import Grade
from listings.lifecycle import ListingStatus, ProductStatus, VersionStatus
from listings.schemas import SubjectKind
from listings.vocabulary import Category, Purpose, UpdateCycle
from market.console import languages, rendering
from market.console.messages import CATALOG, Language, say, word
from market.console.rendering import ENVIRONMENT
from market.kernel.security import Role
from settlement.models import TopUpStatus

TEMPLATES = sorted(ENVIRONMENT.list_templates())
GROUPS: dict[str, tuple[type[StrEnum], ...]] = {
    "role": (Role,),
    "category": (Category,),
    "grade": (Grade,),
    "cycle": (UpdateCycle,),
    "purpose": (Purpose,),
    "plan_kind": (PlanKind,),
    "unit": (Unit,),
    "agreement_status": (AgreementStatus,),
    "grant_status": (GrantStatus,),
    "dispute_status": (dispute_states.DisputeStatus,),
    "reason": (dispute_models.Reason,),
    "remedy": (dispute_models.AccessRemedy,),
    "evidence_kind": (dispute_models.EvidenceKind,),
    "source": (dispute_models.RulingSource,),
    "outcome": (dispute_models.OutcomeKind,),
    "dispute_step": (dispute_states.Default,),
    "subject": (SubjectKind,),
    "top_up_status": (TopUpStatus,),
    "review_status": (ProductStatus, VersionStatus, ListingStatus),
}


def _fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("key", sorted(CATALOG))
def test_both_languages_say_it_with_the_same_values(key: str) -> None:
    english, chinese = CATALOG[key]
    assert english
    assert chinese
    assert _fields(english) == _fields(chinese)


@pytest.mark.parametrize(
    ("group", "value"),
    [(group, member.value) for group, enums in GROUPS.items() for e in enums for member in e],
)
def test_every_word_of_an_enumeration_is_known(group: str, value: str) -> None:
    assert f"{group}.{value}" in CATALOG


def test_every_step_that_services_record_is_known() -> None:
    source = "".join(
        path.read_text() for path in files("contracts").iterdir() if path.name.endswith(".py")
    )
    kinds = set(re.findall(r'\bkind="([a-z_]+)"', source))
    assert len(kinds) >= 14
    assert {kind for kind in kinds if f"dispute_step.{kind}" not in CATALOG} == set()


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_use_known_messages_and_hold_no_text(name: str) -> None:
    source, _, _ = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)  # type: ignore[union-attr]
    try:
        tree = ENVIRONMENT.parse(source)
    except TemplateSyntaxError as error:
        raise AssertionError(f"{name}:{error.lineno} {error}") from error
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == "t":
            argument = call.args[0]
            if isinstance(argument, nodes.Const):
                assert argument.value in CATALOG
    # What is left of the markup without tags, attributes and expressions.
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}|\{#.*?#\}", "", source, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", "", text)
    assert re.findall(r"[^\W\d_]{2,}", text) == []
    for attribute in ("aria-label", "placeholder", "title", "alt"):
        values = re.findall(rf'{attribute}="([^"]*)"', source)
        assert [value for value in values if value and "{{" not in value] == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_hold_nothing_that_the_content_policy_refuses(name: str) -> None:
    source, _, _ = ENVIRONMENT.loader.get_source(ENVIRONMENT, name)  # type: ignore[union-attr]
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|hx-on|javascript:|\|\s*safe", source) == []
    assert re.findall(r"<script(?![^>]*\ssrc=)", source) == []
    assert re.findall(r'(?:src|href|action)="https?:', source) == []


def test_free_text_stays_as_it_is() -> None:
    assert word(Language.ZH, "agreement_step", "<b>because</b>") == "<b>because</b>"
    assert word(Language.ZH, "reason", "quality") == "质量问题"
    with pytest.raises(KeyError):
        say(Language.EN, "no.such.message")


@pytest.mark.parametrize(
    ("query", "cookie", "accept", "expected"),
    [
        ({}, None, None, Language.EN),
        ({}, None, "zh-CN,zh;q=0.9,en;q=0.8", Language.ZH),
        ({}, None, "de, zh;q=0.3, en;q=0.4", Language.EN),
        ({}, None, "zh;q=0.5,en;q=0.5", Language.ZH),
        ({}, None, "en;q=0,zh;q=nonsense", Language.EN),
        ({}, "zh", "en", Language.ZH),
        ({"lang": "en"}, "zh", "zh", Language.EN),
        ({"lang": "xx"}, "yy", "fr", Language.EN),
        ({}, None, "," * 5_000 + "zh", Language.EN),
    ],
)
def test_negotiation(
    query: dict[str, str], cookie: str | None, accept: str | None, expected: Language
) -> None:
    cookies = {} if cookie is None else {languages.LANGUAGE_COOKIE: cookie}
    assert languages.negotiate(query, cookies, accept) is expected


def test_figures() -> None:
    assert rendering.percent(300_000) == "30 %"
    assert rendering.percent(333_333) == "33.3333 %"
    assert rendering.percent(1) == "0.0001 %"
    assert rendering.percent(1_000_000) == "100 %"
    assert rendering.score("0.9731") == "97.31 %"
    assert rendering.score("1.0000") == "100 %"
    assert rendering.number(336_776) == "336,776"
    assert rendering.moment(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02 03:04:05 UTC"
    assert [rendering.bar(part, 1_000_000) for part in (0, 1, 500_000, 2_000_000)] == [
        0,
        4,
        500,
        1_000,
    ]
    assert rendering.bar(1, 0) == 0
    assert rendering.span(Language.EN, 90_061) == "1 d 1 h"
    assert rendering.span(Language.ZH, -3_660) == "1 小时 1 分"
    assert rendering.address("/console", {"q": "a&b", "x": None}, y="") == "/console?q=a%26b"
