"""Secrets that parties gave for foreign servers: sealed in tables, rewrapped when keys change."""

from __future__ import annotations

import re
from typing import Final, cast

from pydantic import SecretStr
from sqlalchemy import Table, inspect, select, update
from sqlmodel import SQLModel

from market.kernel.context import Kernel
from market.kernel.envelope import Envelope

# What a header or a signature can carry.
VISIBLE: Final = "^[!-~]+$"
_REWRAP_BATCH: Final = 100


def visible(value: SecretStr) -> SecretStr:
    """For AfterValidator. Raises ValueError for what no header or signature can carry."""
    if not re.fullmatch(VISIBLE, value.get_secret_value()):
        raise ValueError("expected visible ASCII characters")
    return value


def envelope_of(kernel: Kernel) -> Envelope:
    """This process's envelope. Raises SecretsUnavailable (503) when the operator gave no key."""
    return kernel.service(load_envelope)


def load_envelope(kernel: Kernel) -> Envelope:
    """The envelope of the operator's keys as they are now. Raises as :func:`envelope_of`."""
    folder = kernel.settings.secret_key_dir or kernel.settings.home / "secret-keys"
    return Envelope.load(folder, create=kernel.settings.is_sandbox)


async def rewrap(kernel: Kernel, model: type[SQLModel]) -> int:
    """Wrap up to 100 secrets under the newest key, so that older ones can be retired.

    ``model`` has columns ``sealed`` (null: no secret any more) and ``key_id``; its primary key is
    the UUID that the secrets were sealed with as context. Raises SecretsUnavailable (503).
    """
    table = cast(Table, inspect(model).local_table)
    (identity,) = table.primary_key.columns
    async with kernel.unit_of_work() as uow:
        sealed = select(identity, table.c.sealed).where(table.c.sealed.is_not(None))
        # Without secrets an operator needs no key.
        if (await uow.execute(sealed.limit(1))).first() is None:
            return 0
        envelope = envelope_of(kernel)
        due = (
            sealed.where(table.c.key_id != envelope.current)
            .order_by(identity)
            .limit(_REWRAP_BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = (await uow.execute(due)).all()
        for row_id, old in rows:
            new = envelope.rewrap(old, context=row_id.bytes)
            await uow.execute(
                update(table).where(identity == row_id).values(sealed=new, key_id=envelope.current)
            )
        return len(rows)
