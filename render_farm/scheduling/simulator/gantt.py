"""The simulated night as a picture: a row a GPU, a bar a segment, as SVG or as an HTML page around it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from render_farm.scheduling.events import JobKey
from render_farm.scheduling.simulator.outcome import Outcome

_WIDTH, _LEFT, _TOP, _BOTTOM = 1600, 70, 44, 26
_COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#aa3377", "#ee8866", "#44bb99", "#99ddff")
_LOADING, _LOST, _DOWN = "#bbbbbb", "#dd2222", "#222222"


def draw_svg(outcome: Outcome, labels: Mapping[JobKey, str], *, gpus_per_node: int) -> str:
    """`labels` are what films are coloured by: their models. One path a colour keeps a large farm's picture small."""
    row = 12 if outcome.num_gpus <= 64 else 3 if outcome.num_gpus <= 256 else 2
    height = _TOP + row * outcome.num_gpus + _BOTTOM
    scale = (_WIDTH - _LEFT - 10) / max(outcome.makespan_s, 1e-9)
    names = sorted(set(labels.values()))
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
    paths: dict[str, list[str]] = {}

    def bar(colour: str, gpu: int, begin_s: float, end_s: float) -> None:
        x, width = _LEFT + begin_s * scale, max(0.2, (end_s - begin_s) * scale - (0.4 if row > 3 else 0.05))
        thick = row - 1 if row > 3 else row
        paths.setdefault(colour, []).append(f"M{x:.1f} {_TOP + gpu * row}h{width:.1f}v{thick}h-{width:.1f}z")

    for span in outcome.spans:
        for gpu in span.workers:
            if span.is_lost:
                bar(_LOST, gpu, span.begin_s, span.end_s)
                continue
            begun_s = span.begin_s + span.loading_s
            if span.loading_s * scale > 0.3:
                bar(_LOADING, gpu, span.begin_s, begun_s)
            bar(colours[labels[span.film]], gpu, begun_s, span.end_s)
    for gpu, begin_s, end_s in outcome.down_s:
        bar(_DOWN, gpu, begin_s, min(end_s, outcome.makespan_s))
    bars = [f'<path fill="{colour}" d="{"".join(parts)}"/>' for colour, parts in paths.items()]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
            f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>',
            *_legend(colours),
            *_nodes(outcome.num_gpus, gpus_per_node, row),
            *bars,
            *_hours(outcome.makespan_s, scale, height),
            "</svg>",
        ]
    )


def draw_html(svg: str, title: str, lines: list[str]) -> str:
    """A page with the picture and what was printed."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
        f'<body style="font-family:sans-serif"><h1 style="font-size:18px">{escape(title)}</h1>'
        f"<pre>{escape(chr(10).join(lines))}</pre>{svg}</body></html>\n"
    )


def _legend(colours: Mapping[str, str]) -> list[str]:
    shown = [*colours.items(), ("loading", _LOADING), ("rendered again", _LOST), ("GPU away", _DOWN)]
    parts, x = [], _LEFT
    for name, colour in shown:
        parts.append(f'<rect x="{x}" y="8" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="17">{escape(name)}</text>')
        x += 30 + 7 * len(name)
    return parts


def _nodes(num_gpus: int, gpus_per_node: int, row: int) -> list[str]:
    num_nodes = -(-num_gpus // gpus_per_node)
    every = max(1, -(-14 // (row * gpus_per_node)))
    return [
        f'<text x="4" y="{_TOP + node * gpus_per_node * row + 10}">node {node}</text>'
        for node in range(0, num_nodes, every)
    ]


def _hours(makespan_s: float, scale: float, height: int) -> list[str]:
    step_s = next((step for step in (60, 300, 900, 3600, 7200, 14400, 43200) if makespan_s / step <= 16), 86400)
    parts = []
    for number in range(int(makespan_s // step_s) + 1):
        at_s = number * step_s
        x = _LEFT + at_s * scale
        label = f"{at_s / 3600:g} h" if step_s >= 3600 else f"{at_s / 60:g} min"
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{height - _BOTTOM}" stroke="#0003"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{label}</text>')
    return parts
