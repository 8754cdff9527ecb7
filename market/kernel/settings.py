"""Settings from the environment (``MARKET_*``). No secret has a default outside the sandbox."""

from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Environment(StrEnum):
    """``sandbox`` may move its clock and use the sandbox rail; ``production`` may not."""

    SANDBOX = "sandbox"
    PRODUCTION = "production"


class SurveillanceLimits(BaseModel):
    """When trading looks like abuse (``market.surveillance.rules``, docs/surveillance.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: int = Field(default=86_400, ge=60, le=30 * 86_400)
    order_life_s: int = Field(
        default=60, ge=1, le=3_600, description="An order cancelled sooner may have been pressure."
    )
    size_factor: int = Field(default=3, ge=1, le=1_000, description="Times the lots of the fill.")
    near_ppm: int = Field(default=50_000, ge=0, le=1_000_000)
    pressure_orders: int = Field(default=3, ge=1, le=50)
    pressure_cancelled_ppm: int = Field(default=700_000, ge=0, le=1_000_000)
    circular_trades: int = Field(default=2, ge=1, le=50, description="Each way.")
    circular_return_ppm: int = Field(default=800_000, ge=0, le=1_000_000)
    jump_earlier_trades: int = Field(default=5, ge=1, le=20)
    jump_ppm: int = Field(default=300_000, ge=0, le=1_000_000_000)
    valuation_tolerance_ppm: int = Field(default=500_000, ge=0, lt=1_000_000)
    concentration_trades: int = Field(default=20, ge=1)
    concentration_parties: int = Field(default=3, ge=2)
    concentration_ppm: int = Field(default=600_000, ge=0, le=1_000_000)


class Settings(BaseSettings):
    """One frozen object, passed in; nothing imports a global.

    ``database_url`` connects as the application role, ``owner_database_url`` as the role that
    owns the schemas and runs migrations. Unset URLs mean: the embedded servers under ``home``.
    """

    model_config = SettingsConfigDict(
        env_prefix="MARKET_",
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        # An error of the whole would print the secrets as they came from the environment.
        hide_input_in_errors=True,
    )

    environment: Environment = Environment.SANDBOX
    home: Path = Path(".market")
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535, description="0 picks a free port.")
    public_url: str | None = None

    database_url: str | None = None
    owner_database_url: str | None = None
    database_embedded: bool = False
    database_pool_size: int = Field(default=12, ge=2, le=200)
    database_pool_timeout_s: int = Field(
        default=5, ge=1, le=120, description="Wait for a free connection; then 503."
    )
    redis_url: str | None = None
    blob_url: str | None = Field(
        default=None, description="file:// or s3:// address; unset: a folder under home."
    )

    issuer: str = "data-element-market"
    audience: str = "data-element-market-api"
    signing_key_dir: Path | None = Field(
        default=None, description="PEM Ed25519 keys; created under home in the sandbox."
    )
    secret_key_dir: Path | None = Field(
        default=None,
        description="Keys that seal stored secrets; created under home in the sandbox.",
    )
    copy_key_file: Path | None = Field(
        default=None,
        description="The key of buyers' marks and pseudonyms (64 hex digits), never changed; "
        "created under home in the sandbox.",
    )
    upstream_loopback: bool = Field(
        default=False, description="Upstreams may be on this machine: tests and demonstrations."
    )
    upstream_calls_max: int = Field(
        default=32, ge=1, le=1_000, description="Calls of upstreams at once, per process."
    )
    access_token_ttl_s: int = Field(default=900, ge=60, le=900)
    allowed_hosts: tuple[str, ...] = ()

    lock_timeout_ms: int = Field(default=5_000, ge=10, le=60_000)
    statement_timeout_ms: int = Field(default=15_000, ge=100, le=300_000)
    body_max_bytes: int = Field(default=1 << 20, ge=1 << 10, le=1 << 26)
    upload_max_bytes: int = Field(default=1 << 30, ge=1 << 10)
    rate_limit_per_minute: int = Field(default=6_000, ge=1)
    signup_limit_per_hour: int = Field(default=1_000, ge=1)

    platform_fee_ppm: int = Field(default=50_000, ge=0, lt=1_000_000)
    platform_vat_ppm: int = Field(
        default=60_000,
        ge=0,
        lt=1_000_000,
        description="Value-added tax contained in the platform fee where no schedule says else.",
    )
    platform_name: str = Field(default="Data Element Market", min_length=1, max_length=200)
    platform_tax_number: str | None = Field(default=None, max_length=50)
    payout_minimum_minor: int = Field(default=100, ge=1)
    payout_minimums: dict[str, int] = Field(
        default_factory=dict,
        description="By currency, in minor units; others: payout_minimum_minor.",
    )
    payout_holdback_days: int = Field(
        default=0, ge=0, le=365, description="Payout runs leave what came in later than this."
    )

    rail: Literal["sandbox", "stripe"] = "sandbox"
    stripe_api_key: SecretStr | None = None
    stripe_api_base: str = "https://api.stripe.com"
    stripe_timeout_s: int = Field(default=10, ge=1, le=80)
    stripe_webhook_secrets: tuple[SecretStr, ...] = Field(
        default=(), max_length=4, description="Platform endpoint; two are valid in a rotation."
    )
    stripe_connect_webhook_secrets: tuple[SecretStr, ...] = Field(
        default=(), max_length=4, description="Connect endpoint; two are valid in a rotation."
    )

    delivery_page_max_rows: int = Field(default=10_000, ge=1, le=100_000)
    delivery_memory_mb: int = Field(default=256, ge=64)
    delivery_timeout_s: int = Field(default=20, ge=1, le=300)
    delivery_rate_per_minute: int = Field(default=6_000, ge=1)
    country_database: Path | None = Field(
        default=None,
        description="MMDB file of countries by address; unset: the watch knows no countries.",
    )
    meter_lease_units: int = Field(default=50_000, ge=1)
    meter_hold_s: int = Field(default=30, ge=2, le=300)

    dispute_negotiation_days: int = Field(default=5, ge=0)
    dispute_evidence_days: int = Field(default=7, ge=0)
    dispute_rebuttal_days: int = Field(default=3, ge=0)
    dispute_review_days: int = Field(default=5, ge=0)
    dispute_appeal_days: int = Field(default=10, ge=0)
    dispute_appeal_review_days: int = Field(default=7, ge=0)
    dispute_opening_days: int = Field(default=14, ge=0)
    ruling_two_person_minor: int = Field(default=10_000_000, ge=1)

    engine_lease_ttl_s: int = Field(default=5, ge=1, le=60)
    engine_queue_max: int = Field(default=8_192, ge=1)
    engine_batch_max: int = Field(default=1_024, ge=1, le=4_096)
    open_orders_max: int = Field(
        default=100_000, ge=1, description="Per party and instrument; operators may set others."
    )
    order_messages_per_s: int = Field(
        default=5_000, ge=1, description="Orders, amendments and cancels of a party, likewise."
    )
    ledger_queue_max: int = Field(default=8_192, ge=1)

    surveillance: SurveillanceLimits = Field(
        default=SurveillanceLimits(), description="As JSON; what it leaves out keeps its default."
    )

    worker_in_process: bool = False
    job_interval_s: int = Field(default=1, ge=1, le=60)

    @property
    def is_sandbox(self) -> bool:
        return self.environment is Environment.SANDBOX

    @model_validator(mode="after")
    def _production_names_its_secrets(self) -> Self:
        if self.environment is Environment.PRODUCTION:
            missing = [
                name
                for name in ("database_url", "redis_url", "signing_key_dir", "public_url")
                if getattr(self, name) is None
            ]
            if missing:
                names = ", ".join(f"MARKET_{name.upper()}" for name in missing)
                raise ValueError(f"production needs {names}")
        return self

    @model_validator(mode="after")
    def _production_dials_outwards(self) -> Self:
        if self.upstream_loopback and not self.is_sandbox:
            raise ValueError("MARKET_UPSTREAM_LOOPBACK is for the sandbox only")
        return self

    @model_validator(mode="after")
    def _stripe_is_whole(self) -> Self:
        if self.rail != "stripe":
            return self
        wanted = ["stripe_api_key"]
        if not self.is_sandbox:
            wanted += ["stripe_webhook_secrets", "stripe_connect_webhook_secrets"]
        missing = [name for name in wanted if not getattr(self, name)]
        if missing:
            names = ", ".join(f"MARKET_{name.upper()}" for name in missing)
            raise ValueError(f"the stripe rail needs {names}")
        assert self.stripe_api_key is not None
        # A live key in a sandbox would move real money on a moved clock, and the reverse none.
        if ("_live_" in self.stripe_api_key.get_secret_value()) is self.is_sandbox:
            raise ValueError("MARKET_STRIPE_API_KEY: sandbox takes test keys, production live ones")
        for secrets in (self.stripe_webhook_secrets, self.stripe_connect_webhook_secrets):
            if any(len(secret.get_secret_value()) < 32 for secret in secrets):
                raise ValueError("a Stripe webhook secret has at least 32 characters")
        if not self.is_sandbox and not self.stripe_api_base.startswith("https://"):
            raise ValueError("MARKET_STRIPE_API_BASE must start with https://")
        return self


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, then ``overrides``. Raises ValidationError with the names."""
    return Settings(**overrides)  # type: ignore[arg-type]
