"""The requirements on the class: found by name, made without calls, restricted to what a driver may do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import pytest

from xenvol.connection_data.connection_info import parse
from xenvol.drivers.registry import get_driver_class
from xenvol.errors import ForbiddenCall
from xenvol.secret import Secret
from xenvol.testing import sweep
from xenvol.testing.conformance.bench import Bench
from xenvol.testing.conformance.kit import Kit
from xenvol.testing.conformance.requirement import listed, require


class Contract(Kit):
    def test_the_driver_is_found_by_its_name(self) -> None:
        """The entry point is loaded; the error for a class that breaks the contract names the wrong method."""
        get_driver_class(self.driver_volume_type, prefer=self.prefer)

    def test_making_a_driver_makes_no_call(self, bench: Bench) -> None:
        with bench.xapi.journal.recording() as calls:
            bench.driver()
            bench.driver(hosts=bench.hosts)
        require(
            not calls.methods(),
            f"{bench.method('__init__')} called {', '.join(calls.methods())}: a constructor stores what it is given; "
            "make the calls in connect_volume",
        )

    def test_the_connection_data_stays_as_it_was(self, bench: Bench) -> None:
        """The facade passes a mapping that cannot be changed, so a driver that changes it fails."""
        steps: tuple[tuple[str, Callable[[Mapping[str, object]], object]], ...] = (
            ("connect_volume", lambda data: bench.connect(data=data)),
            ("disconnect_volume", lambda data: bench.disconnect(data)),
            ("rollback", lambda data: bench.driver().rollback(data)),
        )
        for name, step in steps:
            data = bench.data
            step(data)
            changed = sorted(key for key in {*data, *bench.data} if data.get(key) != bench.data.get(key))
            require(
                not changed,
                f"{bench.method(name)} changed {', '.join(changed)} in its connection_data, which is the caller's: "
                "read from it and build what you need anew",
            )

    def test_the_connection_data_may_be_any_mapping(self, bench: Bench) -> None:
        """In production it is the facade's read-only mapping, not a dict."""
        frozen = parse(bench.connection_info).data
        try:
            bench.connect(data=frozen)
            bench.disconnect(frozen)
        except (TypeError, AttributeError) as error:
            raise AssertionError(
                f"a driver method raised {type(error).__name__}: {error}, given a {type(frozen).__name__}: "
                "use only what every Mapping has ([], in, get, items), and dict(connection_data) where a dict is needed"
            ) from error

    def test_the_volume_key_comes_from_the_data_alone(self, bench: Bench) -> None:
        """The key is the same for the same volume, in any process and with any password; and no call is made."""
        if not hasattr(bench.driver_class, "volume_key"):
            pytest.skip("the driver has no volume_key, so VolumeDriver's is used")
        another_password = {
            key: Secret("another") if isinstance(value, Secret) else value
            for key, value in bench.data.items()
        }
        datas = (bench.data, parse(bench.connection_info).data, another_password)
        drivers = [bench.driver() for _ in datas]
        with bench.xapi.journal.recording() as calls:
            keys = [driver.volume_key(data) for driver, data in zip(drivers, datas, strict=True)]
        method = bench.method("volume_key")
        require(
            not calls.methods(),
            f"{method} called {', '.join(calls.methods())}: read what it needs from the data",
        )
        require(
            len(set(keys)) == 1 and isinstance(keys[0], str) and keys[0],
            f"{method} gave one volume several keys, or none: derive the key only from what locates its disk (no "
            "password, no id of the driver's object)",
        )

    def test_the_volume_key_of_another_volume_is_another(self, bench: Bench) -> None:
        if not hasattr(bench.driver_class, "volume_key"):
            pytest.skip("the driver has no volume_key, so VolumeDriver's is used")
        data = {"driver_volume_type": bench.name, "data": dict(self.arrange_another(bench.xapi))}
        keys = {bench.driver().volume_key(parse(info).data) for info in (bench.connection_info, data)}
        require(
            len(keys) == 2,
            f"{bench.method('volume_key')} gave two volumes one key: put everything into the key that "
            "tells the disks of a storage apart",
        )

    def test_nothing_is_called_that_a_driver_may_not(self, bench: Bench) -> None:
        """The session refuses calls that make or erase data, and calls on VMs and VBDs; trying one is a mistake."""
        for step in (bench.connect, bench.disconnect):
            with contextlib.suppress(ForbiddenCall):
                step()
        require(
            not bench.refused,
            f"{bench.driver_class.__qualname__} called {', '.join(bench.refused)}, which no driver may call: a driver "
            "introduces and forgets records, and leaves VMs and VBDs to the facade",
        )

    def test_a_call_that_is_forbidden_is_not_swallowed(self, bench: Bench) -> None:
        """If an operator forbids a call to drivers, ForbiddenCall leaves the driver, which must not go on."""
        calls = bench.changing_calls(sweep.calls_of(bench.xapi, bench.begin, Bench.connect))
        swallowed = []
        for call in dict.fromkeys(calls):
            bench.begin()
            bench.forbidden = frozenset({call})
            try:
                bench.connect()
            except ForbiddenCall:
                continue
            except AssertionError:
                raise  # a rollback that raises breaks a requirement of its own
            except Exception as error:  # noqa: BLE001  # any error here has replaced ForbiddenCall
                swallowed.append(f"{call}: {type(error).__name__}: {error}")
            else:
                swallowed.append(f"{call}: connect_volume went on")
        require(
            not swallowed,
            f"{bench.method('connect_volume')} swallowed ForbiddenCall:\n{listed(swallowed)}\n"
            "catch only errors that the driver can handle (XapiError with a certain code)",
        )
