"""The run on one page: a self-contained HTML file that needs no network."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from catae import files
from catae.run import Run


def write(run: Run) -> None:
    """Writes `report.html` from the run's files: manifest, settings, data report and pictures."""
    environment = Environment(
        loader=PackageLoader("catae"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["picture"] = _data_uri
    page = environment.get_template("report.html").render(
        run=run, manifest=run.read(), settings=files.read_json(run.settings), data=files.read_json(run.data)
    )
    files.write_bytes(run.report, page.encode())


def _data_uri(path: Path) -> str:
    """A picture as an address that holds it."""
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
