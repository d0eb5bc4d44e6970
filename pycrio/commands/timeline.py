"""``pycrio status timeline``: where the time of the last calls went, as bars in the terminal or as a page."""

from __future__ import annotations

import html
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pycrio.commands.status import Client
from pycrio.errors import PycrioError

_BLOCKS = " ▏▎▍▌▋▊▉█"
_STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2rem;color:#1c2330;background:#fff}
h1{font-size:1.3rem}h2{font-size:1rem;margin:1.6rem 0 .3rem}
.sub{color:#667085;font-weight:normal}
svg{display:block;width:100%;min-width:700px;max-width:1100px}
text{font:12px system-ui,sans-serif;fill:#1c2330}
.bar{fill:#3b82c4}.bad{fill:#c2413b}.grid{stroke:#e4e7ec}.t{fill:#667085}
@media(prefers-color-scheme:dark){body{background:#14181f;color:#e4e7ec}text{fill:#e4e7ec}
.grid{stroke:#2b3340}.t,.sub{fill:#98a2b3;color:#98a2b3}}
"""


@dataclass(frozen=True, slots=True)
class Step:
    """Times in milliseconds; ``start`` from the start of the call."""

    name: str
    start: float
    duration: float
    failed: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A call with its steps in the order of their start; ``started`` in seconds since the epoch."""

    kind: str
    subject: str
    started: float
    duration: float
    state: str
    steps: tuple[Step, ...]

    @property
    def elsewhere(self) -> float:
        """Milliseconds that belong to no step."""
        covered, reach = 0.0, 0.0
        for step in self.steps:
            end = step.start + step.duration
            if end > reach:
                covered += end - max(reach, step.start)
                reach = end
        return max(0.0, self.duration - covered)


def fetch(client: Client, kinds: Sequence[str], last: int) -> list[Call]:
    """The last calls that the daemon remembers, oldest first."""
    found = client.document("/debug/timeline")
    if not isinstance(found, list):
        raise PycrioError("the daemon's timeline is not a list; is it of another version?")
    calls = [_call(entry) for entry in found if not kinds or entry["kind"] in kinds]
    return calls[-last:] if last > 0 else calls


def _call(entry: dict[str, Any]) -> Call:
    steps = (Step(s["name"], s["start"] / 1e6, s["duration"] / 1e6, bool(s["failed"])) for s in entry["steps"])
    state = "running" if entry["running"] else "failed" if entry["failed"] else "done"
    ordered = tuple(sorted(steps, key=lambda s: (s.start, -s.duration)))
    return Call(entry["kind"], entry["subject"], entry["started"] / 1e9, entry["duration"] / 1e6, state, ordered)


def text(calls: Iterable[Call], width: int = 0) -> str:
    """Bars for a terminal that is ``width`` columns wide (0: this one)."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    lines: list[str] = []
    for call in calls:
        mark = "" if call.state == "done" else f"  [{call.state}]"
        at = time.strftime("%H:%M:%S", time.localtime(call.started))
        lines.append(f"{at}  {call.kind}  {call.subject}  {_ms(call.duration)}{mark}")
        name_width = max([len(step.name) for step in call.steps] + [len("(elsewhere)")])
        room = max(10, width - name_width - 16)
        for step in call.steps:
            bar = _bar(step.start, step.duration, call.duration, room)
            failed = " ✗" if step.failed else ""
            lines.append(f"  {step.name:<{name_width}} {_ms(step.duration):>10} {bar.rstrip()}{failed}")
        if call.steps:
            lines.append(f"  {'(elsewhere)':<{name_width}} {_ms(call.elsewhere):>10}")
        lines.append("")
    return "\n".join(lines) if lines else "No calls yet.\n"


def _ms(value: float) -> str:
    return f"{value / 1000:.2f} s" if value >= 10_000 else f"{value:.1f} ms"


def _bar(start: float, duration: float, whole: float, room: int) -> str:
    if whole <= 0:
        return ""
    scale = room * 8 / whole
    left = min(int(start * scale), room * 8 - 1)
    length = max(1, min(round(duration * scale), room * 8 - left))
    cells = " " * (left // 8)
    head = left % 8
    if head:
        # A cell cannot be filled from its right side only: begin at the next one if there is enough to show.
        cells += " "
        length -= 8 - head
    return cells + "█" * (length // 8) + (_BLOCKS[length % 8] if length > 0 else "▏")


def page(calls: Sequence[Call]) -> str:
    """One self-contained HTML page with a picture per call."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>pycrio: where the time went</title><style>{_STYLE}</style>",
        f"<h1>Where the time went <span class=sub>{len(calls)} calls, {time.strftime('%Y-%m-%d %H:%M:%S')}</span></h1>",
    ]
    for call in calls:
        at = time.strftime("%H:%M:%S", time.localtime(call.started))
        note = f"{call.subject} · {_ms(call.duration)} · {at}" + ("" if call.state == "done" else f" · {call.state}")
        parts.append(f"<h2>{html.escape(call.kind)} <span class=sub>{html.escape(note)}</span></h2>")
        parts.append(_picture(call))
    return "\n".join(parts) + "\n</html>\n"


def _picture(call: Call) -> str:
    left, right, row = 220, 1000, 22
    scale = (right - left) / (call.duration or 1.0)
    height = row * (len(call.steps) + 1) + 6
    out = [f"<svg viewBox='0 0 1100 {height}' role=img aria-label='{html.escape(call.kind, quote=True)}'>"]
    for part in range(5):
        x = left + (right - left) * part / 4
        out.append(f"<line class=grid x1='{x:.0f}' x2='{x:.0f}' y1='0' y2='{height - row}'/>")
        out.append(f"<text class=t x='{x:.0f}' y='{height - 6}'>{_ms(call.duration * part / 4)}</text>")
    for number, step in enumerate(call.steps):
        y = number * row
        width = max(1.0, step.duration * scale)
        name = html.escape(step.name)
        out.append(f"<text x='0' y='{y + 15}'>{name}</text>")
        out.append(
            f"<rect class='{'bad' if step.failed else 'bar'}' x='{left + step.start * scale:.1f}' y='{y + 3}' rx='2' "
            f"width='{width:.1f}' height='{row - 6}'><title>{name}: {_ms(step.duration)}</title></rect>"
        )
        end = left + step.start * scale + width + 6
        out.append(f"<text class=t x='{min(end, 1030.0):.1f}' y='{y + 15}'>{_ms(step.duration)}</text>")
    return "\n".join([*out, "</svg>"])
