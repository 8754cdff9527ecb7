"""``market``: the command line. Each command is thin and calls what its package offers.

Commands import what they run inside themselves: ``market --help`` answers in 0.2 s, while the
API with its database drivers takes 1.5 s to import.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="market",
    help="The data exchange: API, worker and tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
operator_app = typer.Typer(no_args_is_help=True, help="Operators of the exchange.")
certificate_app = typer.Typer(no_args_is_help=True, help="Registration certificates.")
receipt_app = typer.Typer(no_args_is_help=True, help="Receipts of deliveries.")
app.add_typer(receipt_app, name="receipt")
ledger_app = typer.Typer(no_args_is_help=True, help="The double-entry ledger.")
app.add_typer(operator_app, name="operator")
fingerprint_app = typer.Typer(no_args_is_help=True, help="Marks in buyers' copies.")
app.add_typer(fingerprint_app, name="fingerprint")
app.add_typer(certificate_app, name="certificate")
app.add_typer(ledger_app, name="ledger")
auction_app = typer.Typer(no_args_is_help=True, help="Auctions by sealed bids.")
app.add_typer(auction_app, name="auction")
settlement_app = typer.Typer(no_args_is_help=True, help="The payment provider's side.")
app.add_typer(settlement_app, name="settlement")
matching_app = typer.Typer(no_args_is_help=True, help="Order books.")
app.add_typer(matching_app, name="matching")

Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="0: 8000 when free, else any. [MARKET_PORT]")
]
Host = Annotated[str | None, typer.Option(help="Address to listen on. [MARKET_HOST]")]


def _fail(message: str) -> typer.Exit:
    typer.secho(message, fg="red", err=True)
    return typer.Exit(1)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Refusals that a person can act on become one line and exit code 1, not a traceback."""
    from pydantic import ValidationError

    from market.kernel.errors import MarketError
    from market.serving import MissingAddress

    try:
        yield
    except MarketError as error:
        raise _fail(f"{error.detail} {error.hint or ''}".strip()) from error
    except (MissingAddress, OSError) as error:
        raise _fail(str(error)) from error
    except ValidationError as error:
        raise _fail(str(error)) from error
    except RuntimeError as error:
        # By name, because importing their modules for every command would cost 0.5 s.
        if type(error).__name__ not in ("EmbeddedError", "UnsafeDatabaseRole", "DemoFailed"):
            raise
        raise _fail(str(error)) from error


def _settings(**overrides: object) -> Any:
    from market.kernel import logging
    from market.kernel.settings import load_settings

    settings = load_settings(**{k: v for k, v in overrides.items() if v is not None})
    logging.configure(json=not settings.is_sandbox)
    return settings


def _announce(url: str) -> None:
    typer.echo(f"Ready at {url}   API documentation: {url}/docs   stop: Ctrl-C")


@app.command()
def up(host: Host = None, port: Port = None) -> None:
    """Start everything on this machine: servers, schema, API and worker, on persistent data."""
    from market import serving

    with _plain_errors(), serving.orderly_exit():
        settings = _settings(host=host, port=port, worker_in_process=True)
        listener = serving.bind(settings.host, settings.port)
        with serving.with_servers(settings) as ready:
            serving.migrate(ready)
            serving.run_server(ready, listener, on_ready=_announce)


@app.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Serve the API only; the schema must be migrated (see `market migrate`)."""
    from market import serving

    with _plain_errors(), serving.orderly_exit():
        settings = _settings(host=host, port=port)
        listener = serving.bind(settings.host, settings.port)
        with serving.with_servers(settings) as ready:
            serving.run_server(ready, listener, on_ready=_announce)


@app.command()
def worker() -> None:
    """Run background work (events, expiries, releases, payouts) until stopped."""
    from market import serving
    from market.kernel.collector import tune_collector
    from market.schedule import SCHEDULE
    from market.worker import run_worker

    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        tune_collector()
        run_worker(ready, SCHEDULE)


@app.command()
def migrate() -> None:
    """Bring the database schema to this code's revision, as its owner."""
    from market import serving
    from market.kernel import migrations

    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        serving.migrate(ready)
        typer.echo(f"The schema is at revision {migrations.head()}.")


@app.command()
def demo(
    leave: Annotated[
        bool, typer.Option("--exit", help="End after the transcript instead of serving.")
    ] = False,
    port: Port = None,
) -> None:
    """Play the walk of one trade on real flight and weather data, then keep serving."""
    from market import serving
    from market.demo.run import run_demo

    with _plain_errors(), serving.orderly_exit():
        run_demo(_settings(port=port, worker_in_process=True), leave=leave)


@operator_app.command("create")
def operator_create(
    name: Annotated[str, typer.Argument(help="Name of the operating organization.")],
    recover: Annotated[
        bool, typer.Option(help="Make another operator although there is one.")
    ] = False,
) -> None:
    """Create the first operator and print its credential; the secret is shown only here."""
    import asyncio

    from market import serving
    from market.kernel.context import open_kernel
    from market.parties.registration import bootstrap_operator

    async def create(settings: Any) -> tuple[str, str]:
        kernel = open_kernel(settings)
        try:
            return await bootstrap_operator(kernel, name, recover=recover)
        finally:
            await kernel.close()

    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        client_id, secret = asyncio.run(create(ready))
        typer.echo(json.dumps({"client_id": client_id, "client_secret": secret}, indent=2))


@certificate_app.command("verify")
def certificate_verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The JWS.")],
    jwks: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Saved /.well-known/jwks.json.")
    ],
) -> None:
    """Check a certificate's signature offline and print what it states. Exit code 1: invalid."""
    from listings.certificates import verify_certificate

    with _plain_errors():
        try:
            keys = json.loads(jwks.read_text())
        except ValueError as error:
            raise _fail(f"{jwks} is not JSON: {error}") from error
        statement = verify_certificate(file.read_text().strip(), keys)
        typer.echo(json.dumps(statement, indent=2, ensure_ascii=False, default=str))


@receipt_app.command("verify")
def receipt_verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Receipts as kept.")],
    jwks: Annotated[
        Path, typer.Option(exists=True, dir_okay=False, help="Saved /.well-known/jwks.json.")
    ],
) -> None:
    """Check a receipt or a chain of them offline. Exit code 1: names the first that is bad."""
    from dataclasses import asdict

    from contracts.receipt_check import check

    with _plain_errors():
        try:
            checked = check(file.read_bytes(), json.loads(jwks.read_text()))
        except ValueError as error:
            raise _fail(f"Not verified: {error}") from error
        typer.echo(json.dumps(asdict(checked), indent=2))


@fingerprint_app.command("detect")
def fingerprint_detect(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV or Parquet.")],
    product: Annotated[str, typer.Option(help="The product that it is of: prd_…")],
) -> None:
    """Name the agreement whose copy a sample is of. Exit code 1: nobody is named."""
    import asyncio

    from contracts.fingerprint.leaks import SampleUnreadable, trace_leak
    from market import serving
    from market.kernel.context import open_kernel
    from market.kernel.ids import parse, show

    async def find(settings: Any) -> Any:
        kernel = open_kernel(settings)
        try:
            return await trace_leak(kernel, parse("prd", product), file)
        finally:
            await kernel.close()

    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        try:
            found = asyncio.run(find(ready))
        except (SampleUnreadable, ValueError) as error:
            raise _fail(f"Not read: {error}") from error
        if found is None:
            raise _fail("No row of the sample is one that carries a mark.")
        report = {
            "named": found.named,
            "agreement": show("agr", found.agreement_id),
            "buyer": show("pty", found.buyer_id),
            "agreeing": found.agreeing,
            "marks": found.bits,
            "chance": found.chance,
            "candidates": found.candidates,
        }
        typer.echo(json.dumps(report, indent=2))
        if not found.named:
            raise typer.Exit(1)


@ledger_app.command("verify")
def ledger_verify(
    since: Annotated[
        str | None,
        typer.Option(help="Link to trust (a number), or a moment to begin at; default: all."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Signed checkpoints kept elsewhere."),
    ] = None,
    jwks: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Keys to judge them by; default: ours."),
    ] = None,
) -> None:
    """Prove zero-sum, balances and hash chain. Exit code 1: the ledger does not verify."""
    from market import serving
    from market.ledger_report import verify

    start = None if since is None else _since(since)
    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        if not verify(ready, since=start, checkpoint=checkpoint, jwks=jwks):
            raise typer.Exit(1)


def _since(text: str) -> int | datetime:
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _fail(f"--since is a link number or an ISO 8601 date, not {text}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@matching_app.command("replay")
def matching_replay(
    plan: Annotated[str | None, typer.Option(help="The book of this plan: pln_…")] = None,
    at: Annotated[
        int | None, typer.Option(min=1, help="Stop at this sequence; default: the last.")
    ] = None,
    verify_all: Annotated[bool, typer.Option(help="Every book, to its last sequence.")] = False,
) -> None:
    """Rebuild books from the journal and prove them. Exit code 1: one of them diverges."""
    from market import serving
    from market.matching.replay_report import replay

    if (plan is None) != verify_all:
        raise _fail("Name one book by --plan, or all by --verify-all.")
    if verify_all and at is not None:
        raise _fail("--at needs --plan.")
    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        try:
            sound = replay(ready, plan, at=at)
        except ValueError as error:
            raise _fail(str(error)) from error
        if not sound:
            raise typer.Exit(1)


@ledger_app.command("prove")
def ledger_prove(
    transfer: Annotated[str, typer.Argument(help="The transfer: txn_…")],
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write here; default: standard output.")
    ] = None,
) -> None:
    """Write the proof that a transfer is in the ledger, up to a signed checkpoint."""
    from market import serving
    from market.ledger_report import prove

    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        try:
            proof = prove(ready, transfer)
        except ValueError as error:
            raise _fail(str(error)) from error
        if out is None:
            typer.echo(proof.decode())
        else:
            out.write_bytes(proof)


@ledger_app.command("check-proof")
def ledger_check_proof(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The proof.")],
    jwks: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Saved /.well-known/jwks.json; default: our keys."
        ),
    ] = None,
) -> None:
    """Check a proof offline and print what it proves. Exit code 1: it proves nothing."""
    from market.ledger_report import keys_of
    from settlement.proof_check import ProofInvalid, check_proof

    with _plain_errors():
        try:
            keys = json.loads(jwks.read_text()) if jwks else keys_of(_settings())
            proven = check_proof(file.read_bytes(), keys)
        except ProofInvalid as error:
            raise _fail(f"Not proved: {error}") from error
        except ValueError as error:
            raise _fail(f"There are no keys to check with: {error}") from error
        typer.echo(json.dumps(proven.summary(), indent=2))


@auction_app.command("verify")
def auction_verify(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The proof.")],
    commitment: Annotated[
        str | None, typer.Option(help="The commitment that was published at the opening.")
    ] = None,
) -> None:
    """Repeat an auction's decision from its proof, offline. Exit code 1: another result."""
    from market.auctions.proof_check import ProofInvalid, check_proof

    with _plain_errors():
        try:
            proven = check_proof(file.read_bytes(), commitment=commitment)
        except ProofInvalid as error:
            raise _fail(f"Not proved: {error}") from error
        typer.echo(json.dumps(proven.summary(), indent=2))


@ledger_app.command("export")
def ledger_export(
    out: Annotated[Path, typer.Option(dir_okay=False, help="File to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="beancount, csv, json or parquet.")
    ] = "beancount",
) -> None:
    """Write the whole ledger to a file, for accountants and `bean-check`."""
    from market import serving
    from market.ledger_report import export
    from settlement.exports import ExportFormat

    try:
        chosen = ExportFormat(format_)
    except ValueError:
        raise _fail(f"--format is {', '.join(ExportFormat)}, not {format_}") from None
    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        typer.echo(export(ready, out, chosen))


def _with_kernel(work: Any) -> Any:
    """Run ``work(kernel)`` on the configured servers; returns what it returns."""
    import asyncio

    from market import serving
    from market.kernel.context import open_kernel
    from settlement.rails.choice import close_rail

    async def run(settings: Any) -> Any:
        kernel = open_kernel(settings)
        try:
            return await work(kernel)
        finally:
            await close_rail(kernel)
            await kernel.close()

    with _plain_errors(), serving.orderly_exit(), serving.with_servers(_settings()) as ready:
        return asyncio.run(run(ready))


@settlement_app.command("reconcile")
def settlement_reconcile(
    day: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="A past day (UTC) to compare.")
    ],
) -> None:
    """Compare the provider's movements with the ledger. Exit code 1: they differ."""
    from settlement.reconciliation import reconcile_day

    async def work(kernel: Any) -> Any:
        return await reconcile_day(kernel, day.date())

    found = _with_kernel(work)
    typer.echo(found.model_dump_json(indent=2))
    if found.difference_count:
        raise _fail(f"{found.difference_count} differences: see GET /v1/rail-cases?state=open.")


@settlement_app.command("replay-webhook")
def settlement_replay_webhook(
    event: Annotated[uuid.UUID, typer.Argument(help="Its id, from GET /v1/webhook-events.")],
    reason: Annotated[str, typer.Option(help="Why; goes into the audit log.")],
) -> None:
    """Give a received webhook to the worker again."""
    from settlement.webhooks import replay_by_hand

    async def work(kernel: Any) -> Any:
        return await replay_by_hand(kernel, event, reason)

    typer.echo(_with_kernel(work).model_dump_json(indent=2))


@app.command()
def openapi(
    check: Annotated[
        bool, typer.Option("--check", help="Only compare; exit code 1 with a diff.")
    ] = False,
) -> None:
    """Write the API description to openapi/, whole and per service."""
    from market import openapi_export
    from market.app import create_app

    with _plain_errors():
        api = create_app(_settings())
        if not check:
            changed = openapi_export.write(api)
            typer.echo(f"Written: {', '.join(changed) or 'nothing, all up to date'}.")
            return
        difference = openapi_export.differences(api)
        if difference:
            typer.echo(difference)
            raise _fail("openapi/ differs from the code: run `make openapi` and commit.")


if __name__ == "__main__":
    app()
