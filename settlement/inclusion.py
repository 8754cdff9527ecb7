"""RFC 6962 §2.1.1 audit paths: that one leaf is in a batch, without the other leaves. Pure.

Each step says on which side the neighbor stands. The RFC derives the side from the leaf's index
and the size of the tree, but several sizes fit one root: a stated side cannot be changed without
changing the root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

Side: TypeAlias = Literal["left", "right"]
Step: TypeAlias = tuple[Side, bytes]


def audit_path(leaves: Sequence[bytes], index: int) -> list[Step]:
    """The neighbors of leaf ``index`` on its way to the root, lowest first.

    ``leaves`` are leaf hashes. Raises IndexError when there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise IndexError(f"no leaf {index} among {len(leaves)}")
    path: list[Step] = []
    level = list(leaves)
    while len(level) > 1:
        if index % 2:
            path.append(("left", level[index - 1]))
        elif index + 1 < len(level):
            path.append(("right", level[index + 1]))
        above = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level, index = above, index // 2
    return path


def root_of(leaf: bytes, path: Sequence[Step]) -> bytes:
    """The root that a leaf hash and its audit path lead to."""
    node = leaf
    for side, neighbor in path:
        node = _node(neighbor, node) if side == "left" else _node(node, neighbor)
    return node


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
