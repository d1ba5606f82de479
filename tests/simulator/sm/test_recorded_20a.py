"""Recorded answers of SR.probe, PBD.plug and a second introduce of an iSCSI target."""

from recorded_san import arrange, sessions_are_as_seen, together
from recorded_world import Script, looked_up, play, pool_secret_is, token_is_taken

SCRIPT = Script(
    "20a-iscsi-attach",
    storage={
        4: together(arrange, pool_secret_is("uuid3")),
        36: sessions_are_as_seen,
        40: sessions_are_as_seen,
        44: token_is_taken("token463"),
        45: looked_up,  # commands
        51: looked_up,  # device nodes, and the derivation of the uuid: every $md5 of the file is checked
        71: looked_up,  # commands
        94: sessions_are_as_seen,
    },
)


def test_recording_20a_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
