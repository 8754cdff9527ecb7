"""Where payment providers send people back to: a top-up, and the seller's payout account."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from market.console.access import MemberDep
from market.console.rendering import render
from market.console.routes import ConsoleRoute
from market.kernel.ids import TopUpId
from settlement import payout_accounts, top_ups

router = APIRouter(route_class=ConsoleRoute, include_in_schema=False)


@router.get("/console/top-ups/{top_up_id}")
async def show_top_up_page(visit: MemberDep, top_up_id: TopUpId) -> HTMLResponse:
    """How far one's payment is. The provider's answer may come minutes after the payer."""
    found = await top_ups.get_top_up(visit.kernel, visit.actor, top_up_id)
    return render(visit, "top_up.html", top_up=found)


@router.get("/console/payout-account")
async def show_payout_account_page(visit: MemberDep) -> HTMLResponse:
    """What the provider still asks for before it pays out."""
    found = await payout_accounts.list_payout_accounts(visit.kernel, visit.actor)
    return render(visit, "payout_account.html", accounts=found.items)
