"""A name becomes one driver, or an error that names the package to blame.

The packages in tests/plugins are installed as pip would have: a directory on sys.path with a dist-info in it.
"""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

from xenvol.drivers.base import VolumeDriver
from xenvol.drivers.registry import InstalledDriver, get_driver_class, installed_drivers
from xenvol.errors import AmbiguousDriver, DriverLoadFailed, InvalidDriver, UnknownDriver

PLUGINS = Path(__file__).parents[1] / "plugins"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*names: str) -> None:
        for name in names:
            monkeypatch.syspath_prepend(PLUGINS / name)

    return install


@pytest.mark.parametrize("name", ["iscsi", "iSCSI", " ISCSI "])
def test_built_in_drivers_are_found_by_entry_points_too(name: str) -> None:
    """By their entry points, in any case of letters."""
    driver_class = get_driver_class(name, environ={})
    assert issubclass(driver_class, VolumeDriver)
    assert driver_class.__module__ == "xenvol.drivers.iscsi"


@pytest.mark.parametrize("name", ["fibre_channel", "Fibre_Channel", "FIBRE_CHANNEL"])
def test_a_strangers_driver_is_found(name: str, install: Callable[..., None]) -> None:
    """It inherits nothing of xenvol, and its package spells the name in another case."""
    install("fibre")
    assert get_driver_class(name, environ={}).__name__ == "FibreChannelDriver"


def test_a_package_installed_meanwhile_is_seen(install: Callable[..., None]) -> None:
    """A service need not be restarted, and no cache hides the package."""
    with pytest.raises(UnknownDriver):
        get_driver_class("fibre_channel", environ={})
    install("fibre")
    assert get_driver_class("fibre_channel", environ={})


def test_an_unknown_name_lists_what_is_installed(install: Callable[..., None]) -> None:
    """So that the reader sees a typing error at once."""
    install("fibre", "rival")
    with pytest.raises(UnknownDriver) as caught:
        get_driver_class("iscsy", environ={})
    assert caught.value.name == "iscsy"
    assert caught.value.installed == sorted(["fibre_channel", "gluster", "iscsi", "nfs", "xensm"])
    assert "fibre_channel, gluster, iscsi, nfs, xensm" in str(caught.value)


def test_two_packages_with_one_name_are_an_error_naming_both(install: Callable[..., None]) -> None:
    """Neither is imported: xenvol does not guess."""
    install("rival")
    with pytest.raises(AmbiguousDriver) as caught:
        get_driver_class("iscsi", environ={})
    assert caught.value.packages == [
        "rival-storage (rival_storage:RivalDriver)",
        "xenvol (xenvol.drivers.iscsi:ISCSIDriver)",
    ]
    assert "XENVOL_DRIVER_ISCSI=<package>" in str(caught.value)
    assert "rival_storage" not in sys.modules
    assert get_driver_class("nfs", environ={})


def test_a_preference_chooses_the_package(install: Callable[..., None]) -> None:
    """By argument or by environment; the argument wins, and a package's name has one meaning in any spelling."""
    install("rival")
    environ = {"XENVOL_DRIVER_ISCSI": "Rival.Storage"}
    assert get_driver_class("iscsi", environ=environ).__name__ == "RivalDriver"
    assert get_driver_class("iSCSI", prefer={"ISCSI": "rival_storage"}, environ={}).__name__ == "RivalDriver"
    assert get_driver_class("iscsi", prefer={"iscsi": "xenvol"}, environ=environ).__name__ == "ISCSIDriver"
    assert get_driver_class("nfs", prefer={"iscsi": "rival-storage"}, environ={}).__name__ == "NFSDriver"


def test_the_environment_of_the_process_is_the_default(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read at the call."""
    install("rival")
    monkeypatch.setenv("XENVOL_DRIVER_ISCSI", "rival-storage")
    assert get_driver_class("iscsi").__name__ == "RivalDriver"


def test_a_preferred_package_that_is_not_installed_is_an_error() -> None:
    """The operator decided against the built-in driver."""
    with pytest.raises(UnknownDriver) as caught:
        get_driver_class("iscsi", prefer={"iscsi": "rival-storage"}, environ={})
    assert caught.value.package == "rival-storage"
    assert "'rival-storage'" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("needs_a_library", ImportError, "a_library_that_nobody_has"),
        ("exits", SystemExit, "no licence"),
        ("asserts", AssertionError, "not on this platform"),
        ("has_no_such_class", AttributeError, "Driver"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named_when_it_is_asked_for(
    name: str, cause: type[BaseException], words: str, install: Callable[..., None]
) -> None:
    """The error of the import is the cause."""
    install("broken")
    with pytest.raises(DriverLoadFailed) as caught:
        get_driver_class(name, environ={})
    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.package == "broken-drivers"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("not_a_class", "a function, not a class"),
        ("an_int", "int has no method connect_volume"),
        ("forgets_rollback", "ForgetsRollback has no method rollback"),
        ("leaves_abstract", "leaves disconnect_volume abstract"),
        ("wants_two", "connect_volume(self, connection_info, instance)"),
    ],
)
def test_a_class_that_breaks_the_contract_is_refused(
    name: str, words: str, install: Callable[..., None]
) -> None:
    """With the package and the method."""
    install("faulty")
    with pytest.raises(InvalidDriver) as caught:
        get_driver_class(name, environ={})
    assert caught.value.name == name
    assert caught.value.package == "faulty-drivers"
    assert words in caught.value.problem


def test_broken_packages_do_not_affect_other_drivers(install: Callable[..., None]) -> None:
    """The others load, and only the named driver is imported."""
    install("broken", "faulty", "fibre")
    for module in [name for name in sys.modules if name.startswith(("broken_drivers", "faulty_drivers"))]:
        del sys.modules[module]
    assert get_driver_class("fibre_channel", environ={})
    assert get_driver_class("iscsi", environ={})
    assert not [name for name in sys.modules if name.startswith(("broken_drivers", "faulty_drivers"))]


def test_all_installed_drivers_are_listed_with_what_is_wrong_with_them(install: Callable[..., None]) -> None:
    """Each with its package, version, entry point and schema; nothing is raised for any of them."""
    install("broken", "faulty", "fibre", "rival")
    drivers = installed_drivers()
    listed = [(driver.name, driver.package) for driver in drivers]
    assert listed == sorted(listed)
    assert [package for name, package in listed if name == "iscsi"] == ["rival-storage", "xenvol"]
    by_name = {driver.name: driver for driver in drivers if driver.package != "xenvol"}
    fibre = by_name["fibre_channel"]
    assert fibre == InstalledDriver(
        name="fibre_channel",
        package="Acme.Fibre",
        version="1.2",
        entry_point="acme_fibre:FibreChannelDriver",
        driver_class=fibre.driver_class,
        schema=sys.modules["acme_fibre"].FibreChannelKeys,
    )
    assert "a_library_that_nobody_has" in (by_name["needs_a_library"].problem or "")
    assert by_name["exits"].driver_class is None
    assert "rollback" in (by_name["forgets_rollback"].problem or "")
    assert by_name["iscsi"].problem is None
    assert by_name["iscsi"].schema is None


def test_loading_a_driver_leaves_nothing_on_disk(tmp_path: Path) -> None:
    """stevedore's own cache would, and may be two minutes stale."""
    program = "from xenvol.drivers.registry import get_driver_class as get; print(get('iscsi', environ={}).__name__)"
    environ = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "ISCSIDriver\n"
    assert list(tmp_path.rglob("*")) == []


def test_the_registry_costs_nothing_to_import() -> None:
    """The module that reads entry points is imported with the first driver."""
    late = "{'stevedore', 'xenvol.drivers.entry_points'}"
    program = f"import sys, xenvol.drivers.registry; print(sorted({late} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_package_that_is_installed_into_a_known_folder_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does pip: ``sys.path`` stays, and the folder gets another entry. It is gone again when it is removed."""
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownDriver):
        get_driver_class("late_arrival", environ={})
    info = tmp_path / "late_arrival-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late-arrival\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[xenvol.drivers]\nlate_arrival = xenvol.drivers.iscsi:ISCSIDriver\n"
    )
    os.utime(tmp_path, ns=(1, 1))  # a clock too coarse to tell the two apart would hide the change
    assert get_driver_class("late_arrival", environ={}).__name__ == "ISCSIDriver"
    shutil.rmtree(info)
    with pytest.raises(UnknownDriver):
        get_driver_class("late_arrival", environ={})


def test_a_driver_is_looked_up_without_reading_metadata_again(mocker: MockerFixture) -> None:
    """An attach and a detach need one each; the metadata of a hundred packages cost more than their calls."""
    get_driver_class("iscsi", environ={})
    read = mocker.spy(importlib.metadata, "entry_points")
    assert get_driver_class("nfs", environ={})
    assert read.call_count == 0
