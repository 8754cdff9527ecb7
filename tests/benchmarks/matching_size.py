"""What a full book costs: time per operation and memory per resting order."""

import gc
import statistics
import time
import tracemalloc
from random import Random
from typing import Final

from market.matching.book import Book
from market.matching.replay import Command, Kind, run

SMALL: Final = 1_000
LARGE: Final = 1_000_000
PROBES: Final = 20_000
ROUNDS: Final = 5
SEED: Final = 20240607
LEVELS: Final = 1_000
MID: Final = 100_000
PARTIES: Final = 2_000


def filled(resting: int) -> Book:
    """A book with ``resting`` orders on 1,000 prices of either side."""
    random = Random(SEED)
    book = Book()
    for ref in range(1, resting + 1):
        side = ref & 1
        price = MID + (2 * side - 1) * random.randint(1, LEVELS)
        party = random.randrange(PARTIES)
        book.submit(ref, party, side, price, random.randint(1, 100), 0, [], party)
    return book


def probes(first: int, resting: int, random: Random) -> list[Command]:
    """Orders that rest, as many cancels of any order, and takers of one lot; sizes stay even."""
    found: list[Command] = []
    for ref in range(first, first + PROBES):
        side = random.randrange(2)
        party = PARTIES + random.randrange(PARTIES)
        if ref % 4 == 0:
            price = MID + (1 - 2 * side) * LEVELS
            found.append((int(Kind.SUBMIT), 0, ref, ref, party, side, price, 1, 1, party, 0))
        elif ref % 4 == 1:
            target = random.randint(1, resting)
            found.append((int(Kind.CANCEL), 0, ref, target, 0, 0, 0, 0, 0, 0, 0))
        else:
            price = MID + (2 * side - 1) * random.randint(1, LEVELS)
            found.append((int(Kind.SUBMIT), 0, ref, ref, party, side, price, 50, 0, party, 0))
            if ref % 4 == 3:
                found.append((int(Kind.CANCEL), 0, ref, ref - 1, 0, 0, 0, 0, 0, 0, 0))
                found.append((int(Kind.CANCEL), 0, ref, ref, 0, 0, 0, 0, 0, 0, 0))
    return found


def growth() -> float:
    """Time per operation with 1 M resting orders, divided by that with 1 k: median of rounds."""
    small, large = filled(SMALL), filled(LARGE)
    random = Random(SEED)
    ratios: list[float] = []
    for number in range(ROUNDS):
        first = LARGE + 1 + number * PROBES
        spent: list[float] = []
        for book, resting in ((small, SMALL), (large, LARGE)):
            log = probes(first, resting, random)
            start = time.thread_time()
            run([book], log)
            spent.append(time.thread_time() - start)
        ratios.append(spent[1] / spent[0])
    return statistics.median(ratios)


def bytes_per_order() -> float:
    """Traced memory of a book of 1 M orders, the integers it holds included."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    book = filled(LARGE)
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    # Not all rest: those that met the other side's best price cannot, by construction none do.
    assert len(book) == LARGE
    return used / LARGE
