"""A teacher that fails in every way it can: what becomes of the tasks, and of the money.

    python bench/faults.py [--tasks 600] [--share 0.05]

One question in twenty meets each of nine faults (``FAULTS``), 64 calls are in flight. Collected
twice by ``persd collect``, in processes of its own: with money enough, and with a cap that is
hit. Printed: the tasks' states, what the endpoint billed beside what the ledger counts, and
whether the cap held. Exit 1 where a task is in no named state, one that could succeed did not,
or more was billed than the cap or the ledger say.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import endpoint, kill
else:  # a script finds its neighbours so
    import endpoint
    import kill

FAULTS = (
    "rate_limited",
    "rate_limited_told",
    "server_error",
    "timeout",
    "cut",
    "malformed",
    "empty",
    "length",
    "refusal",
)
PRICE = (0.25, 2.0)


def collect(folder: Path, tasks: int, share: float, cap: float) -> dict[str, Any]:
    """One collection under a cap in USD: its totals, and what the endpoint says of it."""
    folder.mkdir()
    kill.write_tasks(folder, tasks)
    settings = endpoint.Settings(
        latency=0.2,
        hang=20.0,
        retry_after=1.0,
        faults=dict.fromkeys(FAULTS, share),
        input_price=PRICE[0],
        output_price=PRICE[1],
    )
    with endpoint.serve(settings) as server:
        config = kill.served_config(folder, server.url, folder / "run", in_flight=64)
        money = f"price = {{ input = {PRICE[0]}, output = {PRICE[1]} }}\nbudget_usd = {cap}\n"
        config.write_text(config.read_text() + f"timeout = 2.0\n{money}")
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "persd.cli", "collect", str(config), "--json"],
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        if not done.stdout:
            raise SystemExit(done.stderr)
        stats = server.stats()
    return {**json.loads(done.stdout), "seconds": round(seconds, 1), "cap": cap, "stats": stats}


def wrong(found: dict[str, Any], tasks: int) -> list[str]:
    """What was promised and does not hold."""
    states, billed = found["states"], found["stats"]["billed_usd"]
    counted = found["usd"] + found["usd_at_risk"]
    enough = "over_budget" not in states
    done = states.get("solved", 0) + states.get("refined", 0)
    told = {
        "the states do not add up": sum(states.values()) != tasks or "waiting" in states,
        "a task that can succeed did not": enough and done != tasks,
        "more was billed than the cap": billed > found["cap"] + 1e-9,
        "more was billed than the ledger counts": billed > counted + 1e-9,
        "more was counted than the cap": counted > found["cap"] + 1e-9,
    }
    return [what for what, is_so in told.items() if is_so]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--share", type=float, default=0.05)
    args = parser.parse_args()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, cap in (("enough", 50.0), ("a cap", 0.25)):
            found = collect(Path(folder) / name.replace(" ", ""), args.tasks, args.share, cap)
            stats = found["stats"]
            print(f"{name}: cap {cap} USD, {found['seconds']} s")
            print(f"  states    {found['states']}")
            print(f"  retries   {found['retries']}")
            print(f"  faults    {stats['faults']}, {stats['answered']} answered")
            print(
                f"  USD       billed {stats['billed_usd']:.4f}; counted {found['usd']:.4f} known, "
                f"{found['usd_at_risk']:.4f} at risk; peak {stats['peak_in_flight']} in flight"
            )
            faults += [f"{name}: {fault}" for fault in wrong(found, args.tasks)]
    for fault in faults:
        print(f"WRONG: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
