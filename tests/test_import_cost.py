"""What the core costs whoever imports it: which modules are loaded, and how many packages are installed for it.

Times are not asserted, since they are the machine's: `benchmarks/import_time.py` measures them.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable

CORE = {"XenAPI", "stevedore", "tenacity", "msgspec"}
NOT_FOR_THE_CORE = ("click", "rich", "stevedore", "pytest", "_pytest", "hypothesis", "sqlalchemy", "asyncio")


def loaded_by(*imports: str) -> set[str]:
    """The modules that a fresh Python has after these imports and not before."""
    program = "import sys; before = set(sys.modules); import {}; print(*set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-c", program.format(", ".join(imports))], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def requirements_of(package: str) -> set[str]:
    """The packages that are installed with it, where no extra is asked for."""
    listed = importlib.metadata.requires(package) or []
    return {re.split(r"[^\w.-]", line)[0] for line in listed if "extra ==" not in line}


def test_the_core_loads_no_package_that_it_could_do_without() -> None:
    """stevedore comes with the first driver that is asked for; the simulator and pytest never do."""
    modules = loaded_by("xenvol.volumeops", "xenvol.drivers.registry", "xenvol.session")
    roots = {module.partition(".")[0] for module in modules}
    assert [root for root in NOT_FOR_THE_CORE if root in roots] == []
    assert [module for module in modules if module.startswith(("xenvol.simulator", "xenvol.testing"))] == []
    assert [module for module in modules if module.startswith("xenvol.cli")] == []


def test_importing_xenvol_itself_loads_nothing() -> None:
    """So that a plugin or a console script may."""
    assert {module for module in loaded_by("xenvol") if module.startswith("xenvol")} == {"xenvol"}


def test_the_core_is_xenvol_and_four_packages(record_property: Callable[[str, object], None]) -> None:
    """None of which brings another."""
    assert requirements_of("xenvol") == CORE
    distributions, left = {"xenvol"}, {"xenvol"}
    while left:
        left = {needed for package in left for needed in requirements_of(package)} - distributions
        distributions |= left
    record_property("distributions", sorted(distributions))
    assert distributions == {"xenvol", *CORE}
