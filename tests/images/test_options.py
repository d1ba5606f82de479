"""The options of a transfer are one value inside, and named arguments outside."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from xenvol import images, volume_images
from xenvol.images import errors
from xenvol.images.errors import TransferCancelled
from xenvol.images.options import TransferOptions
from xenvol.images.progress import Progress

READING = {"staging_dir", "progress", "cancel"}
IN_A_POOL = {*READING, "road", "here"}

FUNCTIONS: dict[Callable[..., object], set[str]] = {
    images.inspect_image: READING,
    images.write_device: {*READING, "verify"},
    images.export_image: IN_A_POOL,
    images.import_image: {*IN_A_POOL, "verify"},
    images.fill_vdi: {*IN_A_POOL, "verify"},
    volume_images.volume_to_image: IN_A_POOL,
    volume_images.create_volume_from_image: {*IN_A_POOL, "verify"},
    volume_images.fill_volume: {*IN_A_POOL, "verify"},
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_public_function_takes_the_options_by_name_and_no_others(function: Callable[..., object]) -> None:
    """A function without a pool has no transport; one that reads has nothing to verify."""
    parameters = inspect.signature(function).parameters
    named = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert named & {*IN_A_POOL, "verify"} == FUNCTIONS[function]
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())


def test_options_watch_a_transfer_for_their_caller() -> None:
    told: list[Progress] = []
    cancel = threading.Event()
    tick = TransferOptions(progress=told.append, cancel=cancel).watch("the test").counting("reading", 10)
    tick(4)
    assert told == [Progress("reading", 4, 10)]
    cancel.set()
    with pytest.raises(TransferCancelled, match="the test was cancelled"):
        tick(4)
    assert len(told) == 1


def test_options_stay_as_they_were_packed() -> None:
    options = TransferOptions(staging_dir=Path("/srv"))
    with pytest.raises(AttributeError):
        options.staging_dir = None  # type: ignore[misc]  # frozen, which is the point
    assert options.staging_dir == Path("/srv")


def test_the_error_of_earlier_releases_is_caught_by_its_name() -> None:
    with pytest.raises(errors.NoRoad) as caught:
        raise errors.NoTransport("SR store", reasons={"http": "the SR is plugged on no host"})
    assert str(caught.value) == "no transport reaches SR store: http: the SR is plugged on no host"
