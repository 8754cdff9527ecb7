"""Checksums of a book: a sum of marks, so that a batch updates it by what it touched."""

from typing import Final

_MASK: Final = (1 << 63) - 1
_WORD: Final = (1 << 64) - 1
_AUCTION_BIT: Final = 4


def order_mark(
    ref: int, side: int, price: int, lots: int, rank: int | None = None, auction_only: bool = False
) -> int:
    """63-bit mark of one resting order; 0 lots (gone) marks 0.

    Covers everything of an order that a later match depends on, but for its group and party:
    those are numbers of one process, and their rows carry the real ids. ``rank`` is the time
    priority where it is not the ref. Mixing after SplitMix64 (Steele, Lea, Flood 2014), so that
    near values land far apart.
    """
    if not lots:
        return 0
    mixed = ref * 0x9E3779B97F4A7C15 + price * 0xBF58476D1CE4E5B9 + lots * 0x94D049BB133111EB
    if rank is not None:
        mixed += (rank - ref) * 0xD6E8FEB86659FD93
    mixed ^= (side + 1) | (_AUCTION_BIT if auction_only else 0)
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _WORD
    return (mixed ^ (mixed >> 31)) & _MASK


def add_marks(checksum: int, change: int) -> int:
    """The checksum after a (possibly negative) change of marks."""
    return (checksum + change) & _MASK
