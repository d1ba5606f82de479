"""The requirement on secrets: the data's password is only in xapi's secrets, as long as it is needed."""

from __future__ import annotations

import logging
import traceback

import pytest

from xenvol.secret import secrets_in
from xenvol.testing import sweep
from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import require

_SHORTEST = 6
"""Characters; a shorter text could occur by accident."""
_REMEDY = (
    "never reveal() a Secret: pass it to storage.connect_sr in the SRSpec's device_config, which turns it into a "
    "xapi secret that is removed with the PBD"
)


class Secrets(Kit):
    def test_no_secret_is_seen_anywhere(
        self, bench: Bench, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Not in xapi's database, in the calls' parameters, in a log, in an error, in a repr, in printed output."""
        secrets = {secret.reveal() for secret in secrets_in(bench.data)}
        if not secrets:
            pytest.skip("the connection_data has no secret (a key that ends in password, secret, keyring…)")
        caplog.set_level(logging.DEBUG)
        _check_usable(bench, secrets)

        driver = bench.driver()
        driver.connect_volume(bench.data)
        self._check(secrets, "xapi's database, while the volume is connected", _database(bench))
        self._check(secrets, "the driver's repr", repr(driver))
        bench.disconnect()
        ops, vm = bench.volume_ops(), bench.xapi.add_vm("a VM")
        ops.attach_volume(bench.connection_info, vm)
        self._check(secrets, "xapi's database, while the volume is attached", _database(bench))
        ops.detach_volume(bench.connection_info, vm)
        self._check(secrets, "a call's parameters", "\n".join(map(str, bench.xapi.journal)))
        for strike in (sweep.refuse, sweep.lose_answer):
            for case in bench.each_call(Bench.connect, strike):
                if case.error is not None:
                    shown = traceback.format_exception(case.error)
                    self._check(secrets, f"the error of {case.call}", "".join(shown) + repr(case.error))
                where = f"xapi's database, after {case.call} failed"
                self._check(secrets, where, _database(bench))
        self._check(secrets, "a log", caplog.text)
        printed = capsys.readouterr()
        self._check(secrets, "what was printed", printed.out + printed.err)

    def _check(self, secrets: set[str], where: str, text: str) -> None:
        __tracebackhide__ = True  # pytest would print the arguments
        for secret in secrets:
            shown = next((line.strip() for line in text.splitlines() if secret in line), "")
            shown = shown.replace(secret, "<the secret>")[:300]
            require(not shown, f"a secret of the connection_data is in {where}: {shown}\n{_REMEDY}")


def _check_usable(bench: Bench, secrets: set[str]) -> None:
    __tracebackhide__ = True  # pytest would print the arguments
    untouched = _database(bench)
    for secret in secrets:
        is_usable = len(secret) >= _SHORTEST and secret not in untouched
        require(
            is_usable,
            "arrange() gives a secret that is too short or occurs in the pool anyway: choose one that cannot occur "
            "by accident",
        )


def _database(bench: Bench) -> str:
    """Return every field of every object, one per line, except the values of xapi's secrets."""
    return "\n".join(
        f"{cls}.{field}: {value}"
        for cls, rows in bench.xapi.snapshot().objects.items()
        for row in rows.values()
        for field, value in row.items()
        if (cls, field) != ("secret", "value")
    )
