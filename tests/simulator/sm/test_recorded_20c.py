"""Recorded disks of a VM and of the control domain on LUNs, also on LUNs that vanish."""

from recorded_san import GIB, arrange, lun, no_lun, sessions_are_as_seen
from recorded_world import Script, collector_ran, looked_up, play

SCRIPT = Script(
    "20c-iscsi-vbd",
    start=arrange,
    storage={
        24: no_lun(1),
        32: lun(1, 2 * GIB),  # only the note of #33 says it
        36: collector_ran,  # #35 took 15 s, and #38 succeeded
        51: looked_up,  # commands and device nodes
        57: looked_up,  # device nodes
        64: no_lun(0),
        69: looked_up,  # device nodes: the one of LUN 0 was still there
        76: sessions_are_as_seen,
    },
    same={"ref10": "dom0"},
)


def test_recording_20c_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
