"""The transition table of agreements."""

import itertools

import pytest

from contracts.agreement_states import (
    CLOSED,
    EARNING,
    TRANSITIONS,
    AgreementStatus,
    can_move,
    check_move,
)
from contracts.errors import IllegalTransition

S = AgreementStatus


def test_the_walk_of_a_trade() -> None:
    for source, target in itertools.pairwise(
        [S.FORMED, S.ACTIVE, S.DELIVERED, S.ACCEPTED, S.SETTLED]
    ):
        check_move(source, target)


def test_the_walk_of_a_dispute() -> None:
    for source, target in itertools.pairwise(
        [S.ACTIVE, S.OBJECTED, S.DISPUTED, S.RULED, S.DISPUTED, S.RULED, S.SETTLED]
    ):
        check_move(source, target)


def test_closed_is_closed_and_every_state_can_close() -> None:
    for closed, target in itertools.product(CLOSED, S):
        assert not can_move(closed, target)
    for start in S:
        reached, edge = {start}, {start}
        while edge:
            edge = {target for source in edge for target in TRANSITIONS[source]} - reached
            reached |= edge
        assert reached & CLOSED


def test_no_skipping() -> None:
    for source, target in [
        (S.FORMED, S.SETTLED),
        (S.ACTIVE, S.SETTLED),
        (S.ACTIVE, S.RULED),
        (S.DELIVERED, S.SETTLED),
        (S.OBJECTED, S.RULED),
        (S.ACCEPTED, S.TERMINATED),
    ]:
        with pytest.raises(IllegalTransition) as refused:
            check_move(source, target)
        assert refused.value.status == 409
        assert refused.value.extra["current"] == source.value


def test_money_moves_only_where_it_is_neither_frozen_nor_gone() -> None:
    assert EARNING.isdisjoint(CLOSED | {S.OBJECTED, S.DISPUTED, S.RULED, S.FORMED})
