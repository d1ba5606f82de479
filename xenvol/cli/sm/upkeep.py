"""The commands for maintenance: setup, statistics, audit, the database's tables."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from xenvol.amounts import human_size
from xenvol.cli import failures
from xenvol.cli.sm.backends import described, facts, labels_of
from xenvol.cli.sm.options import NOT_WELL, Service, database_options, service_options
from xenvol.secret import masked
from xenvol.session.refs import is_uuid
from xenvol.sm import Database
from xenvol.sm.audit import Finding
from xenvol.sm.capacity import BackendStats
from xenvol.sm.placement import FEATURES


@click.command("setup")
@click.option(
    "--replug",
    is_flag=True,
    help="Unplug and plug every SR anew, on each host on which no VM has a disk of it.",
)
@service_options
def setup(service: Service, replug: bool) -> None:
    """Make and plug every backend's SR, as a service does when it starts.

    This is done in this pool, also for backends that were registered in another. The storage of each backend is
    asked. If it answers, but the pool's master has lost its mount, and no VM has a disk of the SR, the SR is unplugged
    and plugged. xapi cannot tell whether other hosts have lost a mount or a session. For those, --replug plugs every
    SR anew; meanwhile no VM can start there with a disk of it. Exits with 5 if a backend is dead; it is
    reported, and does not stop the others.

    \b
    Examples:
      xenvol sm setup
      xenvol sm setup --replug
      xenvol sm setup --json | jq '.[] | select(.error) | .error.message'
    """
    terminal = service.terminal
    with service.manager("setting up the backends") as manager:
        reports = manager.do_setup(replug=replug, progress=terminal.progress)
        labels = labels_of(manager, [report.backend for report in reports])
    values = [
        {
            "backend": facts(report.backend, labels),
            "error": None if report.error is None else failures.as_json(report.error),
        }
        for report in reports
    ]
    rows: list[list[str | Text]] = [
        [
            str(report.backend.id),
            labels[report.backend.flavor_id],
            described(report.backend),
            Text("up", style="green") if report.error is None else Text("dead", style="red"),
            "" if report.error is None else str(report.error),
        ]
        for report in reports
    ]
    terminal.listing(values, ["BACKEND", "FLAVOR", "CONFIG", "STATE", "PROBLEM"], rows)
    if any(report.error is not None for report in reports):
        click.get_current_context().exit(NOT_WELL)


@click.command("stats")
@click.argument("flavor_label", metavar="[FLAVOR]", required=False)
@click.option(
    "--scan",
    is_flag=True,
    help="Ask the storage first. A scan drops the pool's record of a disk that is gone.",
)
@service_options
def stats(service: Service, flavor_label: str | None, scan: bool) -> None:
    """Show the sizes, the free room and the features of the backends.

    The numbers are read from the pool, for all flavors or for one. They are as old as the last operation of the
    storage driver; --scan makes them new, and shows which storage does not answer.

    \b
    Examples:
      xenvol sm stats
      xenvol sm stats --scan
      xenvol sm stats gold --json | jq 'map(.free) | add'
    """
    with service.manager("asking the pool about its SRs") as manager:
        found = manager.stats(flavor_label, scan=scan)
    service.terminal.listing(
        [each.as_dict() for each in found],
        ["BACKEND", "FLAVOR", "TYPE", "SIZE", "USED", "PROMISED", "FREE", "VOLUMES", "CAN", "PROBLEM"],
        [_stats_row(each) for each in found],
    )


@click.command("audit")
@click.option("--repair", is_flag=True, help="Repair what can be repaired without losing data.")
@click.option(
    "--scan/--no-scan",
    default=True,
    help="Ask the storage first (the default), or compare only what the pool has recorded.",
)
@service_options
def audit(service: Service, repair: bool, scan: bool) -> None:
    """Compare the database with the pool, and repair what a crash has left.

    First the storage of each backend is asked, so that a volume whose file or LUN is gone, and a lost mount, are
    found. That is an SR.scan: xapi drops its record of a disk that is gone, also while a VM has the disk. SRs of LUNs
    are not scanned; their LUNs are listed. --no-scan leaves the storage alone.

    It can run beside services that work. Exits with 5 while database and pool differ. --repair completes or
    undoes what dead processes began. It erases a VDI only if the VDI is marked as made for a volume, no volume is
    that VDI, and no VM has it.

    \b
    Examples:
      xenvol sm audit
      xenvol sm audit --no-scan
      xenvol sm audit --repair --json | jq .agrees
    """
    terminal = service.terminal

    def progress(text: str) -> None:
        terminal.progress(f"comparing {text}")

    with service.manager("comparing the database with the pool") as manager:
        report = manager.audit(repair=repair, scan=scan, progress=progress)
    if terminal.as_json:
        terminal.json(report.as_dict())
    else:
        if report.findings:
            rows = [_finding_row(finding) for finding in report.findings]
            terminal.table(["FINDING", "BACKEND", "WHAT", "REPAIRED"], rows)
        counts = {"backend": report.backends, "volume": report.volumes, "VDI": report.vdis}
        compared = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items())
        verdict = "database and pool agree" if report.agrees else "database and pool do not agree"
        terminal.say(f"{verdict}: {compared} compared", style="green" if report.agrees else "red")
    if not report.agrees:
        click.get_current_context().exit(NOT_WELL)


@click.command("rebuild")
@click.option(
    "--flavor",
    "flavors_of",
    multiple=True,
    metavar="SR=LABEL",
    help="The flavor of an SR that does not tell it, by the SR's uuid. May be given several times.",
)
@service_options
def rebuild(service: Service, flavors_of: tuple[str, ...]) -> None:
    """Write a lost database anew, from the marks that the pool has.

    Flavors, backends, volumes and snapshots that the database lacks are written; what it has stays as it is. So a
    database from a backup gets what was made since. No disk is touched. What no mark tells has a default, or is left
    out; the command says both. Exits with 5 if something is left out.

    \b
    Examples:
      xenvol sm rebuild
      xenvol sm rebuild --flavor 6f1f3a3e-3a0f-4e0a-9a3e-0c1f6f8f0a00=gold
    """
    terminal = service.terminal
    pairs = [each.partition("=") for each in flavors_of]
    for uuid, _, label in pairs:
        if not is_uuid(uuid) or not label:
            raise click.BadParameter("write SR-UUID=LABEL", param_hint="--flavor")
    labels = {uuid.lower(): label for uuid, _, label in pairs}
    with service.manager("reading the marks of the pool") as manager:
        report = manager.rebuild(flavors_of=labels, progress=terminal.progress)
    written = f"flavors {len(report.flavors)}, backends {len(report.backends)}, volumes {len(report.volumes)}"
    terminal.result(
        report.as_dict(),
        f"written: {written}",
        *(f"default: {each}" for each in report.defaults),
        *(f"left out: {each}" for each in report.left_out),
    )
    if report.left_out:
        click.get_current_context().exit(NOT_WELL)


@click.command("db_upgrade")
@database_options
def db_upgrade(service: Service) -> None:
    """Make the database's tables, or upgrade them to this release.

    Run it once for a new PostgreSQL or MariaDB database, and once for each new release, with the services
    stopped. A SQLite file gets its tables by itself.

    \b
    Examples:
      xenvol sm db_upgrade
      xenvol sm db_upgrade --database postgresql://xenvol@db.example.com/xenvol
    """
    database = Database(service.database)
    try:
        with service.terminal.working("upgrading the database"):
            database.upgrade()
    finally:
        database.close()
    url = masked(database.url)
    service.terminal.result(
        {"upgraded": True, "database": url}, f"the tables in {url} are those of this release"
    )


def _stats_row(stats: BackendStats) -> list[str | Text]:
    backend = stats.backend
    can = [need for need, feature in FEATURES.items() if backend.has(feature)]
    return [
        str(backend.id),
        stats.flavor.label,
        backend.sr_type,
        human_size(backend.physical_size),
        human_size(backend.physical_utilisation),
        human_size(backend.virtual_allocation),
        human_size(max(0, backend.free)),
        str(stats.volumes),
        ", ".join(can),
        Text(backend.problem or "", style="red"),
    ]


def _finding_row(finding: Finding) -> list[str | Text]:
    repaired: Any = Text("yes", style="green") if finding.repaired else Text("no", style="red")
    return [finding.kind, str(finding.backend_id), finding.text, repaired]
