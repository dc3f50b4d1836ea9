"""Draw `architecture.svg`: the rooms of the server by layer, and the way of one request.

    python docs/pictures/architecture.py            writes the picture
    python docs/pictures/architecture.py --check    exits 1 if it is not up to date

The layers are those of the import contract in pyproject.toml, and what a room owns is the first
sentence of its `__init__.py`: a drawing that contradicts the code fails `make check`.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "server" / "lanewise"
PICTURE = Path(__file__).with_suffix(".svg")

WIDTH = 960
MARGIN = 24
GAP = 11
STEP_GAP = 34
LINE = 15
FLOW_TOP = 44
FLOW_HEIGHT = 122
LAYERS_TOP = FLOW_TOP + FLOW_HEIGHT + 68

STYLE = """
svg { font-family: system-ui, sans-serif; background: #ffffff; }
text { fill: #1b1f24; font-size: 14px; }
.soft { fill: #57606a; font-size: 12px; }
.name, .title { font-weight: 600; }
.room { fill: #f3f6f9; stroke: #8c959f; }
.process { fill: #eaf2fb; stroke: #8c959f; stroke-dasharray: 5 4; }
.way { stroke: #0b63c4; stroke-width: 1.6; fill: none; marker-end: url(#head); }
.down { stroke: #8c959f; fill: none; marker-end: url(#end); }
.head { fill: #0b63c4; }
.end { fill: #8c959f; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; }
text { fill: #e6edf3; }
.soft { fill: #9aa4ae; }
.room { fill: #161b22; stroke: #6e7681; }
.process { fill: #10233a; stroke: #6e7681; }
.way { stroke: #6cb0ff; }
.head { fill: #6cb0ff; }
}
"""

FLOW = (
    ("client", "any KServe v2 client"),
    ("rpc", "parse, check, decode;", "encode the response"),
    ("ipc", "tensors in shared", "memory, records over", "a Unix socket"),
    ("scheduler", "choose the lane, the", "batch and the moment"),
    ("backends", "a runner per profile:", "context, stream, buffers"),
)
"""What a request passes, in order: name and lines of text."""

PROCESSES = (("front end: 1 to N processes", 1, 1), ("engine: one process", 3, 4))
"""Which of these a process holds: title, first and last."""


def draw() -> str:
    """Get the picture as SVG."""
    rooms, height = _layers(list(rooms_by_layer()))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        'aria-labelledby="title">',
        '<title id="title">The rooms of the server by layer, and the way of one request</title>',
        f"<style>{STYLE}</style>",
        "<defs>",
        *(_arrow_head(kind) for kind in ("head", "end")),
        "</defs>",
        *_flow(),
        *rooms,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def rooms_by_layer() -> Iterator[list[tuple[str, str]]]:
    """List the rooms of each layer, from the top: name, and what it owns."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (layers,) = (each["layers"] for each in contracts["contracts"] if each["id"] == "layers")
    for layer in layers:
        names = [name.strip(" ()") for name in re.split(r"[|:]", layer)]
        rooms = [(name, purpose) for name in names if (purpose := _purpose(name))]
        if rooms:
            yield rooms


def _purpose(name: str) -> str:
    """Get the first sentence about a room; empty for the stub that is no room."""
    if name == "__main__":
        return ""
    package, module = PACKAGE / name / "__init__.py", PACKAGE / f"{name}.py"
    text = ast.get_docstring(ast.parse((package if package.exists() else module).read_text()))
    first = " ".join((text or "").split()).split(". ")[0].rstrip(".")
    return first.removeprefix("Owns ").replace("`", "")


def _arrow_head(kind: str) -> str:
    return (
        f'<marker id="{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path class="{kind}" d="M0 0 8 4 0 8z"/></marker>'
    )


def _flow() -> Iterator[str]:
    width = (WIDTH - 2 * MARGIN - (len(FLOW) - 1) * STEP_GAP) / len(FLOW)
    lefts = [MARGIN + at * (width + STEP_GAP) for at in range(len(FLOW))]
    yield _text(MARGIN, FLOW_TOP - 18, "One request", "title")
    for title, first, last in PROCESSES:
        left, right = lefts[first] - GAP, lefts[last] + width + GAP
        yield _box(left, FLOW_TOP, right - left, FLOW_HEIGHT, "process")
        yield _text(lefts[first], FLOW_TOP + FLOW_HEIGHT - 10, title, "soft")
    top = FLOW_TOP + 14
    height = max(_room_height(lines) for _, *lines in FLOW)
    for left, (name, *lines) in zip(lefts, FLOW, strict=True):
        yield _room(left, top, (width, height), name, lines)
    for left in lefts[1:]:
        start, end = left - STEP_GAP + 3, left - 3
        yield f'<path class="way" d="M{start:.0f} {top + 24}H{end:.0f}"/>'
        yield f'<path class="way" d="M{end:.0f} {top + 46}H{start:.0f}"/>'
    below = "With --frontends 0 both are one process, and rpc calls the scheduler directly."
    yield _text(MARGIN, FLOW_TOP + FLOW_HEIGHT + 20, below, "soft")


def _layers(layers: Sequence[list[tuple[str, str]]]) -> tuple[list[str], float]:
    """Draw the rooms; get them, and where they end."""
    parts = [_text(MARGIN, LAYERS_TOP - 14, "Rooms: imports point down, never up", "title")]
    top: float = LAYERS_TOP
    for depth, rooms in enumerate(layers):
        if depth:
            parts.append(f'<path class="down" d="M{WIDTH / 2:.0f} {top - GAP:.0f}v{GAP}"/>')
        width = (WIDTH - 2 * MARGIN - (len(rooms) - 1) * GAP) / len(rooms)
        texts = [textwrap.wrap(purpose, int((width - 20) / 6.3)) for _, purpose in rooms]
        height = max(map(_room_height, texts))
        for at, ((name, _), lines) in enumerate(zip(rooms, texts, strict=True)):
            left = MARGIN + at * (width + GAP)
            parts.append(_room(left, top, (width, height), name, lines))
        top += height + GAP
    return parts, top - GAP + MARGIN


def _room_height(lines: Sequence[str]) -> float:
    return 34 + LINE * len(lines)


def _room(
    left: float, top: float, size: tuple[float, float], name: str, lines: Sequence[str]
) -> str:
    texts = (_text(left + 10, top + 38 + LINE * at, line, "soft") for at, line in enumerate(lines))
    box = _box(left, top, *size, kind="room")
    return "\n".join((box, _text(left + 10, top + 20, name, "name"), *texts))


def _box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" '
        'rx="6"/>'
    )


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def main() -> None:
    """Write the picture, or check it."""
    picture = draw()
    if "--check" in sys.argv[1:]:
        if not PICTURE.exists() or PICTURE.read_text(encoding="utf-8") != picture:
            sys.exit(f"{PICTURE.relative_to(ROOT)} is out of date; run python {sys.argv[0]}")
        return
    PICTURE.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
