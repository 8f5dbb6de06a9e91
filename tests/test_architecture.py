"""The packages import downwards only, without cycles. `python tests/test_architecture.py` prints the import graph."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = {
    "errors": 1, "settings": 1,
    "system": 2,
    "run": 3, "data": 3, "model": 3,
    "latent": 4, "training": 4,
    "evaluation": 5,
    "report": 6,
    "inference": 7, "sweep": 7,
    "pipeline": 8,
    "flows": 9,
    "arguments": 10, "__main__": 10,
}  # fmt: skip
# Imports within a level: settings are validated with `errors`, and the entry point parses with `arguments`.
SAME_LEVEL = {("settings", "errors"), ("__main__", "arguments")}
FACADE = "catae"  # `catae/__init__` re-exports what users call, and may import anything
ENTRY_POINT = "catae.__main__"
MOST_MODULES = 12

Graph = Mapping[str, set[str]]


def read_imports(root: Path) -> dict[str, set[str]]:
    """Return the modules that each module of catae/ and flows/ imports, anywhere: in functions and for types as well.

    Modules of other distributions are left out, except `prefect`.
    """
    paths = sorted(path for package in ("catae", "flows") for path in (root / package).rglob("*.py"))
    modules = {module_name(path.relative_to(root)): path for path in paths}
    return {
        module: {found for node in ast.walk(ast.parse(path.read_text())) for found in imported(node, modules)}
        - {module}
        for module, path in modules.items()
    }


def module_name(path: Path) -> str:
    """Return the dotted name of a module, or of a package for its `__init__`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(node: ast.AST, modules: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules that a statement imports."""
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"line {node.lineno}: write absolute imports"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
        names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    for name in names:
        if name.split(".")[0] == "prefect":
            yield "prefect"
        while name and name not in modules:
            name = name.rpartition(".")[0]
        if name:
            yield name


def package(module: str) -> str:
    """Return the package of a module: 'data' of 'catae.data.cache', 'run' of 'catae.run', 'flows' of 'flows.train'."""
    parts = module.split(".")
    return parts[0] if parts[0] != "catae" or len(parts) == 1 else parts[1]


def upward_imports(graph: Graph) -> list[str]:
    """Return the imports that do not point to a lower level."""
    return [
        f"{module} ({package(module)}, level {LEVELS[package(module)]}) imports {target} "
        f"({package(target)}, level {LEVELS[package(target)]})"
        for module, targets in graph.items()
        for target in sorted(targets - {"prefect"})
        if module != FACADE
        and target != FACADE
        and package(module) != package(target)
        and (package(module), package(target)) not in SAME_LEVEL
        and LEVELS[package(module)] <= LEVELS[package(target)]
    ]


def orchestrator_imports(graph: Graph) -> list[str]:
    """Return the imports of `prefect` and `flows` in catae/, except in the entry point."""
    return [
        f"{module} imports {target}"
        for module, targets in graph.items()
        for target in sorted(targets)
        if module.split(".")[0] == "catae" and module != ENTRY_POINT and target.split(".")[0] in ("prefect", "flows")
    ]


def find_cycle(graph: Graph) -> list[str]:
    """Return the modules of a cycle, or none."""
    try:
        # Importing a module of a package runs the package's `__init__`: the façade `catae` is left out.
        TopologicalSorter({module: targets - {FACADE} for module, targets in graph.items()}).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def plain_modules(graph: Graph) -> list[str]:
    """Return the modules that are not packages."""
    packages = {module.rpartition(".")[0] for module in graph}
    return [module for module in graph if module not in packages]


def large_packages(graph: Graph) -> list[str]:
    """Return the packages with more than `MOST_MODULES` modules."""
    counts = Counter(module.rpartition(".")[0] for module in plain_modules(graph))
    return [f"{name} has {count} modules" for name, count in counts.items() if count > MOST_MODULES]


def describe(graph: Graph) -> str:
    """Return the imports between packages, the highest level first."""
    arrows: dict[str, Counter[str]] = defaultdict(Counter)
    sizes = Counter(package(module) for module in plain_modules(graph))
    for module, targets in graph.items():
        arrows[package(module)].update(package(target) for target in targets)
    lines = ["level  package     modules  imports (number of module imports)"]
    for name in sorted(LEVELS, key=lambda name: (-LEVELS[name], name)):
        below = sorted((LEVELS.get(to, 0), to) for to in arrows[name] if to not in (name, FACADE))
        text = ", ".join(f"{to} {arrows[name][to]}" for _, to in reversed(below))
        lines.append(f"{LEVELS[name]:>5}  {name:10}  {sizes[name]:>7}  {text or '-'}")
    total = sum(len(targets - {"prefect"}) for targets in graph.values())
    return "\n".join([*lines, f"{sizes.total()} modules, {total} imports between them"])


@pytest.fixture(scope="module")
def graph() -> Graph:
    found = read_imports(ROOT)
    print(f"\n{describe(found)}")
    return found


def test_every_module_belongs_to_a_package_with_a_level(graph: Graph) -> None:
    assert {package(module) for module in graph} - {FACADE} == set(LEVELS)


def test_imports_point_downwards(graph: Graph) -> None:
    assert upward_imports(graph) == []


def test_no_modules_import_each_other(graph: Graph) -> None:
    assert find_cycle(graph) == []


def test_the_library_does_not_import_the_orchestration(graph: Graph) -> None:
    assert orchestrator_imports(graph) == []


def test_packages_are_small(graph: Graph) -> None:
    assert large_packages(graph) == []


def test_the_page_on_the_architecture_shows_the_graph(graph: Graph) -> None:
    assert describe(graph) in (ROOT / "docs/architecture.md").read_text()


def test_each_violation_is_found(tmp_path: Path) -> None:
    sources = {
        "catae/system/files.py": "def late():\n    from catae.data import split",  # upwards, in a function
        "catae/data/split.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from catae.model import init",
        "catae/model/init.py": "from catae.model.weights import save",
        "catae/model/weights.py": "import catae.model.init",
        "catae/pipeline/stages.py": "import prefect.flows\nimport importlib\nimportlib.import_module('flows.train')",
        "catae/__main__.py": "import flows.train, prefect",
        "flows/train.py": "import prefect",
        "catae/report/__init__.py": "",
        **{f"catae/report/page{number}.py": "" for number in range(13)},
        **{f"catae/latent/page{number}.py": "" for number in range(12)},
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = read_imports(tmp_path)
    assert upward_imports(graph) == [
        "catae.data.split (data, level 3) imports catae.model.init (model, level 3)",
        "catae.pipeline.stages (pipeline, level 8) imports flows.train (flows, level 9)",
        "catae.system.files (system, level 2) imports catae.data.split (data, level 3)",
    ]
    assert set(find_cycle(graph)) == {"catae.model.init", "catae.model.weights"}
    assert orchestrator_imports(graph) == [
        "catae.pipeline.stages imports flows.train",
        "catae.pipeline.stages imports prefect",
    ]
    assert large_packages(graph) == ["catae.report has 13 modules"]


if __name__ == "__main__":
    print(describe(read_imports(ROOT)))
