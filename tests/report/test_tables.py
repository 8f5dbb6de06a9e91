"""One table, rendered for a terminal, as HTML and as Markdown."""

import io

import pytest
from browser import Page
from rich.console import Console

from catae.report import tables
from catae.report.tables import Cell, Column, Table

HOSTILE = "a|b</td><script>x</script>`_*[y](z)\x1b[31m[bold]"


def scores() -> Table:
    return Table(
        title="Scores",
        columns=(tables.column("Run"), tables.column("Test L1", note="less is better", numeric=True)),
        rows=(tables.row(Cell("one_run", link="runs/1/"), Cell("0.1156", best=True)), tables.row("two", "0.2")),
        note="L1 of pixels in [-1, 1].",
    )


def one(text: str, code: bool = False) -> Table:
    return Table("", (tables.column("name", code=code),), (tables.row(text),))


def printed(table: Table, width: int = 80, max_width: int | None = None) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(tables.to_text(table, max_width=max_width))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_text_aligns_numbers_and_stars_the_best() -> None:
    heading, _, *rows = printed(scores())
    assert heading == "Run       Test L1 less is better"
    assert rows == ["one_run                 * 0.1156", "two                          0.2"]


def test_html_marks_the_best_and_links() -> None:
    page = Page(tables.to_html(scores()))
    assert page.rows() == ["Run Test L1 less is better", "one_run 0.1156", "two 0.2"]
    assert page.html.count("<b>") == 1
    assert "<b>0.1156</b>" in page.html
    assert [link["href"] for link in page.all("a")] == ["runs/1/"]
    assert [cell["scope"] for cell in page.all("th")] == ["col", "col", "row", "row"]
    assert [cell["class"] for cell in page.all("td")] == ["number", "number"]


def test_markdown_has_title_rows_and_note() -> None:
    assert tables.to_markdown(scores()).splitlines() == [
        "## Scores", "",
        "| Run | Test L1 less is better |",
        "| --- | ---: |",
        r"| one\_run | **0.1156** |",
        "| two | 0.2 |", "",
        r"L1 of pixels in \[\-1, 1\]\.",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [False, True])
def test_hostile_text_stays_text(code: bool) -> None:
    table = one(HOSTILE, code)
    page, shown = Page(tables.to_html(table)), HOSTILE.replace("\x1b", r"\x1b")
    assert {tag for tag, _ in page.tags} <= {"table", "thead", "tbody", "tr", "th", "code", "wbr"}
    assert page.text == f"name {shown}"
    assert printed(table)[-1] == shown
    cell = tables.to_markdown(table).splitlines()[-1]
    assert "\x1b" not in cell
    assert cell.replace(r"\|", "").count("|") == 2
    if code:
        assert cell.count("`") == 2
    else:
        assert r"\<script\>" in cell
        assert r"\[y\]\(z\)" in cell


def test_headings_are_escaped() -> None:
    table = Table("", (Column(Cell(HOSTILE)),), ())
    assert not Page(tables.to_html(table)).all("script")
    assert tables.to_markdown(table).splitlines()[0].replace(r"\|", "").count("|") == 2


def test_plain_keeps_numbers_and_escapes_everything_else() -> None:
    assert [tables.plain(text) for text in ("0.1156", "-12%", "1,690", "1. x", "www.x.org")] == [
        "0.1156", "-12%", "1,690", r"1\. x", r"www\.x\.org",
    ]  # fmt: skip


def test_transposed_has_a_column_for_each_row_and_is_its_own_inverse() -> None:
    turned = scores().transposed()
    assert [column.heading.text for column in turned.columns] == ["Run", "one_run", "two"]
    assert turned.columns[1].heading.link == "runs/1/"
    assert [[cell.text for cell in cells] for cells in turned.rows] == [["Test L1", "0.1156", "0.2"]]
    assert turned.rows[0][1].best
    assert turned.transposed().rows == scores().rows


def test_select_keeps_the_first_column() -> None:
    part = scores().transposed().select([2])
    assert [column.heading.text for column in part.columns] == ["Run", "two"]
    assert part.rows == (tables.row(Cell("Test L1", note="less is better"), "0.2"),)


def test_long_cells_fold_except_the_first() -> None:
    table = Table("", (tables.column("Run"), tables.column("x")), (tables.row("r" * 30, "y" * 30),))
    assert printed(table, max_width=16)[-2:] == ["r" * 30 + "   " + "y" * 16, " " * 33 + "y" * 14]


def test_a_row_of_wrong_length_is_an_error() -> None:
    with pytest.raises(ValueError, match="'Scores'"):
        Table("Scores", (tables.column("a"),), (tables.row("b", "c"),))
