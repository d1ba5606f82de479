"""`make test-durations` says what tests cost, with xdist and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nested import run_pytest

TESTS = """
    import subprocess, sys, threading, time
    import pytest
    from xenvol.testing.sweep import Case, lose_request

    def burn(seconds=0.15):
        end = time.thread_time() + seconds
        while time.thread_time() < end: pass

    def test_in_a_child():
        code = "import time\\nwhile time.process_time() < 0.15: pass"
        subprocess.run([sys.executable, "-S", "-c", code], check=True)

    def test_in_a_thread():
        thread = threading.Thread(target=burn)
        thread.start()
        thread.join()

    @pytest.fixture
    def costly():
        yield
        burn()

    def test_in_its_fixture(costly): ...

    @pytest.mark.slow
    def test_sleeps(): time.sleep(0.4)

    def test_sweeps():
        for n in range(7): Case(None, n, "VM.get_all", lose_request, None)
"""


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_what_tests_cost_is_told_by_test_by_file_and_by_directory(workers: str, tmp_path: Path) -> None:
    """CPU in threads, child processes and fixtures counts; swept calls are counted; a slow test is told apart."""
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "test_a.py", tmp_path / "sub" / "test_b.py"):
        path.write_text("\n".join(line[4:] for line in TESTS.splitlines()))
    options: list[str | Path] = [
        "--rootdir",
        tmp_path,
        "-p",
        "tests.durations",
        "-n",
        workers,
        "-W",
        "ignore",
    ]
    done = run_pytest(*options, "--measure=4", tmp_path)
    assert done.returncode == 0, done.stdout
    table = done.stdout.partition("what the tests cost")[2]
    rows = {line[38:]: line[:36].split() for line in table.splitlines() if line[:7].strip().isdecimal()}
    assert rows["all tests"][0::3] == ["10", "14"]
    assert rows["of these: marked as slow"][0::3] == ["2", "0"]
    for name in ("./", "sub/", "test_a.py", "sub/test_b.py"):
        assert rows[name][0::3] == ["5", "7"]
    tests = {name: row for name, row in rows.items() if "::" in name}
    # the four slowest are burning ones of two files with three each
    assert len(tests) == 4
    costly = {"test_in_a_child", "test_in_a_thread", "test_in_its_fixture"}
    assert {name.partition("::")[2] for name in tests} <= costly
    assert all(float(row[1]) >= 0.1 for row in tests.values())
    assert float(rows["of these: marked as slow"][2]) >= 0.8
    assert float(rows["all tests"][1]) >= 0.8
    assert "beside the tests" in table
