"""The docs match the code, and their links work."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def root(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.rootpath


def test_settings_page_and_env_example_match_settings_py(root: Path) -> None:
    ended = subprocess.run(
        [sys.executable, root / "docs/make.py", "--check"], capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr


def test_no_file_contains_a_local_path_or_a_package_registry(root: Path) -> None:
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    texts = {name: (root / name).read_bytes() for name in names if (root / name).is_file()}
    banned = [b"pypi" + b".org", b"/sim" + b"ple/", b"/work" + b"/main"]
    assert not [(name, word) for name, text in texts.items() for word in banned if word in text]


def test_every_yaml_and_json_file_parses(root: Path) -> None:
    names = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True).stdout.split()
    parsed = [yaml.safe_load((root / name).read_text()) for name in names if name.endswith((".yaml", ".json"))]
    assert len(parsed) >= 6
    assert all(parsed)


def pages(root: Path) -> list[Path]:
    """Return the Markdown pages."""
    return [*root.glob("*.md"), *(root / "docs").glob("*.md")]


def links(page: Path) -> list[str]:
    """Return the relative links and images of a page."""
    found = re.findall(r"""\]\((?!https?:)([^)]+)|src="([^"]+)\"""", page.read_text())
    return [markdown or html for markdown, html in found]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_point_to_existing_files_and_headings(root: Path) -> None:
    assert all(links(page) for page in (root / "README.md", root / "docs/README.md"))
    broken = []
    for page in pages(root):
        for link in links(page):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append((page.name, link))
    assert broken == []


def test_every_page_is_in_the_index_and_every_image_on_a_page(root: Path) -> None:
    docs = root / "docs"
    assert {page.name for page in docs.glob("*.md")} - {"README.md"} <= set(links(docs / "README.md"))
    linked = {(page.parent / link).resolve() for page in pages(root) for link in links(page)}
    assert set((docs / "images").iterdir()) <= linked


def test_readme_and_contributing_are_short(root: Path) -> None:
    readme = (root / "README.md").read_text()
    assert len(readme.split()) <= 1800
    assert len(readme.splitlines()) <= 200
    assert len((root / "CONTRIBUTING.md").read_text().splitlines()) <= 60


def test_the_image_has_the_versions_of_constraints_txt(root: Path) -> None:
    def versions(file: str) -> dict[str, str]:
        pins = re.findall(r"^([\w.-]+)==([\w.!+]+)", (root / file).read_text(), re.M)
        return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}

    pinned, installed = versions("constraints.txt"), versions("requirements.txt")
    assert len(installed) > 100
    assert {name: version for name, version in installed.items() if pinned.get(name, version) != version} == {}
    (project,) = re.findall(r"^dependencies = \[(.*?)^\]", (root / "pyproject.toml").read_text(), re.M | re.S)
    direct = {name.lower() for name in re.findall(r'^    "([\w-]+)', project, re.M)}
    assert direct - installed.keys() == {"torch", "torchvision"}
