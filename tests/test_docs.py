import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


def test_the_tables_of_settings_in_the_readme_and_env_example_are_those_of_settings_py(root: Path) -> None:
    made = subprocess.run(
        [sys.executable, root / "docs/make.py", "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (made.returncode, made.stdout) == (0, ""), made.stdout + made.stderr


def test_no_file_names_this_workplace_or_a_package_registry(root: Path) -> None:
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    texts = {name: (root / name).read_bytes() for name in names if (root / name).is_file()}
    banned = [b"pypi" + b".org", b"/sim" + b"ple/", b"/work" + b"/main"]
    assert not [(name, word) for name, text in texts.items() for word in banned if word in text]


def test_everything_that_the_readme_links_to_is_there(root: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (root / "README.md").read_text())
    assert links
    assert not [link for link in links if not (root / link).exists()]


def test_the_image_holds_the_versions_that_constraints_txt_pins(root: Path) -> None:
    def versions(file: str) -> dict[str, str]:
        pins = re.findall(r"^([\w.-]+)==([\w.!+]+)", (root / file).read_text(), re.M)
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}

    pinned, held = versions("constraints.txt"), versions("requirements.txt")
    assert len(held) > 100
    assert {name: version for name, version in held.items() if pinned.get(name, version) != version} == {}
    (project,) = re.findall(r"^dependencies = \[(.*?)^\]", (root / "pyproject.toml").read_text(), re.M | re.S)
    named = {name.lower() for name in re.findall(r'^    "([\w-]+)', project, re.M)}
    assert named - held.keys() == {"torch", "torchvision"}
