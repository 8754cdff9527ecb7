"""Which rail this exchange uses: ``MARKET_RAIL``. Settings without its keys do not load."""

from weakref import WeakKeyDictionary

from market.kernel.context import Kernel
from market.kernel.redis import Redis
from settlement.errors import RailUnavailable
from settlement.rails.base import Rail
from settlement.rails.sandbox import SandboxRail
from settlement.rails.stripe import StripeRail

# One per kernel, so that connections to the provider are kept. A kernel itself has no weak
# identity (it compares by value); its cache connection does.
_stripe: WeakKeyDictionary[Redis, StripeRail] = WeakKeyDictionary()


def rail_of(kernel: Kernel) -> Rail:
    """The rail of the settings. Raises RailUnavailable for the sandbox rail in production: its
    cards would create money there."""
    if kernel.settings.rail == "stripe":
        return stripe_rail_of(kernel)
    if not kernel.settings.is_sandbox:
        raise RailUnavailable("No payment provider is configured.")
    return SandboxRail(kernel)


def stripe_rail_of(kernel: Kernel) -> StripeRail:
    """The Stripe rail of this process. Raises RailUnavailable when the settings name another."""
    if kernel.settings.rail != "stripe":
        raise RailUnavailable("Stripe is not this exchange's payment provider.")
    rail = _stripe.get(kernel.redis)
    if rail is None:
        rail = _stripe[kernel.redis] = StripeRail(kernel)
    return rail


async def close_rail(kernel: Kernel) -> None:
    """Before the kernel closes: give the provider's connections back."""
    rail = _stripe.pop(kernel.redis, None)
    if rail is not None:
        await rail.close()
