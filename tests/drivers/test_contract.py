"""A class that breaks the contract is refused, with its signature and what to change."""

import functools
from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest

from xenvol.drivers.base import SessionLike, VolumeDriver
from xenvol.drivers.contract import find_problem
from xenvol.errors import ExtendNotSupported, XapiError


class Complete(VolumeDriver):
    def connect_volume(self, connection_data: Mapping[str, object]) -> Any:
        return "OpaqueRef:1"

    def disconnect_volume(self, connection_data: Mapping[str, object]) -> None:
        pass


def variant(**members: object) -> type:
    """Return a complete driver class with these members changed. None removes a member."""
    duck = {
        "__init__": lambda self, session, *, hosts=None: None,
        "connect_volume": lambda self, connection_data: None,
        "disconnect_volume": lambda self, connection_data: None,
        "rollback": lambda self, connection_data: None,
    }
    return type(
        "Variant", (), {name: member for name, member in {**duck, **members}.items() if member is not None}
    )


async def coroutine(self: object, connection_data: object) -> None:
    pass


def generator(self: object, connection_data: object) -> Any:
    yield


@pytest.mark.parametrize(
    "fine",
    [
        Complete,
        variant(),
        variant(connect_volume=lambda self, data, timeout=5, **more: None),
        variant(connect_volume=lambda self, *args: None),
        variant(disconnect_volume=staticmethod(lambda connection_data: None)),
        variant(disconnect_volume=classmethod(lambda cls, connection_data: None)),
        variant(rollback=functools.partialmethod(lambda self, how, data: None, "hard")),
        variant(extend_volume=lambda self, connection_data: 1),
        variant(__init__=lambda self, *args, **kwargs: None),
        variant(__init__=lambda self, session, hosts=(): None),
    ],
)
def test_a_class_that_can_be_used_is_accepted(fine: type) -> None:
    """Inheritance is not needed, and further parameters are allowed if they have defaults."""
    assert find_problem(fine) is None


@pytest.mark.parametrize(
    ("faulty", "words"),
    [
        (int, ["int", "no method connect_volume", "def connect_volume(self, connection_data)"]),
        (object, ["no method connect_volume"]),
        (len, ["builtin_function_or_method", "not a class"]),
        (Complete(mock.Mock()), ["a Complete, not a class"]),
        (VolumeDriver, ["connect_volume, disconnect_volume abstract"]),
        (variant(disconnect_volume=None), ["no method disconnect_volume"]),
        (variant(rollback=None), ["no method rollback", "def rollback(self, connection_data)"]),
        (variant(connect_volume="x"), ["cannot be called"]),
        (
            variant(connect_volume=lambda self, connection_info, instance: None),
            ["connect_volume(self, connection_info, instance)", "def connect_volume(self, connection_data)"],
        ),
        (variant(connect_volume=lambda self: None), ["connect_volume(self)"]),
        (variant(connect_volume=lambda self, *, connection_data: None), ["connect_volume(self, *, conn"]),
        (variant(disconnect_volume=staticmethod(lambda self, data: None)), ["disconnect_volume(self, data)"]),
        (variant(connect_volume=coroutine), ["connect_volume that is async"]),
        (variant(connect_volume=generator), ["connect_volume that yields"]),
        (variant(extend_volume=lambda self: 1), ["extend_volume(self)"]),
        (variant(__init__=lambda self: None), ["Variant()", "def __init__(self, session, *, hosts=None)"]),
        (variant(__init__=lambda self, session: None), ["Variant(session)", "hosts"]),
        (variant(__init__=lambda self, session, hosts: None), ["Variant(session, hosts)"]),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(faulty: object, words: list[str]) -> None:
    """The problem names the method, prints its signature and says what to change it to."""
    problem = find_problem(faulty)
    assert problem is not None
    assert [word for word in words if word not in problem] == []


def test_a_constructor_stores_and_calls_nothing() -> None:
    """Making a driver costs no round trip."""
    session = mock.Mock(spec=["xenapi"])
    driver = Complete(session, hosts=iter(["OpaqueRef:h"]))  # type: ignore[arg-type]  # a ref is a string
    assert driver.session is session
    assert driver.hosts == ("OpaqueRef:h",)
    assert session.mock_calls == []
    assert Complete(session).hosts is None
    assert repr(driver) == "<Complete <Undo: nothing to take back>>"


def test_anything_with_xenapi_is_a_session() -> None:
    """The client's, xenvol's, a mock."""
    assert isinstance(mock.Mock(spec=["xenapi"]), SessionLike)
    assert not isinstance(mock.Mock(spec=["VM"]), SessionLike)


def test_a_rollback_takes_back_what_this_object_did_and_notes_what_it_could_not() -> None:
    """On the error that is being handled."""
    undone: list[str] = []
    driver = Complete(mock.Mock())
    driver.undo.did("introduced SR", undone.append, "SR")
    driver.undo.did("plugged PBD", mock.Mock(side_effect=XapiError("VDI_IN_USE", [], "PBD.unplug")))
    with pytest.raises(ValueError) as caught:  # noqa: PT012  # the way in which a facade does it
        try:
            raise ValueError("the VBD would not plug")
        except ValueError:
            driver.rollback({})
            raise
    assert undone == ["SR"]
    assert "plugged PBD" in caught.value.__notes__[0]


def test_a_rollback_outside_of_any_handler_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What it cannot undo is logged."""
    driver = Complete(mock.Mock())
    driver.undo.did("plugged PBD", mock.Mock(side_effect=OSError))
    driver.rollback({})
    assert "plugged PBD" in caplog.text


def test_a_driver_that_cannot_extend_says_so() -> None:
    """The method is optional."""
    with pytest.raises(ExtendNotSupported, match="Complete"):
        Complete(mock.Mock()).extend_volume({})
