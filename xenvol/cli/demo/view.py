"""Print the results of the demo for people, with rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from xenvol.amounts import human_size
from xenvol.cli.demo.control import anonymous
from xenvol.cli.demo.facts import Call, Host, Step, Story, Trial

WIDTH = 100
_ACCENT = "cyan"
_GOOD = "green"
_BAD = "red"


def show(story: Story, console: Console) -> None:
    """Print the results, no wider than `WIDTH`, and no wider than the terminal, if there is one."""
    if not console.is_terminal:
        console.width = WIDTH
    for part in _parts(story):
        console.print(part, width=min(WIDTH, console.width))


def _parts(story: Story) -> Iterable[RenderableType]:
    yield _title(story)
    yield _section("Attach", f"the disks of {story.vm}, and each volume's calls: number and milliseconds")
    yield _disks(story)
    yield ""
    yield _calls(story.attached)
    yield _section("Detach", "and what xenvol made for the volumes is removed; what was there before stays")
    yield _calls(story.detached)
    yield _section("When something fails", "the same attach again, with faults ordered from the simulator")
    normal = {step.driver: len(step.calls) for step in story.attached}
    yield _trial(story.refused, normal[story.refused.driver], "xapi says no")
    yield _trial(story.unanswered, normal[story.unanswered.driver], "xapi says nothing")
    yield _section("What is left", "the pool now, compared with the pool at the start")
    yield _left(story)
    yield _verdict(story)


def _section(title: str, about: str) -> RenderableType:
    heading = Text.assemble((title, f"bold {_ACCENT}"), (f"  {about} ", "dim"))
    return Padding(Rule(heading, align="left", style="dim"), (1, 0, 0, 0))


def _title(story: Story) -> RenderableType:
    what = (
        f"{len(story.attached)} volumes are attached to a running VM and detached again; two attempts meet a fault. "
        "Then the pool is compared with what it was."
    )
    how = f"xapi {story.version}, simulated on the loopback; the official XenAPI client, over the wire"
    return Panel(
        Group(
            what,
            Text(""),
            Text("   ").join(_host(host, story) for host in story.hosts),
            Text(how, style="dim"),
        ),
        title=Text("xenvol demo", style="bold"),
        title_align="left",
        border_style=_ACCENT,
        box=box.ROUNDED,
        padding=(0, 1),
    )


def _host(host: Host, story: Story) -> Text:
    text = Text.assemble((host.name, "bold"), f" {host.address}")
    if host.is_master:
        text.append(" master", style="dim")
    if host.name == story.vm_host:
        text.append(f" ▸ VM {story.vm}", style=_ACCENT)
    return text


def _disks(story: Story) -> RenderableType:
    table = _table()
    table.add_column("device", width=9)
    table.add_column("size", width=6, justify="right")
    table.add_column("driver", width=7)
    table.add_column("volume")
    table.add_column("in SR")
    for disk in story.disks:
        is_ours = disk.driver is not None
        table.add_row(
            Text(f"/dev/{disk.device}", style="bold" if is_ours else ""),
            human_size(disk.size),
            Text(disk.driver or "–", style=_ACCENT if is_ours else ""),
            _in_one_line(disk.about),
            _in_one_line(disk.sr),
            style="" if is_ours else "dim",
        )
    return table


def _calls(steps: Sequence[Step]) -> RenderableType:
    """Make a table with a row for each call and a column for each volume: the call's number and its milliseconds."""
    table = _table()
    table.add_column("call", width=28)
    table.add_column("", style="dim")
    for step in steps:
        table.add_column(Text(step.driver, style=_ACCENT), width=7, justify="right")
    columns = [_numbered(step.calls) for step in steps]
    for key in _merged([list(column) for column in columns]):
        called = [column.get(key) for column in columns]
        is_change = any(call.is_change for call in called if call is not None)
        table.add_row(
            Text(key[0], style="" if is_change else "dim"), _in_one_line(key[1]), *map(_cell, called)
        )
    totals = (str(len(step.calls)) for step in steps)
    table.add_row(Text("calls in all", style="bold"), "", *(Text(total, style="bold") for total in totals))
    return table


def _in_one_line(text: str) -> Text:
    """Return the text for a column that is cut in a narrow terminal."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _table() -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        header_style="bold",
        show_edge=False,
        padding=(0, 1, 0, 0),
    )


_Key = tuple[str, str, int]
"""A call's name, what it was for, and how many such calls came before it."""


def _numbered(calls: Iterable[Call]) -> dict[_Key, Call]:
    keyed: dict[_Key, Call] = {}
    for call in calls:
        times = sum(key[:2] == (call.call, call.about) for key in keyed)
        keyed[call.call, call.about, times] = call
    return keyed


def _merged(columns: Iterable[list[_Key]]) -> list[_Key]:
    """Return all keys, in an order that agrees with each column as far as the columns agree."""
    merged: list[_Key] = []
    for column in columns:
        place = len(merged)
        for key in reversed(column):
            if key in merged:
                place = merged.index(key)
            else:
                merged.insert(place, key)
    return merged


def _cell(call: Call | None) -> Text:
    if call is None:
        return Text("")
    digits = 1 if call.milliseconds < 99.95 else 0  # a busy machine
    return Text.assemble((f"{call.n}", "dim"), f" {call.milliseconds:4.{digits}f}")


def _trial(trial: Trial, normal: int, title: str) -> RenderableType:
    """Show a trial; `normal` is the number of calls of the same attach without a fault."""
    rows: list[tuple[str, str | Text]] = [("ordered", trial.ordered)]
    after = trial.calls[trial.struck :] if trial.struck else []
    if trial.error is not None:
        undone = [call.call for call in after if call.is_change and call.outcome == "success"]
        rows += [
            ("error", Text(f"{trial.error['type']}: {trial.error['message']}", style=_BAD)),
            ("hint", str(trial.error["hint"])),
            ("undone", " · ".join(undone)),
            ("the pool", _as_it_was(trial.left)),
            ("again", f"the same call completes: /dev/{trial.device}, {len(trial.retry_calls)} calls"),
        ]
    elif trial.struck is None:
        rows += [("the fault", Text("never struck: the call was not made", style=_BAD))]
    else:
        asked = " · ".join(f"{call.call} – {call.about}" for call in after[:1])
        rows += [
            ("then", f"{asked} It did, so the attach continues"),
            ("done", f"/dev/{trial.device}, {len(trial.calls)} calls instead of {normal}"),
            ("the pool", _as_it_was(trial.left)),
        ]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", width=10)
    grid.add_column()
    for name, fact in rows:
        grid.add_row(name, fact)
    return Panel(grid, title=f"{title} ({trial.driver})", title_align="left", border_style="dim")


def _as_it_was(left: list[str]) -> Text:
    if not left:
        return Text("as it was before", style=_GOOD)
    return Text("\n".join(["not as it was:", *left]), style=_BAD)


def _left(story: Story) -> RenderableType:
    known = story.left_by_the_pool
    text = Text()
    text.append(
        f"{story.objects} objects, every field; sessions, mounts and files of {len(story.hosts)} hosts and of the "
        "servers. "
    )
    if known:
        text.append(
            f"{len(known)} lines differ, all of xapi's and its storage drivers' own doing: the bare XenAPI client, "
            "without xenvol, leaves the same ones on a pool of its own.\n",
        )
        text.append("\n".join(f"  {anonymous(line)}" for line in known), style="dim")
    return text


def _verdict(story: Story) -> RenderableType:
    took = f"{story.calls} calls, {story.seconds:.1f} s"
    trials = (story.refused, story.unanswered)
    survived = sum(trial.is_survived for trial in trials)
    what = f"{len(story.attached)} volumes attached and detached, {survived} of {len(trials)} faults survived; {took}."
    if story.is_clean:
        text = Text.assemble(("✓ xenvol left nothing: ", f"bold {_GOOD}"), what)
    else:
        lines = [Text(f"  {line}\n", style=_BAD) for line in story.left]
        text = Text.assemble(*lines, (f"✗ xenvol left {len(story.left)} things: ", f"bold {_BAD}"), what)
    return Padding(text, (1, 0, 0, 0))
