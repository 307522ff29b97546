"""The table as Markdown and as LaTeX."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_selfreg.leaderboard.table import Grid, Summary

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "_%&#${}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
}


def markdown(sections: Sequence["Summary"]) -> str:
    """Writes every section with its tables and notes."""
    lines = ["# Leaderboard"]
    for summary in sections:
        lines += ["", f"## {summary.title}"]
        for warning in summary.warnings:
            lines += ["", f"> **{_markdown_escaped(warning)}**"]
        for part in summary.content["measures"]:
            for grid in summary.grids(part):
                lines += ["", f"**{_markdown_escaped(grid.title)}**", "", *_markdown_grid(grid)]
            lines += ["", *(f"- {_markdown_escaped(line)}" for line in summary.notes(part))]
        lines += ["", *(f"- {_markdown_escaped(line)}" for line in summary.footer)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def latex(sections: Sequence["Summary"]) -> str:
    """Writes every table as a float, to be read with `\\input` after `\\usepackage{booktabs}`."""
    lines = [r"% \usepackage{booktabs}"]
    for summary in sections:
        for part in summary.content["measures"]:
            scores, *others = summary.grids(part)
            lines += ["", *_latex_grid(scores, [*summary.warnings, *summary.notes(part)])]
            for grid in others:
                lines += ["", *_latex_grid(grid, summary.warnings)]
        lines += ["", r"\begin{itemize}"]
        lines += [rf"  \item {escape(line)}" for line in summary.footer]
        lines += [r"\end{itemize}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Writes text so that LaTeX prints it as it is."""
    return "".join(_LATEX.get(character, character) for character in text)


def _markdown_grid(grid: "Grid") -> list[str]:
    rows = [[_markdown_escaped(cell) for cell in row] for row in (grid.header, *grid.rows)]
    align = ["---", *["---:"] * (len(grid.header) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (rows[0], align, *rows[1:])]


def _markdown_escaped(text: str) -> str:
    return re.sub(r"([|_*<\[\]])", r"\\\1", text)


def _latex_grid(grid: "Grid", notes: Sequence[str]) -> list[str]:
    rows = []
    for number, row in enumerate(grid.rows):
        if number in grid.rules:
            rows.append(r"  \midrule")
        rows.append("  " + " & ".join(map(escape, row)) + r" \\")
    return [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escape(f'{grid.place}: {grid.title}')}}}",
        rf"  \begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
        r"  \toprule",
        "  " + " & ".join(map(escape, grid.header)) + r" \\",
        r"  \midrule",
        *rows,
        r"  \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\footnotesize {escape(note)}" for note in notes),
        r"\end{table}",
    ]
