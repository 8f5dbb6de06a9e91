"""Makes the parts of the documentation that come from `catae/settings.py`: `make docs`.

With --check it writes nothing, and ends with 1 if a part is out of date.
"""

import re
import sys
from pathlib import Path

from catae.settings import GROUPS, PREFIX, Settings, describe

ROOT = Path(__file__).parent.parent
START, END = "<!-- settings: made by `make docs` -->", "<!-- end of settings -->"


def table() -> str:
    """The settings as a table in Markdown."""
    rows = ["| variable | default | what it decides |", "|---|---|---|"]
    for group in GROUPS:
        rows.append(f"| **{str(group.__doc__).strip().rstrip('.')}** | | |")
        for name in group.model_fields:
            default = str(Settings.model_fields[name].default)
            rows.append(f"| `{PREFIX}{name.upper()}` | {f'`{default}`' if default else 'empty'} | {describe(name)} |")
    return "\n".join(rows)


def env_example() -> str:
    """The settings as an environment file in which nothing is set."""
    lines = ["# Settings of catae. Copy this file to .env, and uncomment what should differ from the default."]
    for group in GROUPS:
        lines += ["", f"# --- {str(group.__doc__).strip()}"]
        for name in group.model_fields:
            description = describe(name).replace("`", "")
            lines += ["", f"# {description}", f"#{PREFIX}{name.upper()}={Settings.model_fields[name].default}"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Writes README.md's table and .env.example, or only compares them."""
    readme = (ROOT / "README.md").read_text()
    between = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    made = {
        "README.md": between.sub(lambda _: f"{START}\n{table()}\n{END}", readme),
        ".env.example": env_example(),
    }
    old = [name for name, text in made.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    if "--check" in sys.argv:
        for name in old:
            print(f"{name} is out of date: make docs")
        return bool(old)
    for name in old:
        (ROOT / name).write_text(made[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
