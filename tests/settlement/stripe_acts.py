"""What happens at the fake Stripe without us: payers, banks, cardholders, the seller's answers."""

from dataclasses import dataclass

from tests.settlement.stripe_books import Json, StripeBooks


@dataclass
class StripeActs(StripeBooks):
    """Each act changes the books and leaves the events that Stripe would send."""

    def pay(self, session_id: str, *, amount: int | None = None, slow: bool = False) -> str:
        """The payer pays on Stripe's page (``amount``: another one); returns the payment."""
        session = self._get(session_id)
        taken = session["amount_total"] if amount is None else amount
        payment = self._make(
            "pi",
            "payment_intent",
            status="processing" if slow else "succeeded",
            amount=taken,
            amount_received=0 if slow else taken,
            currency=session["currency"],
            customer=session["customer"],
            metadata=session["_intent"]["metadata"],
        )
        session.update(
            status="complete", payment_intent=payment["id"], amount_total=taken, url=None
        )
        if session["_intent"].get("setup_future_usage"):
            self.save_card(session["customer"])
        if not slow:
            self._received(session, payment)
        self._event("checkout.session.completed", session)
        return str(payment["id"])

    def clear(self, session_id: str) -> None:
        """The slow bank debit of a session comes in."""
        session = self._get(session_id)
        payment = self._get(session["payment_intent"])
        payment.update(status="succeeded", amount_received=payment["amount"])
        self._received(session, payment)
        self._event("checkout.session.async_payment_succeeded", session)

    def _received(self, session: Json, payment: Json) -> None:
        session["payment_status"] = "paid"
        self._move("", payment["amount"], payment, kind="charge", fee=payment["amount"] // 100)
        self._event("payment_intent.succeeded", payment)

    def save_card(self, customer: str, *, decline: str | None = None) -> str:
        """A card in the customer's wallet."""
        card = {"brand": "visa", "last4": "4242", "exp_month": 4, "exp_year": 2030}
        made = self._make("pm", "payment_method", customer=customer, card=card, type="card")
        made["_decline"] = decline
        return str(made["id"])

    def fail_refund(self, refund_id: str) -> None:
        """The card was closed meanwhile: the money comes back to the platform."""
        made = self._get(refund_id)
        made.update(status="failed", failure_reason="expired_or_canceled_card")
        self._move("", made["amount"], made, kind="refund_failure")
        self._event("refund.failed", made)

    def dispute(self, payment_id: str, *, amount: int | None = None, inquiry: bool = False) -> str:
        """The cardholder disputes: the money is withdrawn, unless the bank only inquires."""
        payment = self._get(payment_id)
        made = self._make(
            "dp",
            "dispute",
            status="warning_needs_response" if inquiry else "needs_response",
            amount=payment["amount"] if amount is None else amount,
            currency=payment["currency"],
            payment_intent=payment_id,
            balance_transactions=[],
        )
        self._event("charge.dispute.created", made)
        if not inquiry:
            self.withdraw(made["id"])
        return str(made["id"])

    def withdraw(self, dispute_id: str, *, amount: int | None = None) -> None:
        """The bank takes the disputed amount, or more of it."""
        made = self._get(dispute_id)
        taken = made["amount"] if amount is None else amount
        made["status"] = "needs_response"
        moved = self._move("", -taken, made, kind="dispute", fee=1_500)
        made["balance_transactions"].append(moved)
        self._event("charge.dispute.funds_withdrawn", made)

    def win_dispute(self, dispute_id: str, *, amount: int | None = None) -> None:
        """The bank decides for us, or for a part: that money comes back."""
        made = self._get(dispute_id)
        made["status"] = "won"
        back = made["amount"] if amount is None else amount
        moved = self._move("", back, made, kind="dispute_reversal")
        made["balance_transactions"].append(moved)
        self._event("charge.dispute.funds_reinstated", made)
        self._event("charge.dispute.closed", made)

    def lose_dispute(self, dispute_id: str) -> None:
        """The bank decides against us: the money stays where it is."""
        made = self._get(dispute_id)
        made["status"] = "lost"
        self._event("charge.dispute.closed", made)

    def bounce(self, session_id: str) -> None:
        """The slow bank debit of a session fails."""
        session = self._get(session_id)
        error = {"code": "payment_method_provider_decline"}
        payment = self._get(session["payment_intent"])
        payment.update(status="requires_payment_method", last_payment_error=error)
        self._event("checkout.session.async_payment_failed", session)

    def demand(self, account_id: str, *names: str) -> None:
        """Stripe asks a seller for more, and pays nothing out until it has it."""
        needs: Json = {
            "currently_due": list(names),
            "past_due": [],
            "disabled_reason": "requirements.past_due",
        }
        account = self._get(account_id)
        account.update(payouts_enabled=False, requirements=needs)
        self._event("account.updated", account, account=account_id)

    def reverse_transfer(self, transfer_id: str) -> None:
        """Somebody reverses a transfer in Stripe's dashboard."""
        made = self._get(transfer_id)
        made["amount_reversed"] = made["amount"]
        place = (made["destination"], made["currency"])
        self.balances[place] -= made["amount"]
        reversal = self._make(
            "trr",
            "transfer_reversal",
            amount=made["amount"],
            currency=made["currency"],
            transfer=transfer_id,
            metadata={},
        )
        self._move("", made["amount"], reversal, kind="transfer_reversal")
        self._event("transfer.reversed", made)

    def complete(self, account_id: str) -> None:
        """The seller has answered all that Stripe asks."""
        needs: Json = {"currently_due": [], "past_due": [], "disabled_reason": None}
        account = self._get(account_id)
        account.update(details_submitted=True, payouts_enabled=True, requirements=needs)
        self._event("account.updated", account, account=account_id)

    def end_payout(self, payout_id: str, *, failure_code: str | None = None) -> None:
        """The bank took the money, or sent it back."""
        payout = self._get(payout_id)
        payout["status"] = "paid" if failure_code is None else "failed"
        payout["failure_code"] = failure_code
        if failure_code is not None:
            self.balances[payout["_account"], payout["currency"]] += payout["amount"]
        self._event(f"payout.{payout['status']}", payout, account=payout["_account"])
