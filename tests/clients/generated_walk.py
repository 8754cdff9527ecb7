"""What a buyer does with the generated client; runs in the generator's environment.

``python generated_walk.py URL CLIENT_ID CLIENT_SECRET PLAN_ID`` with the client on PYTHONPATH.
Prints what it saw, as JSON.
"""

import importlib
import json
import sys
import uuid
from typing import Any


def api(tag: str, name: str) -> Any:
    """The generated module of an endpoint."""
    return importlib.import_module(f"market_client.api.{tag}.{name}")


def main(url: str, client_id: str, client_secret: str, plan_id: str) -> None:
    generated = importlib.import_module("market_client")
    models = importlib.import_module("market_client.models")
    guest = generated.Client(base_url=url, timeout=None, raise_on_unexpected_status=True)
    grant = models.CreateAccessTokenBody(
        grant_type=models.CreateAccessTokenBodyGrantType.CLIENT_CREDENTIALS,
        client_id=client_id,
        client_secret=client_secret,
    )
    access = api("parties", "create_access_token").sync(client=guest, body=grant)
    client = generated.AuthenticatedClient(
        base_url=url, token=access.access_token, timeout=None, raise_on_unexpected_status=True
    )
    listings = api("catalog", "search_catalog").sync(client=client)
    plan = api("pricing", "show_plan").sync(plan_id, client=client)
    order = api("matching", "place_order").sync(
        client=client,
        idempotency_key=uuid.uuid4().hex,
        body=models.OrderRequest(
            plan_id=plan_id,
            side=models.OrderSide.BUY,
            lots=1,
            price_minor=plan.price_minor,
        ),
    )
    agreement = api("contracts", "show_agreement").sync(order.trades[0].agreement_id, client=client)
    token = api("contracts", "mint_token").sync(
        agreement.grant_id,
        client=client,
        idempotency_key=uuid.uuid4().hex,
        body=models.TokenBody(label="generated"),
    )
    reader = generated.AuthenticatedClient(
        base_url=url, token=token.token, timeout=None, raise_on_unexpected_status=True
    )
    rows = api("contracts", "deliver_rows")
    page = rows.sync(client=reader, limit=5, select="id,carrier")
    refused = rows.sync(client=reader, limit=5, select="nothing")
    found = {
        "listings": [item.listing_id for item in listings.items],
        "order": order.status.value,
        "agreement": agreement.status.value,
        "formed_at": agreement.formed_at.isoformat(),
        "rows": [item.to_dict() for item in page.items],
        "has_more": page.has_more,
        "refused": refused.code,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
