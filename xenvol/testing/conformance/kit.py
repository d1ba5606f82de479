"""What a driver's author supplies to the tests: the driver's name, the storage, and changes to it."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Mapping
from typing import ClassVar

import pytest

from xenvol.pool import waiting
from xenvol.simulator import Simulator
from xenvol.testing.conformance.bench import Bench


class Kit(abc.ABC):
    """One driver and its storage; the requirements derive from this."""

    driver_volume_type: ClassVar[str]
    """The name of the driver's entry point."""
    package: ClassVar[str | None] = None
    """The package to use, if several installed ones claim the name."""
    optional_keys: ClassVar[Collection[str]] = ()
    """Keys of the connection_data that are not always needed: without one of them, a connect may fail for
    another reason than the key (a LUN's number, if the target has several)."""
    marks: ClassVar[Collection[str]] = ("xenvol",)
    """Keys of an SR's sm_config by which the driver knows that it introduced the SR."""

    @abc.abstractmethod
    def arrange(self, xapi: Simulator) -> Mapping[str, object]:
        """Build the storage with the volume, and return the volume's connection_data.

        Called for every pool that a test needs, before any host has seen the storage. A password in the data
        must not occur elsewhere.
        """

    def arrange_another(self, xapi: Simulator) -> Mapping[str, object]:
        """Build another volume on the storage of `arrange` (the same target, export…); return its connection_data."""
        pytest.skip("arrange_another(xapi) is not given: it builds another volume on the same storage")

    def grow(self, xapi: Simulator) -> int:
        """Make the volume larger on the storage, as its service would, and return its new size in bytes."""
        pytest.skip("grow(xapi) is not given: it makes the volume larger and returns its new size in bytes")

    def remove_volume(self, xapi: Simulator) -> None:
        """Remove the volume from the storage; the rest of the storage answers as before."""
        pytest.skip("remove_volume(xapi) is not given: it removes the volume from the storage")

    def break_storage(self, xapi: Simulator) -> None:
        """Stop the storage from answering."""
        pytest.skip("break_storage(xapi) is not given: it stops the storage from answering")

    @pytest.fixture
    def bench(self, xapi: Simulator) -> Iterator[Bench]:
        """The pool of the test, with the storage arranged, and the driver."""
        with (
            waiting.grace(),
            Bench(xapi, self.driver_volume_type, self.arrange, prefer=self.prefer) as bench,
        ):
            yield bench

    @property
    def prefer(self) -> dict[str, str]:
        """The choice of the package, for the registry."""
        return {} if self.package is None else {self.driver_volume_type: self.package}
