"""Sealed bids and digital goods: exact awards, truthfulness, and naive oracles."""

from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from market.auctions.digital_goods import commitment, half, optimal_price, sell
from market.auctions.sealed_bids import Award, Bid, PriceRule, award

SEED = bytes(range(32))
BIDS = [Bid(1, 11, 70), Bid(2, 12, 90), Bid(3, 13, 90), Bid(4, 14, 40)]

bid_lists = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 20)), max_size=10).map(
    lambda pairs: [Bid(ref, bidder, price) for ref, (bidder, price) in enumerate(pairs, start=1)]
)


def test_first_price_winner_pays_the_bid_and_the_earlier_of_two_equal_wins() -> None:
    assert award(BIDS, PriceRule.FIRST) == [Award(2, 12, 90)]


def test_second_price_winner_pays_the_best_losing_bid() -> None:
    assert award(BIDS, PriceRule.SECOND) == [Award(2, 12, 90)]
    assert award(BIDS[:2], PriceRule.SECOND) == [Award(2, 12, 70)]
    assert award(BIDS, PriceRule.SECOND, licenses=2) == [Award(2, 12, 70), Award(3, 13, 70)]


def test_the_reserve_is_the_least_a_winner_pays() -> None:
    assert award(BIDS[:2], PriceRule.SECOND, reserve=80) == [Award(2, 12, 80)]
    assert award(BIDS, PriceRule.SECOND, reserve=91) == []
    assert award([], PriceRule.FIRST) == []


def test_a_bidder_never_sets_their_own_price() -> None:
    bids = [Bid(1, 11, 90), Bid(2, 11, 85), Bid(3, 12, 50)]
    assert award(bids, PriceRule.SECOND) == [Award(1, 11, 50)]


@pytest.mark.parametrize("arguments", [{"reserve": -1}, {"licenses": 0}])
def test_impossible_terms_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least"):
        award(BIDS, PriceRule.FIRST, **arguments)


@given(bid_lists, st.integers(0, 12), st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_truth_is_the_best_second_price_bid(
    bids: list[Bid], reserve: int, licenses: int, worth: int, other: int
) -> None:
    """Whatever the others bid, no other bid of ours earns more than our worth."""

    def gain(price: int) -> int:
        mine = Bid(99, 99, price)
        won = award([*bids, mine], PriceRule.SECOND, reserve=reserve, licenses=licenses)
        return sum(worth - winner.price for winner in won if winner.bidder == 99)

    assert gain(worth) >= gain(other)


@given(bid_lists, st.integers(0, 12), st.integers(1, 3), st.sampled_from(PriceRule))
def test_awards_equal_a_search_of_all_bidders(
    bids: list[Bid], reserve: int, licenses: int, rule: PriceRule
) -> None:
    won = award(bids, rule, reserve=reserve, licenses=licenses)
    counted = [bid for bid in bids if bid.price >= reserve]
    bidders = {bid.bidder for bid in counted}
    assert len(won) == min(licenses, len(bidders))
    assert len({winner.bidder for winner in won}) == len(won)
    losing = max(
        (b.price for b in counted if b.bidder not in {w.bidder for w in won}), default=reserve
    )
    for winner in won:
        own = max(bid.price for bid in counted if bid.bidder == winner.bidder)
        assert own >= losing
        assert winner.price == (own if rule is PriceRule.FIRST else losing)


@given(st.lists(st.integers(1, 30), max_size=12), st.integers(0, 10))
def test_the_optimal_price_earns_most(prices: list[int], reserve: int) -> None:
    found = optimal_price(prices, reserve)
    eligible = [price for price in prices if price >= reserve]
    if not eligible:
        assert found is None
        return
    assert found is not None

    def revenue(price: int) -> int:
        return price * sum(bid >= price for bid in eligible)

    assert found in eligible
    assert revenue(found) == max(revenue(price) for price in eligible)


def test_rsop_offers_each_half_the_price_of_the_other() -> None:
    bids = [Bid(ref, ref, 10 * ref) for ref in range(1, 9)]
    offer = sell(bids, SEED, commitment(SEED))
    split: Sequence[list[int]] = ([], [])
    for bid in bids:
        split[half(SEED, bid.bidder)].append(bid.price)
    assert offer.prices == (optimal_price(split[1]), optimal_price(split[0]))
    expected = [
        Award(bid.ref, bid.bidder, price)
        for bid in reversed(bids)
        if (price := offer.prices[half(SEED, bid.bidder)]) is not None and bid.price >= price
    ]
    assert offer.winners == expected
    assert offer.revenue == sum(winner.price for winner in expected)
    assert expected


@given(bid_lists, st.integers(0, 12), st.integers(1, 20), st.integers(1, 20))
def test_rsop_is_truthful_and_keeps_the_reserve(
    bids: list[Bid], reserve: int, worth: int, other: int
) -> None:
    def gain(price: int) -> int:
        offer = sell([*bids, Bid(99, 99, price)], SEED, commitment(SEED), reserve=reserve)
        assert all(winner.price >= reserve for winner in offer.winners)
        return sum(worth - winner.price for winner in offer.winners if winner.bidder == 99)

    assert gain(worth) >= gain(other)


def test_another_seed_than_the_committed_one_is_refused() -> None:
    with pytest.raises(ValueError, match="committed"):
        sell(BIDS, bytes(32), commitment(SEED))
    with pytest.raises(ValueError, match="guessed"):
        commitment(b"short")
    assert sell([], SEED, commitment(SEED)).winners == []
