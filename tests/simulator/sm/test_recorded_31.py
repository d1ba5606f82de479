"""Recorded answers of a pool member that cannot reach its coordinator."""

from recorded_world import Script, Storage, looked_up, play


def coordinator_is_lost(storage: Storage) -> None:
    simulator = storage.simulator
    simulator.db.set("host", simulator.xapi.master, address="10.99.0.77")
    simulator.faults.die(host="coordinator")


SCRIPT = Script(
    "31-slave-emergency",
    storage={
        1: coordinator_is_lost,
        8: looked_up,  # one call got no answer; here it is answered unless faults.hang is ordered
    },
    world={"hosts": [{"name": "coordinator"}, {"name": "xapihost"}]},
    called=1,
)


def test_recording_31_is_answered_as_recorded() -> None:
    assert play(SCRIPT) == []
