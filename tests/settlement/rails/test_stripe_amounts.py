"""Stripe's minor units beside ISO 4217's, and which settings load."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from market.kernel.money import EXPONENTS, MAX_MINOR
from market.kernel.settings import load_settings
from settlement.errors import AmountNotPayable
from settlement.rails.stripe_amounts import from_stripe, to_charge, to_payout, to_stripe


@pytest.mark.parametrize(
    ("amount", "currency", "written"),
    [
        (1_250, "CNY", 1_250),
        (500, "JPY", 500),
        (500, "ISK", 50_000),
        (500, "UGX", 50_000),
        (12_345, "HUF", 12_345),
        (12_345, "TWD", 12_345),
        (1_230, "KWD", 1_230),
        (500, "MGA", 5),
    ],
)
def test_charges_are_written_as_the_currency_list_says(
    amount: int, currency: str, written: int
) -> None:
    assert to_charge(amount, currency) == written
    assert from_stripe(written, currency.lower()) == amount


@pytest.mark.parametrize(
    ("amount", "currency", "written"),
    [(500, "JPY", 500), (500, "ISK", 50_000), (500, "UGX", 50_000), (12_300, "HUF", 12_300)],
)
def test_payouts_of_whole_units(amount: int, currency: str, written: int) -> None:
    assert to_payout(amount, currency) == written


@pytest.mark.parametrize(
    ("amount", "currency"), [(12_345, "HUF"), (12_350, "TWD"), (1_231, "KWD"), (1, "KPW")]
)
def test_payouts_that_stripe_cannot_make(amount: int, currency: str) -> None:
    with pytest.raises(AmountNotPayable):
        to_payout(amount, currency)


def test_a_charge_has_at_most_eight_digits() -> None:
    assert to_charge(99_999_999, "EUR") == 99_999_999
    for amount, currency in ((100_000_000, "EUR"), (1_000_000, "ISK"), (101, "MGA")):
        with pytest.raises(AmountNotPayable):
            to_charge(amount, currency)


def test_a_fraction_that_the_currency_does_not_know_is_an_error() -> None:
    with pytest.raises(ValueError, match="fraction"):
        from_stripe(50_050, "isk")


@given(st.integers(1, MAX_MINOR), st.sampled_from(sorted(EXPONENTS)))
def test_what_is_written_reads_back_the_same(amount: int, currency: str) -> None:
    try:
        written = to_stripe(amount, currency)
    except AmountNotPayable:
        return
    assert from_stripe(written, currency) == amount
    assert from_stripe(-written, currency) == -amount


SECRET = "whsec_" + "s" * 32
PRODUCTION = {
    "environment": "production",
    "database_url": "postgresql://app@db/market",
    "redis_url": "redis://cache",
    "signing_key_dir": Path("keys"),
    "public_url": "https://market.example",
    "rail": "stripe",
    "stripe_api_key": "sk_live_1",
    "stripe_webhook_secrets": [SECRET],
    "stripe_connect_webhook_secrets": [SECRET],
}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rail": "stripe"}, "MARKET_STRIPE_API_KEY"),
        ({"rail": "stripe", "stripe_api_key": "sk_live_1"}, "test keys"),
        (PRODUCTION | {"stripe_api_key": None}, "MARKET_STRIPE_API_KEY"),
        (PRODUCTION | {"stripe_api_key": "sk_test_1"}, "live ones"),
        (PRODUCTION | {"stripe_webhook_secrets": []}, "MARKET_STRIPE_WEBHOOK_SECRETS"),
        (
            PRODUCTION | {"stripe_connect_webhook_secrets": []},
            "MARKET_STRIPE_CONNECT_WEBHOOK_SECRETS",
        ),
        (PRODUCTION | {"stripe_webhook_secrets": ["short"]}, "32 characters"),
        (PRODUCTION | {"stripe_api_base": "http://stripe.example"}, "https://"),
    ],
)
def test_half_a_configuration_does_not_load(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason) as caught:
        load_settings(**settings)
    assert "sk_live" not in str(caught.value)
    assert "whsec" not in str(caught.value)


def test_a_whole_configuration_loads_and_hides_its_secrets() -> None:
    settings = load_settings(**PRODUCTION)
    assert settings.rail == "stripe"
    assert "sk_live" not in repr(settings)
    assert SECRET not in repr(settings)
