"""Tables of results: one value, rendered for a terminal, as HTML and as Markdown."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from rich import table as rich_table
from rich.box import SIMPLE_HEAD
from rich.console import JustifyMethod
from rich.text import Text

from catae.system.text import printable

NONE = "\N{EN DASH}"  # the text of a cell without a value
BEST = "* "
MARKDOWN = re.compile(r"[\\`*_{}\[\]()<>#+\-.!|~&]")
NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?%?")


@dataclass(frozen=True)
class Cell:
    """A cell: its text, whether it is the best of its score, a small note after it, and a link.

    The link is a quoted path or URL. Only HTML shows it.
    """

    text: str
    best: bool = False
    note: str = ""
    link: str | None = None


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether its cells are numbers, aligned to the right, and whether they are code."""

    heading: Cell
    numeric: bool = False
    code: bool = False


@dataclass(frozen=True)
class Table:
    """A table. The first cell of each row is the row's heading.

    Attributes:
        title: shown in terminals and Markdown; empty if the text around the table states it.
        columns: from left to right.
        rows: a cell for each column.
        note: what the numbers are, or which rows are left out; shown below the table.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...] = field(repr=False)
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of the table {self.title!r} does not have a cell for each column")

    @property
    def has_best(self) -> bool:
        """Whether a cell is marked as the best."""
        return any(cell.best for row in self.rows for cell in row)

    def select(self, columns: Iterable[int]) -> "Table":
        """Return the table with the first column and these others, by number, from 1."""
        wanted = [0, *columns]
        rows = tuple(tuple(row[number] for number in wanted) for row in self.rows)
        return Table(self.title, tuple(self.columns[number] for number in wanted), rows, self.note)

    def transposed(self) -> "Table":
        """Return the table with a column for each row, aligned to the right."""
        columns = (self.columns[0], *(Column(row[0], numeric=True) for row in self.rows))
        rows = tuple(
            (column.heading, *(row[number] for row in self.rows))
            for number, column in enumerate(self.columns[1:], start=1)
        )
        return Table(self.title, columns, rows, self.note)

    def __html__(self) -> str:
        """Return the table as HTML; Jinja calls this."""
        return to_html(self)


def column(heading: str, note: str = "", numeric: bool = False, code: bool = False) -> Column:
    """Return a column whose heading is text, with a note."""
    return Column(Cell(heading, note=note), numeric, code)


def row(*cells: Cell | str) -> tuple[Cell, ...]:
    """Return a row of cells and of texts."""
    return tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in cells)


def to_text(
    table: Table, dense: bool = False, max_width: int | None = None, bold: Sequence[int] = ()
) -> rich_table.Table:
    """Return the table for a terminal, without its title and its note.

    Args:
        table: the table. Its text is neither markup nor control sequences.
        dense: whether one space separates columns instead of three.
        max_width: characters of all cells but the first of each row, after which they are folded. The first is not.
        bold: indices of the rows that are bold.
    """
    made = rich_table.Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0 if dense else (0, 1))
    for number, each in enumerate(table.columns):
        justify: JustifyMethod = "right" if each.numeric else "left"
        whole = each.numeric or (not number and max_width is not None)  # a folded number would be read as two
        width = max_width if number else None
        made.add_column(_styled(each.heading), justify=justify, overflow="fold", max_width=width, no_wrap=whole)
    for number, cells in enumerate(table.rows):
        made.add_row(*map(_styled, cells), style="bold" if number in bold else "")
    return made


def _styled(cell: Cell) -> Text:
    text = " ".join(filter(None, (printable(cell.text), printable(cell.note))))
    return Text(BEST + text, style="bold") if cell.best else Text(text)


def to_html(table: Table) -> str:
    """Return the table as an HTML table, without its title and its note. Texts are escaped."""
    heads = "".join(f'<th scope="col"{_align(column)}>{_markup(column.heading)}</th>' for column in table.columns)
    lines = "\n".join(f"<tr>{_html_cells(table, cells)}</tr>" for cells in table.rows)
    return f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>"


def _html_cells(table: Table, cells: Sequence[Cell]) -> str:
    first, *rest = zip(table.columns, cells, strict=True)
    heading = f'<th scope="row"{_align(first[0])}>{_markup(first[1], first[0].code, breaks=True)}</th>'
    return heading + "".join(f"<td{_align(column)}>{_markup(cell, column.code)}</td>" for column, cell in rest)


def _align(column: Column) -> str:
    return ' class="number"' if column.numeric else ""


def _markup(cell: Cell, code: bool = False, breaks: bool = False) -> str:
    text = escape(printable(cell.text))
    text = text.replace("_", "_<wbr>") if breaks else text  # a browser may break the name of a setting there
    for tag, wanted in (("code", code), ("b", cell.best)):
        text = f"<{tag}>{text}</{tag}>" if wanted else text
    text = f'<a href="{escape(cell.link)}">{text}</a>' if cell.link else text
    return f'{text} <small class="soft">{escape(printable(cell.note))}</small>' if cell.note else text


def to_markdown(table: Table) -> str:
    """Return the table in GitHub's Markdown, with its title as a heading of level 2 and its note below it."""
    heads = [_marked(column.heading) for column in table.columns]
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    body = [[_marked(cell, c.code) for c, cell in zip(table.columns, cells, strict=True)] for cells in table.rows]
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *body))
    title = f"## {plain(table.title)}" if table.title else ""
    return "\n\n".join(filter(None, (title, lines, plain(table.note))))


def _marked(cell: Cell, code: bool = False) -> str:
    text = f"`{printable(cell.text).replace('`', chr(39)).replace('|', chr(92) + '|')}`" if code else plain(cell.text)
    text = f"**{text}**" if cell.best else text
    return " ".join(filter(None, (text, plain(cell.note))))


def plain(text: str) -> str:
    r"""Escape a text for Markdown, so that it is shown literally; a number like '0.1156' is not changed."""
    return text if NUMBER.fullmatch(text) else MARKDOWN.sub(r"\\\g<0>", printable(text))
