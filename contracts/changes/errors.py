"""What the feed of changes refuses, beside what every delivery may refuse."""

from market.kernel.errors import Conflict, Invalid, Unavailable


class VersionsIncomparable(Conflict):
    """A column that both versions have has another type in one of them."""

    code, title = "versions_incomparable", "The versions cannot be compared"
    default_hint = "Fetch the newer version whole; nothing was charged."


class ChangesPreparing(Unavailable):
    """The feed is being computed; Retry-After says when to ask again."""

    code, title = "changes_preparing", "The changes are being computed"
    default_hint = "Repeat the request; nothing was charged."


class KeyInvalid(Invalid):
    """A key has columns of the newest version that can be compared, each once."""

    code, title = "key_invalid", "The key cannot be used"
    default_hint = "Name columns of integers, decimals, text, booleans, dates or times."
