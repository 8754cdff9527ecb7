"""What may stand for an order in a path: anything but the names of our own resources.

Otherwise ``PATCH /v1/orders/batch`` would be an amendment of the order "batch", refused for its
form (422), instead of a method that the resource does not have (405).
"""

from typing import Final

from starlette.convertors import Convertor, register_url_convertor

_OWN_RESOURCES: Final = ("batch", "cancel-all", "stream")


class _OrderSegment(Convertor[str]):
    """A path segment that is none of ``_OWN_RESOURCES``; the form of the id is checked later."""

    regex = rf"(?!(?:{'|'.join(_OWN_RESOURCES)})$)[^/]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("order", _OrderSegment())

ORDER_PATH: Final = "/orders/{order_id:order}"
