"""The table as one HTML page that needs no other file."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nnunetv2_selfreg.leaderboard.figures import bars, differences
from nnunetv2_selfreg.leaderboard.metrics import METRICS, RULES
from nnunetv2_selfreg.leaderboard.protocols import BENCHMARKS
from nnunetv2_selfreg.leaderboard.results import MEAN

if TYPE_CHECKING:
    from nnunetv2_selfreg.leaderboard.table import Grid, Summary

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 78rem; margin: 2rem auto; padding: 0 1.5rem }
h2 { border-top: 2px solid #1a1a1a; padding-top: .6rem; margin-top: 3rem }
h3 { margin: 2rem 0 .3rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums }
h4 { margin: 1rem 0 .3rem }
th, td { padding: .2rem .55rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 13rem }
thead th { border-top: 2px solid; border-bottom: 1px solid }
tbody tr:last-child td { border-bottom: 2px solid }
tr.rule td { border-top: 1px solid #888 }
.warning { background: #fff3cd; border-left: 4px solid #b36b00; padding: .5rem .8rem; margin: .6rem 0 }
.notes { font-size: 13px; color: #444; padding-left: 1.2rem }
.figures { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-end }
figure { margin: 0; display: table }
figure img { max-width: 100%; height: auto }
figcaption { display: table-caption; caption-side: bottom; font-size: 13px; color: #444 }
""".strip()


def html(sections: Sequence["Summary"]) -> str:
    """Writes every section with its tables, figures and notes."""
    links = [f'<a href="#s{number}">{escape(summary.title)}</a>' for number, summary in enumerate(sections)]
    body = [f"<nav>{' · '.join(links)}</nav>"]
    for number, summary in enumerate(sections):
        body.append(f'<h2 id="s{number}">{escape(summary.title)}</h2>')
        for warning in summary.warnings:
            body.append(f'<p class="warning"><strong>{escape(warning)}</strong></p>')
        for part in summary.content["measures"]:
            for level, grid in zip((3, 4), summary.grids(part), strict=False):
                body += [f"<h{level}>{escape(grid.title)}</h{level}>", _table(grid)]
            body += _notes(summary.notes(part))
            body.append(f'<div class="figures">{"".join(_figures(summary, part))}</div>')
        body += ["<h3>How to read this, and what it is made of</h3>", *_notes(summary.footer)]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        f"<head>{head}<title>Leaderboard</title>",
        f"<style>{_STYLE}</style>",
    ]
    return "\n".join([*lines, "</head>", "<body>", "<h1>Leaderboard</h1>", *body, "</body>", "</html>"]) + "\n"


def _figures(summary: "Summary", part: dict[str, Any]) -> list[str]:
    classes = list(BENCHMARKS[summary.section.benchmark].classes)
    shown = [MEAN, *classes] if len(classes) > 1 else [MEAN]
    metric, rule = part["metric"], part["rule"]
    what = f"{METRICS[metric].title}, {RULES[rule]}"
    caption = f"{what}: mean by class; error bars: deviation over runs"
    found = [_figure(bars(part["rows"], metric, shown), caption)]
    for pair, row in zip(summary.section.pairs, part["differences"], strict=True):
        picture = differences(pair, rule, metric, shown, row["classes"])
        better = "above 0 is better" if METRICS[metric].higher_is_better else "below 0 is better"
        caption = f"{what}: {row['selfreg']} minus {row['stock']}, one point per case; {better}"
        found.append(_figure(picture, caption))
    return found


def _figure(svg: bytes, caption: str) -> str:
    source = b64encode(svg).decode()
    caption = escape(caption)
    image = f'<img src="data:image/svg+xml;base64,{source}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(grid: "Grid") -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in grid.header)
    rows = []
    for number, row in enumerate(grid.rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        rows.append(f'<tr class="rule">{cells}</tr>' if number in grid.rules else f"<tr>{cells}</tr>")
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table>{body}</table></div>'


def _notes(lines: Sequence[str]) -> list[str]:
    return ['<ul class="notes">', *(f"<li>{escape(line)}</li>" for line in lines), "</ul>"] if lines else []
