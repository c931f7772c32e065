"""Imports point one way, and the numerical core needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["model", "probes", "workbench", "app"]  # each may import those before it
CORE = ["model/mixing.py", "model/functional.py", "model/backends"]


def python_files(*places: str):
    for place in places:
        path = ROOT / place
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


def imported_packages(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_one_way(package):
    later = set(ORDER[ORDER.index(package) + 1 :]) | {"tests", "benchmarks", "studies"}
    for path in python_files(package if package != "app" else "app.py"):
        wrong = {name for name in imported_packages(path) if name.split(".")[0] in later}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_streamlit_is_imported_only_by_the_app_its_server_its_pages_and_the_viewer_component():
    allowed = ("app.py", "workbench/pages/", "workbench/viewer/", "workbench/serving/server.py",
               "workbench/serving/closed_tabs.py")  # fmt: skip
    for path in python_files("model", "probes", "workbench", "app.py"):
        name = path.relative_to(ROOT).as_posix()
        packages = {module.split(".")[0] for module in imported_packages(path)}
        assert "streamlit" not in packages or name.startswith(allowed), f"{name} imports streamlit"
        assert "plotly" not in packages or name.startswith("workbench/"), f"{name} imports plotly"


def test_the_numerical_core_imports_torch_alone():
    standard = set(sys.stdlib_module_names)
    for path in python_files(*CORE):
        for module in imported_packages(path):
            known = module.split(".")[0] in standard | {"torch", "triton"}
            own = module.startswith(("model.mixing", "model.functional", "model.backends"))
            assert known or own, f"{path.relative_to(ROOT)} imports {module}"


LOOSE = {("strict", False), ("trust_remote_code", True), ("weights_only", False)}


def test_no_weights_are_loaded_loosely_and_no_remote_code_runs():
    for path in python_files("model", "probes", "workbench", "app.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
                where = f"{path.relative_to(ROOT)}:{node.value.lineno}"
                assert (node.arg, node.value.value) not in LOOSE, f"{where} sets {node.arg}={node.value.value}"


def test_importing_the_library_starts_nothing_heavy():
    code = "import sys, model; print([m for m in ('streamlit', 'plotly', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
