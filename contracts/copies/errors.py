"""What a buyer's copy may refuse."""

from market.kernel.errors import Unavailable


class CopyPreparing(Unavailable):
    """The buyer's copy is being made; Retry-After says when to ask again."""

    code, title = "copy_preparing", "Your copy of the data is being made"
    default_hint = "Repeat the request; nothing was charged."


class CopyKeyMissing(Unavailable):
    """No key to choose marks and pseudonyms with."""

    code, title = "copy_key_missing", "Copies cannot be made now"
    default_hint = "The operator sets MARKET_COPY_KEY_FILE; nothing was charged."
