"""What is installed is what is in the folders."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path

import trainpilot

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {
    "agents": "trainpilot.agents",
    "conf": "trainpilot.conf",
    "envs": "trainpilot.envs",
    "inner_tasks": "trainpilot.inner_tasks",
    "src/trainpilot": "trainpilot",
}


def test_every_folder_with_code_or_data_is_a_listed_package():
    expected = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (
                ".py",
                ".yaml",
                ".safetensors",
                ".cpp",
                ".h",
                ".html",
                ".css",
                ".js",
            ):
                inside = path.parent.relative_to(ROOT / folder).parts
                expected.add(".".join((package, *inside)))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == expected


def test_package_folders_are_mapped():
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    assert mapping == {package: folder for folder, package in FOLDERS.items()}


def test_version_is_the_projects():
    assert trainpilot.__version__ == PROJECT["project"]["version"]


def test_installed_configuration_is_complete():
    installed = files("trainpilot.conf")
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert installed.joinpath(*path.relative_to(ROOT / "conf").parts).is_file()


def test_constraints_pin_every_dependency():
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    names = {requirement.split(">=")[0].lower() for requirement in wanted}
    assert {name for name in names if not name.startswith("trainpilot[")} <= pinned


def test_imports_point_one_way():
    forbidden = {"inner_tasks": ("envs", "agents"), "envs": ("agents",)}
    for folder, others in forbidden.items():
        for path in (ROOT / folder).glob("*.py"):
            for other in others:
                assert f"trainpilot.{other}" not in path.read_text(), path
