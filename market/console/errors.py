"""Refusals of the console itself; those of the services pass through unchanged."""

from market.kernel.errors import BadRequest, Forbidden, NotFound, Unauthorized


class SignInNeeded(Unauthorized):
    """No session, or one that has ended: the visitor is sent to the sign-in page."""

    code, title = "sign_in_needed", "Sign in first"

    def __init__(self, *, ended: bool = False) -> None:
        super().__init__()
        self.ended = ended


class CsrfRefused(Forbidden):
    """The form's token is missing or belongs to another session."""

    code, title = "csrf_refused", "The form does not belong to your session"
    default_hint = "Open the page again and repeat what you did."


class PageNotFound(NotFound):
    code, title = "page_not_found", "No such page"


class FormInvalid(BadRequest):
    """The body is no HTML form."""

    code, title = "form_invalid", "The body is not an HTML form"
