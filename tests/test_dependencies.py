"""What is imported is required, what is required is bounded, and the lock file pins and hashes the whole tested set."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.browser_tools import ROOT
from tools.licences import LOCK, licence_of, locked, table

OWN = {"model", "probes", "workbench", "tests", "benchmarks", "studies", "tools", "app"}
FROM_SOURCE = {"transformers-stream-generator"}
"""Publishes no wheel; TransformerLens requires it. Pure Python, and its hash is pinned like every other."""
OPTIONAL = {"ray", "distributed", "IPython", "matplotlib"}
"""Imported only where a person has installed them."""


def listed(name: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def requirements(name: str) -> dict[str, Requirement]:
    return {normal(one.name): one for one in listed(name)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


RUN, DEV = requirements("requirements.txt"), requirements("requirements-dev.txt")
PINS = {normal(name): version for name, version in locked(LOCK.read_text("utf-8")).items()}


def imported(*places: str) -> set[str]:
    """Top-level packages that files import, without the standard library and our own."""
    found = set()
    for place in places:
        for path in (ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place]:
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - OWN - OPTIONAL


def distributions(packages: set[str]) -> set[str]:
    known = packages_distributions()
    return {normal(known[package][0]) for package in packages if package in known}


ALONG = {"markupsafe": "jinja2", "packaging": "pytest", "triton": "torch"}
"""What comes with a requirement by its nature, and which."""


@pytest.mark.parametrize(
    ("places", "allowed"), [(("model", "probes", "workbench", "app.py"), RUN), (("tests", "benchmarks"), RUN | DEV)]
)
def test_what_is_imported_is_required(places, allowed):
    wanted = distributions(imported(*places))
    assert wanted  # the walk finds something
    assert {name for name in wanted if ALONG.get(name, name) not in allowed} == set()


def test_no_requirement_is_listed_twice():
    for name in ("requirements.txt", "requirements-dev.txt"):
        names = [normal(one.name) for one in listed(name)]
        assert [one for one in names if names.count(one) > 1] == [], name
    assert set(RUN) & set(DEV) == set()


@pytest.mark.parametrize("name", RUN | DEV)
def test_every_requirement_has_an_upper_bound(name):
    operators = {one.operator for one in (RUN | DEV)[name].specifier}
    assert operators & {"<", "<=", "=="}, f"{name} may break with any next release"


def test_the_lock_pins_every_requirement_within_its_bounds():
    for name, required in (RUN | DEV).items():
        assert name in PINS, f"{name} is not in requirements.lock: make lock"
        assert required.specifier.contains(Version(PINS[name])), f"{name} {PINS[name]} is out of bounds: make lock"


def test_every_pin_has_hashes_and_the_lock_names_no_host_and_no_path():
    text = LOCK.read_text("utf-8")
    entries = re.split(r"\n(?=[a-z0-9])", text.split("make lock\n", 1)[1])
    assert len(entries) == len(PINS) > 100
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:60]
    assert not re.search(r"://|index-url|find-links| @ |\s/|\.\./", text)


def test_only_packages_that_publish_no_wheel_are_built_from_source():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert "--only-binary :all:" in makefile
    assert set(re.findall(r"--no-binary (\S+)", makefile)) == FROM_SOURCE


def test_licences_are_listed_for_every_package_and_none_forbids_passing_the_workbench_on():
    listed = (ROOT / "docs/licences.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| ([\w.-]+) \| [^|]+ \| ([^|]+) \|$", listed, re.MULTILINE))
    rows.pop("package", None)
    assert {normal(name) for name in rows} == set(PINS), "make lock"
    assert not [name for name, licence in rows.items() if re.search(r"\bA?GPL|not said", licence)]
    assert table({"numpy": PINS["numpy"]}).splitlines()[-1] == f"| numpy | {PINS['numpy']} | {rows['numpy']} |"


def test_a_licence_is_read_from_wherever_a_package_says_it():
    from email.message import Message

    def told(*fields: tuple[str, str]) -> Message:
        message = Message()
        for name, value in fields:
            message[name] = value
        return message

    classifier = ("Classifier", "License :: OSI Approved :: MIT License")
    assert licence_of(told(("License-Expression", "BSD-3-Clause"), classifier)) == "BSD-3-Clause"
    assert licence_of(told(("License", "see the file"), classifier)) == "MIT License"
    assert licence_of(told(("License", "\n  Apache 2.0\nand much more"))) == "Apache 2.0"
    assert licence_of(told(("License", "x" * 900))) == "x" * 60 + "..."
    assert licence_of(told()) == "not said"
