"""The order flow that every matching benchmark runs: issue 4, pricing.md B2.

200,000 operations on 50 instruments by 2,000 parties: 60 % limit (a quarter of them priced
through the other side), 15 % market or IOC, 20 % cancel, 5 % amend (half fewer lots, half another
price). Cancels and amendments name any earlier limit order, so that some come too late. Half of
the parties only buy, half only sell: few peers prevent self-trades, and this way none occur.
Times, prices and quantities are integers; the same seed gives the same flow on every machine.
"""

from enum import IntEnum
from itertools import accumulate
from random import Random
from typing import Final, NamedTuple

from market.matching.replay import Command, Kind
from market.matching.terms import Side, TimeInForce

SEED: Final = 20240607
OPERATIONS: Final = 200_000
PARTIES: Final = 2_000
INSTRUMENTS: Final = 50
MID: Final = 10_000
# A market order's protection: this far from the starting price, in ticks.
PROTECTION: Final = 500


_SUBMIT, _CANCEL, _AMEND = int(Kind.SUBMIT), int(Kind.CANCEL), int(Kind.AMEND)
_GTC, _IOC = int(TimeInForce.GTC), int(TimeInForce.IOC)


class Verb(IntEnum):
    LIMIT = 0
    IOC = 1
    MARKET = 2
    CANCEL = 3
    AMEND = 4


class Operation(NamedTuple):
    """``ref`` of a new order rises; of a cancel or an amendment it is the order's."""

    verb: int
    instrument: int
    ref: int
    party: int
    side: int
    price: int
    lots: int


def operations(count: int = OPERATIONS, seed: int = SEED) -> list[Operation]:
    """The flow. Instruments have unequal shares: the k-th 1/(k + 10)."""
    random = Random(seed)
    weights = list(accumulate(1 / (rank + 10) for rank in range(INSTRUMENTS)))
    mids = [MID] * INSTRUMENTS
    placed: list[Operation] = []
    flow: list[Operation] = []
    verbs = random.choices(
        [Verb.LIMIT, Verb.IOC, Verb.MARKET, Verb.CANCEL, Verb.AMEND],
        [600, 75, 75, 200, 50],
        k=count,
    )
    for ref, verb in enumerate(verbs, start=1):
        if verb in (Verb.CANCEL, Verb.AMEND) and placed:
            # Recent orders are cancelled most; a sixth of the picks reaches anywhere back.
            reach = len(placed) if random.random() < 1 / 6 else min(len(placed), 2_000)
            target = placed[-1 - random.randrange(reach)]
            if verb is Verb.CANCEL:
                flow.append(target._replace(verb=verb))
            elif random.random() < 0.5:
                flow.append(target._replace(verb=verb, lots=(target.lots + 1) // 2))
            else:
                price = target.price + random.choice((-3, -2, -1, 1, 2, 3))
                flow.append(target._replace(verb=verb, price=price))
            continue
        instrument = random.choices(range(INSTRUMENTS), cum_weights=weights)[0]
        side = random.randrange(2)
        party = random.randrange(PARTIES // 2) * 2 + side
        lots = random.randint(1, 100)
        mids[instrument] += random.choice((-1, 0, 0, 0, 0, 0, 0, 1)) * (ref % 4 == 0)
        toward = 1 if side == Side.SELL else -1
        if verb in (Verb.LIMIT, Verb.CANCEL, Verb.AMEND):
            away = random.randint(1, 40) if random.random() < 0.75 else -random.randint(0, 10)
            price = mids[instrument] + toward * away
            placed.append(Operation(Verb.LIMIT, instrument, ref, party, side, price, lots))
            flow.append(placed[-1])
            continue
        away = -PROTECTION if verb is Verb.MARKET else -random.randint(0, 10)
        price = mids[instrument] + toward * away
        flow.append(Operation(verb, instrument, ref, party, side, price, lots))
    return flow


def commands(flow: list[Operation]) -> list[Command]:
    """The flow for our book. A market order is an IOC at its protection price."""
    found: list[Command] = []
    for number, item in enumerate(flow, start=1):
        verb, book, ref, party, side, price, lots = item
        kind, seq = _SUBMIT, ref
        if verb == Verb.CANCEL:
            kind, seq = _CANCEL, number
        elif verb == Verb.AMEND:
            kind, seq = _AMEND, number
        tif = _IOC if verb in (Verb.IOC, Verb.MARKET) else _GTC
        found.append((kind, book, seq, ref, party, side, price, lots, tif, party, 0))
    return found
