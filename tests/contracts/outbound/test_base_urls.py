"""Which addresses of foreign servers are taken, and how they are kept."""

import pytest

from contracts.outbound.base_urls import BaseUrlRefused, checked_base

BASE = "https://api.example.com/v2"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.com",
        "ftp://api.example.com",
        "https://user:pw@api.example.com",
        "https://api.example.com?x=1",
        "https://api.example.com/#x",
        "https://api.example.com/a/../b",
        "https://api.example.com:0",
        "https://api.example.com:99999",
        "https://127.0.0.1",
        "https://127.1",
        "https://2130706433",
        "https://[::1]",
        "https://[::ffff:10.0.0.1]",
        "https://169.254.169.254/latest",
        "https://exämple.com",
        "https://exam_ple.com",
        "https:///x",
        "https://[::1",
    ],
)
def test_bases_that_are_refused_in_production(url: str) -> None:
    with pytest.raises(BaseUrlRefused):
        checked_base(url, sandbox=False, loopback=False)


def test_bases_that_are_taken() -> None:
    assert checked_base("https://api.example.com/v2/", sandbox=False, loopback=False) == BASE
    port = "https://api.example.com:8443"
    assert checked_base(port, sandbox=False, loopback=False) == port
    plain = "http://api.example.com"
    assert checked_base(plain, sandbox=True, loopback=False) == plain
    here = "http://127.0.0.1:8000"
    assert checked_base(here, sandbox=True, loopback=True) == here
    with pytest.raises(BaseUrlRefused):
        checked_base(here, sandbox=True, loopback=False)
