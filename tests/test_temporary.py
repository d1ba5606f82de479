"""A test run leaves no temporary file behind, also if it is killed; and removes none of a run that is alive."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests import needs, temporary
from tests.nested import ROOT, command, environment, run_pytest

TEST = """
import multiprocessing.util, os, signal, subprocess, sys, tempfile, threading
from pathlib import Path

def test_leaves_files(xapi, tmp_path):
    here = Path(os.environ["TMPDIR"])
    assert here == Path(tempfile.gettempdir())
    assert xapi.storage.directory.parent == here
    kept = Path(os.environ["PRECIOUS"]).parent / "kept"
    assert (kept if kept.exists() else here) in tmp_path.parents
    print_it = "import tempfile; print(tempfile.mkdtemp())"
    made = subprocess.run([sys.executable, "-S", "-c", print_it], capture_output=True, text=True, check=True).stdout
    assert Path(made.strip()).parent == here
    assert Path(multiprocessing.util.get_temp_dir()).parent == here
    (tmp_path / "closed").mkdir(mode=0o500)
    (tmp_path / "link").symlink_to(Path(os.environ["PRECIOUS"]))
    {ending}
"""
KILLED = 'os.kill(int(os.environ["XENVOL_TEST_DIRECTORY"].split("-")[-2]), signal.SIGKILL); threading.Event().wait(100)'
WAITS = 'print("waiting", file=sys.__stderr__, flush=True); sys.stdin.read()'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What the runs of a test have for /tmp."""
    (tmp_path / "place").mkdir()
    (tmp_path / "precious").mkdir(mode=0o500)
    return tmp_path / "place"


def arguments(place: Path, ending: str, *more: str) -> tuple[list[str | Path], dict[str, str]]:
    """Of a run whose test ends so."""
    test = place.parent / f"test_{len(list(place.parent.iterdir()))}.py"
    test.write_text(TEST.format(ending=ending))
    return (
        ["-p", "tests.temporary", "-W", "ignore", "--rootdir", place.parent, *more, test],
        {"TMPDIR": str(place), "XENVOL_TEST_DIRECTORY": "", "PRECIOUS": str(place.parent / "precious")},
    )


def run(place: Path, ending: str, *more: str) -> subprocess.CompletedProcess[str]:
    options, environ = arguments(place, ending, *more)
    return run_pytest(*options, environ=environ)


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_the_next_run_removes_what_a_killed_one_left(workers: str, place: Path) -> None:
    """With its simulators' worlds, with directories that are closed; not what links in them lead to."""
    killed = run(place, KILLED, "-n", workers)
    assert killed.returncode == -signal.SIGKILL, killed.stdout
    (left,) = place.iterdir()
    assert left.name.startswith("xenvol-tests-")
    done = run(place, "pass")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert list(place.iterdir()) == []
    assert (place.parent / "precious").stat().st_mode & 0o777 == 0o500


@pytest.mark.slow
def test_a_run_that_fails_leaves_nothing_and_one_that_is_told_where_keeps_what_tests_wrote(
    place: Path,
) -> None:
    assert run(place, "assert False").returncode == 1
    assert list(place.iterdir()) == []
    kept = place.parent / "kept"
    assert run(place, "assert False", f"--basetemp={kept}").returncode == 1
    assert list(place.iterdir()) == []
    assert (kept / "test_leaves_files0" / "link").is_symlink()


@pytest.mark.slow
def test_a_run_spares_one_that_is_alive(place: Path) -> None:
    options, environ = arguments(place, WAITS, "-s")
    with subprocess.Popen(
        command(*options),
        cwd=ROOT,
        env=environment(**environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as alive:
        assert alive.stdin is not None
        assert alive.stderr is not None
        assert alive.stderr.readline() == b"waiting\n"
        (its,) = place.iterdir()
        assert run(place, "pass").returncode == 0
        assert list(place.iterdir()) == [its]
        assert list(its.glob("xenvol-world-*"))
        alive.stdin.close()
        assert alive.wait(100) == 0
    assert list(place.iterdir()) == []


class TestSweep:
    def test_a_directory_without_a_run_goes_and_a_locked_one_stays(self, tmp_path: Path) -> None:
        """Whatever process has by now the process id of the killed run."""
        run = temporary.make(tmp_path)
        left = tmp_path / f"xenvol-tests-{os.getpid()}-left"
        left.mkdir()
        assert temporary.sweep(tmp_path) == [left]
        assert list(tmp_path.iterdir()) == [run.path]
        run.remove()
        assert list(tmp_path.iterdir()) == []

    def test_what_is_none_of_a_run_stays(self, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        (tmp_path / "xenvol-world-x").mkdir()
        (tmp_path / "xenvol-tests-1-file").touch()
        (tmp_path / "xenvol-tests-1-link").symlink_to(tmp_path / "other")
        assert temporary.sweep(tmp_path) == []
        assert len(list(tmp_path.iterdir())) == 4

    def test_what_another_user_owns_stays(self, tmp_path: Path) -> None:
        needs.root("who alone gives files away")
        other = tmp_path / "xenvol-tests-1-other"
        other.mkdir()
        os.chown(other, 12345, 12345)
        assert temporary.sweep(tmp_path) == []
        assert other.exists()

    @pytest.mark.parametrize("moment", ["before it is opened", "before it is locked"])
    def test_a_directory_that_another_run_sweeps_at_once_is_made_again(
        self, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened, lock, swept = os.open, fcntl.flock, list[Path]()

        def sweep_first(when: str) -> None:
            if moment == when and not swept:
                monkeypatch.undo()  # so that the sweep itself is not swept
                swept.extend(temporary.sweep(tmp_path))

        def open_late(path: Path, flags: int) -> int:
            sweep_first("before it is opened")
            return opened(path, flags)

        def lock_late(file: int, how: int) -> None:
            sweep_first("before it is locked")
            lock(file, how)

        monkeypatch.setattr(os, "open", open_late)
        monkeypatch.setattr(fcntl, "flock", lock_late)
        run = temporary.make(tmp_path)
        assert len(swept) == 1
        assert list(tmp_path.iterdir()) == [run.path]
        assert temporary.sweep(tmp_path) == []
        run.remove()

    def test_many_runs_that_start_at_once_each_keep_their_directory(self, tmp_path: Path) -> None:
        runs: list[temporary.RunDirectory] = []

        def start() -> None:
            temporary.sweep(tmp_path)
            runs.append(temporary.make(tmp_path))

        for _ in range(5):
            threads = [threading.Thread(target=start) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(tmp_path.iterdir()) == sorted(run.path for run in runs)
        assert len(runs) == 40
        for run in runs:
            run.remove()
