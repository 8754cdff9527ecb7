import pytest
from starlette.requests import Request

from market.parties.throttle import address_of


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("/run/market.sock", "/run/market.sock"),
        ("x" * 500, "x" * 64),
    ],
)
def test_one_customer_is_one_address(host: str, counted: str) -> None:
    request = Request({"type": "http", "headers": [], "client": (host, 4000)})
    assert address_of(request) == counted


def test_a_server_without_addresses_counts_all_together() -> None:
    assert address_of(Request({"type": "http", "headers": [], "client": None})) == "unknown"


def test_forwarding_headers_are_not_believed() -> None:
    headers = [(b"x-forwarded-for", b"198.51.100.1"), (b"forwarded", b"for=198.51.100.1")]
    request = Request({"type": "http", "headers": headers, "client": ("192.0.2.7", 1)})
    assert address_of(request) == "192.0.2.7"
