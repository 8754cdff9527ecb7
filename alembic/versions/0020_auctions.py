"""Auctions: auctions by sealed bids, bids, awards; products reserved for one sale."""

import sqlalchemy as sa

from alembic import op
from market.kernel.migration import append_only, create_schema, drop_schema, grant

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_SCHEMA = "auctions"
_AMOUNT = "BETWEEN 1 AND 1000000000000000"
# market_now() is the unit of work's own time, so Python and these guards compare the same.
_GUARDS = """
CREATE FUNCTION auctions.guard_auction() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' OR OLD.closed_at IS NOT NULL THEN
        RAISE EXCEPTION 'an ended auction does not change' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.status IN ('awarded', 'unsold') AND kernel.market_now() < OLD.closes_at THEN
        RAISE EXCEPTION 'an auction is decided after its close'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION auctions.guard_bid() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'bids are not deleted' USING ERRCODE = 'restrict_violation';
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF OLD.closed_at IS NOT NULL OR NEW.amount_minor < OLD.amount_minor THEN
            RAISE EXCEPTION 'an ended bid does not change, a living one does not fall'
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF NEW.status IN ('won', 'lost') AND NOT EXISTS (SELECT FROM auctions.auction a
            WHERE a.id = NEW.auction_id AND a.closes_at <= kernel.market_now())
        THEN
            RAISE EXCEPTION 'bids are decided after the close'
                USING ERRCODE = 'restrict_violation';
        END IF;
        IF NEW.amount_minor = OLD.amount_minor THEN
            RETURN NEW;
        END IF;
    END IF;
    IF NOT EXISTS (SELECT FROM auctions.auction a WHERE a.id = NEW.auction_id
        AND a.closed_at IS NULL AND a.opens_at <= kernel.market_now()
        AND a.closes_at > kernel.market_now())
    THEN
        RAISE EXCEPTION 'the auction takes no bids now' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
"""


def upgrade() -> None:
    _reservation()
    create_schema(op, _SCHEMA)
    _auction()
    _bid()
    _award()
    _step()
    grant(
        op,
        "auctions.auction",
        "select, insert, update (status, bid_count, bid_seq, winner_count, price_low_minor, "
        "price_high_minor, reason, closed_at)",
    )
    grant(
        op,
        "auctions.bid",
        "select, insert, update (ref, amount_minor, hold_id, status, price_minor, agreement_id, "
        "updated_at, closed_at)",
    )
    for table in ("award", "step"):
        append_only(op, f"auctions.{table}")
    op.execute(_GUARDS)
    for table, events in (("auction", "UPDATE OR DELETE"), ("bid", "INSERT OR UPDATE OR DELETE")):
        op.execute(
            f"CREATE TRIGGER {table}_guard BEFORE {events} ON auctions.{table} "
            f"FOR EACH ROW EXECUTE FUNCTION auctions.guard_{table}()"
        )
        op.execute(f"ALTER TABLE auctions.{table} ENABLE ALWAYS TRIGGER {table}_guard")


def downgrade() -> None:
    for table in ("step", "award", "bid", "auction"):
        op.drop_table(table, schema=_SCHEMA)
    for table in ("auction", "bid"):
        op.execute(f"DROP FUNCTION auctions.guard_{table}()")
    drop_schema(op, _SCHEMA)
    op.drop_table("reservation", schema="listings")


def _id(name: str, *, nullable: bool = False) -> "sa.Column[sa.Uuid]":
    return sa.Column(name, sa.Uuid, nullable=nullable)


def _text(name: str, *, nullable: bool = False) -> "sa.Column[str]":
    return sa.Column(name, sa.Text, nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> "sa.Column[sa.DateTime]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _big(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _count(name: str, *, nullable: bool = False) -> "sa.Column[int]":
    return sa.Column(name, sa.Integer, nullable=nullable)


def _checks(rules: dict[str, str]) -> list[sa.CheckConstraint]:
    return [sa.CheckConstraint(rule, name=name) for name, rule in rules.items()]


def _of_auction(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["auction_id"], ["auctions.auction.id"], name=name)


def _reservation() -> None:
    op.create_table(
        "reservation",
        _id("holder_id"),
        _id("product_id"),
        _time("created_at"),
        _time("released_at", nullable=True),
        sa.PrimaryKeyConstraint("holder_id", name="reservation_pkey"),
        sa.ForeignKeyConstraint(
            ["product_id"], ["listings.product.id"], name="reservation_product"
        ),
        *_checks({"reservation_released_after": "released_at >= created_at"}),
        schema="listings",
    )
    op.create_index(
        "reservation_in_force",
        "reservation",
        ["product_id"],
        unique=True,
        postgresql_where=sa.text("released_at IS NULL"),
        schema="listings",
    )
    grant(op, "listings.reservation", "select, insert, update (released_at)")


def _auction() -> None:
    op.create_table(
        "auction",
        *(_id(name) for name in ("id", "seller_id", "listing_id", "product_id", "plan_id")),
        _text("rule"),
        _count("licenses", nullable=True),
        _big("reserve_minor"),
        sa.Column("reserve_hidden", sa.Boolean, nullable=False),
        _text("currency"),
        _time("opens_at"),
        _time("closes_at"),
        _text("status"),
        sa.Column("seed", sa.LargeBinary, nullable=True),
        _text("commitment", nullable=True),
        _count("bid_count"),
        _big("bid_seq"),
        _count("winner_count", nullable=True),
        _big("price_low_minor", nullable=True),
        _big("price_high_minor", nullable=True),
        _text("reason", nullable=True),
        _time("created_at"),
        _time("closed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="auction_pkey"),
        *_auction_checks(),
        schema=_SCHEMA,
    )
    op.create_index("auction_seller", "auction", ["seller_id", "id"], schema=_SCHEMA)
    op.create_index("auction_listing", "auction", ["listing_id", "id"], schema=_SCHEMA)
    op.create_index(
        "auction_due",
        "auction",
        ["closes_at"],
        postgresql_where=sa.text("status = 'open'"),
        schema=_SCHEMA,
    )


def _auction_checks() -> list[sa.CheckConstraint]:
    return _checks(
        {
            "auction_rule_known": "rule IN ('first_price', 'second_price', 'random_sampling')",
            "auction_status_known": "status IN ('open', 'awarded', 'unsold', 'cancelled')",
            "auction_licenses_counted": "(rule = 'random_sampling') = (licenses IS NULL)",
            "auction_licenses_range": "licenses BETWEEN 1 AND 1000",
            "auction_seed_committed": (
                "(rule = 'random_sampling') = (seed IS NOT NULL) "
                "AND (seed IS NULL) = (commitment IS NULL)"
            ),
            "auction_commitment": "commitment = encode(sha256(seed), 'hex')",
            "auction_reserve": f"reserve_minor {_AMOUNT}",
            "auction_currency_form": "currency ~ '^[A-Z]{3}$'",
            "auction_schedule": "opens_at < closes_at",
            "auction_bid_count": "bid_count BETWEEN 0 AND 1000",
            "auction_closed_when": "(status = 'open') = (closed_at IS NULL)",
            "auction_reason": "(status = 'cancelled') = (reason IS NOT NULL)",
            "auction_result": (
                "(status IN ('awarded', 'unsold')) = (winner_count IS NOT NULL) "
                "AND (status = 'awarded') = (coalesce(winner_count, 0) > 0) "
                "AND (status = 'awarded') = (price_low_minor IS NOT NULL) "
                "AND (status = 'awarded') = (price_high_minor IS NOT NULL)"
            ),
            "auction_prices": (
                "reserve_minor <= price_low_minor AND price_low_minor <= price_high_minor"
            ),
        }
    )


def _bid() -> None:
    op.create_table(
        "bid",
        _id("id"),
        _id("auction_id"),
        _id("bidder_id"),
        _big("ref"),
        _big("amount_minor"),
        _id("hold_id"),
        _text("status"),
        _big("price_minor", nullable=True),
        _id("agreement_id", nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _time("closed_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="bid_pkey"),
        _of_auction("bid_auction"),
        *_checks(
            {
                "bid_status_known": "status IN ('living', 'withdrawn', 'won', 'lost', 'void')",
                "bid_amount_range": f"amount_minor {_AMOUNT}",
                "bid_ref_positive": "ref >= 1",
                "bid_closed_when": "(status = 'living') = (closed_at IS NULL)",
                "bid_won_agreement": (
                    "(status = 'won') = (agreement_id IS NOT NULL) "
                    "AND (status = 'won') = (price_minor IS NOT NULL)"
                ),
                "bid_price_range": "price_minor BETWEEN 1 AND amount_minor",
            }
        ),
        sa.UniqueConstraint("auction_id", "ref", name="bid_ref_once"),
        schema=_SCHEMA,
    )
    op.create_index(
        "bid_one_living",
        "bid",
        ["auction_id", "bidder_id"],
        unique=True,
        postgresql_where=sa.text("status = 'living'"),
        schema=_SCHEMA,
    )
    op.create_index("bid_bidder", "bid", ["bidder_id", "id"], schema=_SCHEMA)


def _award() -> None:
    op.create_table(
        "award",
        *(_id(name) for name in ("id", "auction_id", "bid_id", "plan_id", "listing_id")),
        *(_id(name) for name in ("buyer_id", "seller_id")),
        _big("price_minor"),
        _text("currency"),
        _id("agreement_id"),
        _time("at"),
        sa.PrimaryKeyConstraint("id", name="award_pkey"),
        _of_auction("award_auction_fk"),
        sa.ForeignKeyConstraint(["bid_id"], ["auctions.bid.id"], name="award_bid_fk"),
        *_checks(
            {
                "award_price_range": f"price_minor {_AMOUNT}",
                "award_two_parties": "buyer_id <> seller_id",
            }
        ),
        sa.UniqueConstraint("bid_id", name="award_bid_once"),
        sa.UniqueConstraint("agreement_id", name="award_agreement_once"),
        schema=_SCHEMA,
    )
    op.create_index("award_auction", "award", ["auction_id", "id"], schema=_SCHEMA)


def _step() -> None:
    op.create_table(
        "step",
        _id("id"),
        _id("auction_id"),
        _id("bid_id", nullable=True),
        _text("action"),
        _text("status"),
        _text("reason", nullable=True),
        _id("actor_id", nullable=True),
        _id("credential_id", nullable=True),
        _time("at"),
        sa.PrimaryKeyConstraint("id", name="step_pkey"),
        _of_auction("step_auction_fk"),
        schema=_SCHEMA,
    )
    op.create_index("step_auction", "step", ["auction_id", "id"], schema=_SCHEMA)
