"""The simulator's command line: ``serve`` one, or ``replay`` recordings against fresh ones."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from xenvol.simulator.journal import Entry
from xenvol.simulator.replay import Divergence, replay
from xenvol.simulator.simulator import Simulator
from xenvol.simulator.sm.worldfile import WorldError
from xenvol.simulator.worlds import NAMES
from xenvol.simulator.xapi import HOST_ASSUMED_DEAD_INTERVAL

_DEFAULT_VERSION = "v24.16.0"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 for success, 1 when a replay diverges, 2 when the command is wrong."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m xenvol.simulator", description="A xapi simulator.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="serve a pool until interrupted")
    serve.set_defaults(run=_serve)
    serve.add_argument(
        "--port", type=int, default=0, help="port of every host; 0, the default, takes a free one"
    )
    serve.add_argument(
        "--world", metavar="FILE", help=f"a world file, or one of {', '.join(NAMES)} (default: an empty pool)"
    )
    serve.add_argument("--xapi-version", default=_DEFAULT_VERSION, metavar="V", help="default: %(default)s")
    serve.add_argument("--tls", action="store_true", help="serve HTTPS with the package's certificate")
    serve.add_argument("--hosts", type=int, metavar="N", help="number of hosts of an empty pool; default: 1")
    serve.add_argument(
        "--storage-delays", action="store_true", help="let storage take the time that real storage takes"
    )
    serve.add_argument(
        "--host-assumed-dead-interval",
        type=float,
        default=HOST_ASSUMED_DEAD_INTERVAL,
        metavar="SECONDS",
        help="after so many seconds of silence a host counts as dead; default: %(default)g",
    )
    serve.add_argument("-v", "--verbose", action="store_true", help="print every call")

    player = commands.add_parser("replay", help="replay recordings of a real xapi and print every difference")
    player.set_defaults(run=_replay)
    player.add_argument("files", nargs="+", type=Path, metavar="FILE")
    player.add_argument(
        "--xapi-version",
        metavar="V",
        help=f"default: the release in the file's path (v25.33.1/…, v24-walk…), else {_DEFAULT_VERSION}",
    )
    player.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    player.add_argument(
        "--extra-fields-ok",
        action="store_true",
        help="accept fields of records that the recording does not have",
    )
    return parser


def _serve(options: argparse.Namespace) -> int:
    try:
        simulator = Simulator(
            options.xapi_version,
            world=options.world,
            hosts=options.hosts,
            port=options.port,
            tls=options.tls,
            storage_delays=options.storage_delays,
            host_assumed_dead_interval=options.host_assumed_dead_interval,
        )
    except WorldError as error:
        print(f"world file: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.verbose:
        simulator.journal.listener = _print_call
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    try:
        simulator.start()
    except OSError as error:
        simulator.close()
        print(f"cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
        return 2
    with simulator:
        print(_greeting(simulator), flush=True)
        interrupted.wait()
    print("stopped", flush=True)
    return 0


def _greeting(simulator: Simulator) -> str:
    verify = "" if not simulator.tls else ", ignore_ssl=True"
    lines = [
        f"xapi {simulator.version} simulator: {simulator.url}",
        *(f"  member: {url}" for url in simulator.urls if url != simulator.url),
        f"user {simulator.user}, password {simulator.password}",
    ]
    if simulator.tls:
        lines.append(f"certificate: {simulator.ca_file}")
    lines += [
        f"help, faults, journal, snapshots: {simulator.url}/simulator",
        "",
        "    import XenAPI",
        f'    session = XenAPI.Session("{simulator.url}"{verify})',
        f'    session.login_with_password("{simulator.user}", "{simulator.password}")',
        "    session.xenapi.host.get_all_records()",
        "",
        "Ctrl-C stops it.",
    ]
    return "\n".join(lines)


def _print_call(entry: Entry) -> None:
    milliseconds = (entry.seconds or 0) * 1000
    error = "" if entry.error is None or len(entry.error) < 2 else f" {list(entry.error[1:])}"
    print(f"{entry}{error} {milliseconds:.1f} ms", flush=True)


def _replay(options: argparse.Namespace) -> int:
    def report(divergence: Divergence) -> None:
        if not options.json:
            print(divergence, flush=True)

    try:
        total = replay(
            options.files,
            version=options.xapi_version and options.xapi_version.removeprefix("v"),
            extra_fields_ok=options.extra_fields_ok,
            report=report,
        )
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(total.as_json(), indent=1, ensure_ascii=False) if options.json else total)
    return 1 if total.divergences else 0


if __name__ == "__main__":
    sys.exit(main())
