"""What a marked copy may refuse."""

from market.kernel.errors import Conflict, Unavailable


class CopyPreparing(Unavailable):
    """The buyer's copy is being made; Retry-After says when to ask again."""

    code, title = "copy_preparing", "Your copy of the data is being made"
    default_hint = "Repeat the request; nothing was charged."


class VersionUnmarkable(Conflict):
    """The version has not the columns that its policy marks, so it is not handed out."""

    code, title = "version_unmarkable", "This version cannot be marked as agreed"
    default_hint = "Ask for another version, or the seller for one with the agreed columns."


class FingerprintKeyMissing(Unavailable):
    """No key to choose marks with."""

    code, title = "fingerprint_key_missing", "Marked copies cannot be made now"
    default_hint = "The operator sets MARKET_FINGERPRINT_KEY_FILE; nothing was charged."
