"""All background work of the exchange and how often each part runs."""

from contracts import dispute_jobs, invoicing, jobs as contract_jobs
from contracts.proxy import kept as proxy_kept, secrets as proxy_secrets
from contracts.push import (
    delivering as push_delivering,
    following as push_following,
    targets as push_targets,
)
from contracts.sharing import jobs as sharing_jobs
from contracts.versions import notices as version_notices
from listings import jobs as listing_jobs
from market.auctions import jobs as auction_jobs
from market.demand import jobs as demand_jobs
from market.operations import retention
from market.surveillance import jobs as surveillance_jobs
from market.usage import top_up_job, watch_job
from market.worker import ScheduledJob, every
from settlement import (
    checkpoints,
    jobs as settlement_jobs,
    payout_runs,
    receivables,
    reconciliation,
    webhooks,
)

# Use and money first; sweepers of what nobody waits for last. Deadlines are hours to days, so a
# few seconds of delay cost nothing: expiry is checked at the use itself, not by the sweeper.
SCHEDULE = [
    ScheduledJob("sweep_meters", contract_jobs.sweep_meters, every(2)),
    ScheduledJob("sweep_token_quotas", contract_jobs.sweep_token_quotas, every(2)),
    ScheduledJob("accrue", contract_jobs.accrue, every(2)),
    ScheduledJob("run_top_ups", settlement_jobs.run_top_ups, every(2)),
    ScheduledJob("run_payouts", settlement_jobs.run_payouts, every(2)),
    ScheduledJob("run_refunds", settlement_jobs.run_refunds, every(2)),
    ScheduledJob("process_webhooks", webhooks.process_webhooks, every(2)),
    ScheduledJob("end_leases", contract_jobs.end_leases, every(5)),
    ScheduledJob("close_out", contract_jobs.close_out, every(5)),
    ScheduledJob("close_windows", contract_jobs.close_windows, every(5)),
    ScheduledJob("expire_grants", contract_jobs.expire_grants, every(5)),
    ScheduledJob("expire_holds", settlement_jobs.expire_holds, every(5)),
    ScheduledJob("dispute_deadlines", dispute_jobs.apply_deadlines, every(5)),
    ScheduledJob("decide_auctions", auction_jobs.decide_auctions, every(2)),
    ScheduledJob("withdraw_blocked", auction_jobs.withdraw_blocked, every(2)),
    ScheduledJob("release_products", auction_jobs.release_products, every(30)),
    ScheduledJob("match_standing", demand_jobs.match_standing, every(2)),
    ScheduledJob("expire_requests", demand_jobs.expire_requests, every(5)),
    ScheduledJob("expire_quotes", demand_jobs.expire_quotes, every(5)),
    ScheduledJob("run_pushes", push_delivering.run_pushes, every(2)),
    ScheduledJob("follow_versions", push_following.follow_versions, every(5)),
    ScheduledJob("announce_versions", version_notices.announce_versions, every(5)),
    ScheduledJob("order_top_ups", top_up_job.run_top_ups, every(5)),
    ScheduledJob("examine_trades", surveillance_jobs.examine_trades, every(10)),
    ScheduledJob("examine_usage", watch_job.examine_usage, every(30)),
    ScheduledJob("run_chargebacks", settlement_jobs.run_chargebacks, every(10)),
    ScheduledJob("net_debts", receivables.net_debts, every(10)),
    ScheduledJob("run_payout_runs", payout_runs.run_payout_runs, every(10)),
    ScheduledJob("write_checkpoint", checkpoints.write_checkpoint, every(10)),
    ScheduledJob("suspend_listings", listing_jobs.suspend_listings_of_suspended_sellers, every(10)),
    ScheduledJob("issue_invoices", invoicing.issue_invoices, every(30)),
    ScheduledJob("sweep_blobs", listing_jobs.sweep_blobs, every(30)),
    ScheduledJob("sweep_shared_files", sharing_jobs.sweep_shared_files, every(30)),
    ScheduledJob("sweep_scratch", listing_jobs.sweep_scratch, every(30)),
    ScheduledJob("run_reconciliation", reconciliation.run_reconciliation, every(30)),
    ScheduledJob("prune_proxy_answers", proxy_kept.prune, every(30)),
    ScheduledJob("rewrap_secrets", proxy_secrets.rewrap, every(60)),
    ScheduledJob("rewrap_push_secrets", push_targets.rewrap, every(60)),
    ScheduledJob("prune", retention.prune, every(30)),
]
