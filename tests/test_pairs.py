"""Every pair of operations that can meet on a pool, in every order of their calls, for every driver.

    python -m tests.test_pairs --preemptions 2 --sample 20 --driver iscsi

prints the table of all explorations, and the story of each violation.
"""

from __future__ import annotations

import argparse
import logging
import sys

import pytest

from tests import pairs
from tests.pairs import DRIVERS, PAIRS, Driver, Pair
from xenvol.testing.explorer import Report, table

SEED = 9


def explored(pair: Pair, driver: Driver, *, preemptions: int, sample: int = 0) -> Report:
    return pairs.run(pair, driver, preemptions=preemptions, sample=sample, seed=SEED)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_few_orders_of_each_pair_are_right(pair: Pair) -> None:
    """One client after the other, and a few random orders; the first driver stands for all."""
    report = explored(pair, DRIVERS[0], preemptions=0, sample=3)
    assert report.violations == [], str(report)


@pytest.mark.slow
@pytest.mark.parametrize("driver", DRIVERS, ids=str)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_order_with_one_preemption_and_some_with_more_are_right(pair: Pair, driver: Driver) -> None:
    report = explored(pair, driver, preemptions=1, sample=15)
    assert report.violations == [], str(report)


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_order_with_two_preemptions_is_right(pair: Pair) -> None:
    report = explored(pair, DRIVERS[0], preemptions=2)
    assert report.violations == [], str(report)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Explore all pairs; the exit status is 1 if one is not right."
    )
    parser.add_argument("--preemptions", type=int, default=1)
    parser.add_argument("--sample", type=int, default=0, help="random schedules with more preemptions")
    parser.add_argument("--driver", action="append", choices=[str(driver) for driver in DRIVERS])
    parser.add_argument("--pair", default="", help="only pairs with this in their name")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # clients that give up log what they met
    rows = []
    for pair in PAIRS:
        for driver in DRIVERS:
            if options.pair in pair.name and str(driver) in (options.driver or map(str, DRIVERS)):
                report = explored(pair, driver, preemptions=options.preemptions, sample=options.sample)
                rows.append((pair.name, str(driver), report))
                for violation in report.violations:
                    sys.stdout.write(f"{pair.name}, {driver}: {violation}\n\n")
    sys.stdout.write(f"{table(rows)}\n")
    return any(report.violations for _, _, report in rows)


if __name__ == "__main__":
    raise SystemExit(main())
