"""Limits on guessing and on sign-ups, per client and per address."""

from ipaddress import IPv6Address, ip_address
from typing import Final
from uuid import UUID

from fastapi import Request

from market.kernel.context import Kernel
from market.kernel.ratelimit import LimitsUnavailable, Window
from market.parties.errors import LoginUnavailable, TooManyLogins

# A token lives 15 minutes, so an honest client logs in a few times an hour. The limits count
# attempts, not only failures: counted before the secret is checked, parallel guesses cannot
# slip past, and a flood of correct log-ins cannot occupy the hashing threads either.
LOGINS_PER_CLIENT_MINUTE: Final = 30
LOGINS_PER_ADDRESS_MINUTE: Final = 120

# One customer's IPv6 network is a /64 (RFC 6177): counting single addresses would count nothing.
IPV6_NETWORK_BITS: Final = 64


def address_of(request: Request) -> str:
    """The caller's network address as the server saw it; forwarded headers are not believed."""
    host = request.client.host if request.client else "unknown"
    try:
        address = ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        network = int(address) >> (128 - IPV6_NETWORK_BITS) << (128 - IPV6_NETWORK_BITS)
        return f"{IPv6Address(network)}/{IPV6_NETWORK_BITS}"
    return str(address)


async def limit_logins(kernel: Kernel, credential_id: UUID | None, *, address: str) -> None:
    """Count one log-in attempt before its secret is looked at.

    Raises TooManyLogins (429), or LoginUnavailable (503) while attempts cannot be counted.
    """
    try:
        by_address = await kernel.limits.hit(
            "login_address", address, limit=LOGINS_PER_ADDRESS_MINUTE, fail_closed=True
        )
        _require(by_address)
        if credential_id is not None:
            by_client = await kernel.limits.hit(
                "login_client", credential_id.hex, limit=LOGINS_PER_CLIENT_MINUTE, fail_closed=True
            )
            _require(by_client)
    except LimitsUnavailable as error:
        raise LoginUnavailable from error


async def limit_sign_ups(kernel: Kernel, address: str) -> None:
    """Count one sign-up; with the cache away, this process counts alone. Raises RateLimited."""
    window = await kernel.limits.hit(
        "sign_up", address, limit=kernel.settings.signup_limit_per_hour, per_hour=True
    )
    window.require()


def _require(window: Window) -> None:
    if not window.allowed:
        raise TooManyLogins(
            f"More than {window.limit} log-ins in {window.window_s} s.",
            headers={"Retry-After": str(max(1, window.reset_s)), **window.headers()},
        )
