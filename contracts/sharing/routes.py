"""The route class of Delta Sharing: refusals carry the protocol's ``errorCode`` and ``message``."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from contracts.sharing.errors import SharingRequestInvalid, in_protocol_form
from market.kernel.errors import MarketError
from market.kernel.http import Handler, IdempotentRoute


class SharingRoute(IdempotentRoute):
    """As :class:`IdempotentRoute`; what has not the documented form is refused by 400."""

    def get_route_handler(self) -> Handler:
        handler = super().get_route_handler()

        async def in_protocol(request: Request) -> Response:
            try:
                return await handler(request)
            except MarketError as refusal:
                raise in_protocol_form(refusal) from refusal
            except RequestValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"][1:]) or "body"
                invalid = SharingRequestInvalid(str(first["msg"])[:300], param=place[:200])
                raise in_protocol_form(invalid) from error

        return in_protocol
