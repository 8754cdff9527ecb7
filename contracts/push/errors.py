"""Refusals of pushes and their targets. None of them is ever charged."""

from market.kernel.errors import Conflict, Invalid, NotFound


class PushTargetNotFound(NotFound):
    code, title = "push_target_not_found", "No such push target"


class PushNotFound(NotFound):
    code, title = "push_not_found", "No such push"


class PushTargetInvalid(Invalid):
    code, title = "push_target_invalid", "The address cannot be pushed to"
    default_hint = "Give a public https address without credentials, query or fragment."


class PushTargetNotVerified(Conflict):
    code, title = "push_target_not_verified", "The target has not answered a ping yet"
    default_hint = "POST /v1/push-targets/{id}/verify, then push."


class PushTargetRetired(Conflict):
    code, title = "push_target_retired", "The target is retired"
    default_hint = "Register a new one."


class PushTargetsTooMany(Conflict):
    code, title = "push_targets_too_many", "You have as many targets as are allowed"
    default_hint = "Retire one that is no longer used."


class PushesTooMany(Conflict):
    code, title = "pushes_too_many", "The grant has as many active pushes as are allowed"
    default_hint = "Wait for one to end, or cancel it."


class PushSinceLater(Invalid):
    code, title = "push_since_later", "Changes are counted from an earlier version"
    default_hint = "Name a version before the one that is pushed."


class PushPartsTooMany(Invalid):
    code, title = "push_parts_too_many", "The push would have too many parts"
    default_hint = "Raise page_rows."


class PushCannotFollow(Conflict):
    code, title = "push_cannot_follow", "The agreement reads one version only"
    default_hint = "Leave `follow` out; docs/versions.md says which agreements follow."


class PushStateConflict(Conflict):
    """Extra member ``current``: the push's status."""

    code, title = "push_state_conflict", "The push is not in a state for this"
    default_hint = "Read the push."
