"""Which rail this exchange uses."""

from market.kernel.context import Kernel
from settlement.errors import RailUnavailable
from settlement.rails.base import Rail
from settlement.rails.sandbox import SandboxRail


def rail_of(kernel: Kernel) -> Rail:
    """The rail of the environment. Raises RailUnavailable in production: sandbox cards would
    create money there."""
    if not kernel.settings.is_sandbox:
        raise RailUnavailable("No payment provider is configured.")
    return SandboxRail(kernel)
