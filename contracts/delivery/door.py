"""The door that every way out shares: whether a token may be used like this, from here."""

from __future__ import annotations

from collections import OrderedDict
from uuid import UUID
from weakref import WeakKeyDictionary

from contracts.models import DeliveryToken
from contracts.token_limits import Limits
from market.kernel.context import Kernel
from market.kernel.security import InvalidToken, Keyring

CACHED_LIMITS_MAX = 10_000


class Door:
    """Knows tokens' limits. One per process and keyring.

    Limits never change, so they are read once; whether a token is revoked is the meter's matter
    and never cached here.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._seen: OrderedDict[UUID, Limits] = OrderedDict()

    async def limits(self, token_id: UUID) -> Limits:
        """What the token may do. Raises InvalidToken (401) for a token that is not on record."""
        known = self._seen.get(token_id)
        if known is not None:
            return known
        async with self._kernel.unit_of_work() as uow:
            row = await uow.session.get(DeliveryToken, token_id)
        if row is None:
            raise InvalidToken("The token is not on record.")
        limits = self._seen[token_id] = Limits.of(row.limits)
        if len(self._seen) > CACHED_LIMITS_MAX:
            self._seen.popitem(last=False)
        return limits


_doors: WeakKeyDictionary[Keyring, Door] = WeakKeyDictionary()


def door_of(kernel: Kernel) -> Door:
    """This process's door."""
    door = _doors.get(kernel.keys)
    if door is None:
        door = _doors[kernel.keys] = Door(kernel)
    return door
