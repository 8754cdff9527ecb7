"""Reciprocal-rank fusion: places, scores in whole billionths, ties."""

from uuid import UUID

from market.demand.ranking import Candidate, Ranked, rank

A, B, C, D = (UUID(int=number) for number in range(1, 5))


def test_three_rankings_add_up() -> None:
    ranked = rank(
        [
            Candidate(A, closeness=900, text=5, cost=300),
            Candidate(B, closeness=800, text=9, cost=100),
            Candidate(C, closeness=700, text=7, cost=None),
        ]
    )
    # 10^9 // 61, 62, 63 = 16,393,442; 16,129,032; 15,873,015.
    assert ranked == [
        Ranked(B, 16_129_032 + 16_393_442 + 16_393_442, 2, 1, 1),
        Ranked(A, 16_393_442 + 15_873_015 + 16_129_032, 1, 3, 2),
        Ranked(C, 15_873_015 + 16_129_032, 3, 2, None),
    ]


def test_equal_values_share_a_place_and_equal_scores_go_by_id() -> None:
    ranked = rank(
        [
            Candidate(D, closeness=1, text=0, cost=None),
            Candidate(C, closeness=5, text=0, cost=None),
            Candidate(B, closeness=5, text=0, cost=None),
            Candidate(A, closeness=9, text=None, cost=None),
        ]
    )
    assert [(each.listing_id, each.closeness_place) for each in ranked] == [
        (A, 1),
        (B, 2),
        (C, 2),
        (D, 4),
    ]
    assert {each.text_place for each in ranked} == {None}
    assert ranked[0].score == 16_393_442


def test_nothing_to_rank() -> None:
    assert rank([]) == []
