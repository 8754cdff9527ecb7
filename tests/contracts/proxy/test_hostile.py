"""Hostile upstreams: a clear problem, nothing charged, memory bounded."""

import asyncio
import json
import sys
from pathlib import Path

from market.kernel.context import Kernel
from tests.contracts.factories import settled
from tests.contracts.outbound import servers
from tests.contracts.proxy import hostile
from tests.contracts.proxy.conftest import MakeOffer, operation
from tests.contracts.proxy.costs import held_units, problem

ROOT = Path(__file__).resolve().parents[3]
# They end at the deadline, whatever is done.
SLOW = {"loris", "drops"}
# Of the whole process with 4 such answers at once. The bar is 1 GiB.
GROWTH_MAX_MIB = 128


async def test_each_attack_has_its_problem_and_is_free(
    make_offer: MakeOffer, kernel: Kernel
) -> None:
    answers = {name: answer for name, (answer, _) in hostile.ATTACKS.items()}
    offer = await make_offer(good=servers.json_of([]), **answers)
    registered = await offer.register(
        *(
            operation(name, max_bytes=1 << 16, timeout_s=1 if name in SLOW else 20)
            for name in (*answers, "good")
        )
    )
    assert registered.status_code == 201, registered.text
    slow = await asyncio.gather(*(offer.call(name) for name in SLOW))
    for answer in slow:
        problem(answer, 504, "upstream_timeout")
    for name in hostile.ATTACKS.keys() - SLOW:
        problem(await offer.call(name), 502, hostile.ATTACKS[name][1])
        # Keeps the circuit closed, which this is not about.
        assert (await offer.call("good")).status_code == 200
    assert await settled(kernel, offer.trade) == len(hostile.ATTACKS) - len(SLOW)
    assert await held_units(kernel, offer) == 0


async def test_four_at_once_leave_the_process_small() -> None:
    names = sorted(set(hostile.ATTACKS) - SLOW)
    async with servers.serving(**{name: hostile.ATTACKS[name][0] for name in names}) as upstream:
        reader = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.contracts.proxy.hostile_reader", upstream.url, *names),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await reader.communicate()
    assert reader.returncode == 0
    found = json.loads(output.splitlines()[-1])
    sys.stdout.write(f"{found['before_mib']} MiB, at most {found['peak_mib']} MiB\n")
    assert found["codes"] == {name: [hostile.ATTACKS[name][1]] for name in names}
    assert found["peak_mib"] - found["before_mib"] < GROWTH_MAX_MIB
    assert found["peak_mib"] < 1 << 10
