"""What is said where the packages of an extra are missing or broken."""

import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from dqn_zoo.errors import UserError
from dqn_zoo.system.extras import MODULES, need

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


@pytest.mark.parametrize(("extra", "missing"), [(e, m) for e, ms in MODULES.items() for m in ms])
def test_what_is_missing_is_named_with_how_to_get_it(extra, missing, monkeypatch):
    for module in MODULES[extra]:  # the others are there, whatever is installed here
        for name in (module.partition(".")[0], module):
            monkeypatch.setitem(sys.modules, name, sys)
    package = missing.partition(".")[0]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as caught:
        need(extra, "dqn-x")
    line, _, packages = str(caught.value).partition(" in a clone, or pip install ")
    assert line == f"dqn-x needs {package}: pip install '.[{extra}]'"
    # The packages are those that the extra installs, without their versions.
    wanted = [Requirement(line) for line in PROJECT["project"]["optional-dependencies"][extra]]
    named = [Requirement(word.strip("'")) for word in packages.split()]
    assert {(r.name, *r.extras) for r in named} == {(r.name, *r.extras) for r in wanted}


def test_one_that_is_there_but_broken_says_why(tmp_path, monkeypatch):
    (tmp_path / "shtab.py").write_text("import there_is_no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shtab", raising=False)
    with pytest.raises(UserError, match=r"needs shtab, which cannot be imported \(No module named"):
        need("completion", "dqn-completion")


@pytest.mark.parametrize(("extra", "old"), [("tune", "optuna"), ("watch", "uvicorn")])
def test_one_that_is_too_old_for_what_is_used_of_it_says_so(extra, old, monkeypatch):
    for module in MODULES[extra]:
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setitem(sys.modules, module.partition(".")[0], ModuleType("old"))
    with pytest.raises(UserError, match=rf"needs {old}, which cannot be imported \(.*pip"):
        need(extra, "dqn-x")


def test_nothing_is_said_where_all_is_there(monkeypatch):
    for module in MODULES["onnx"]:
        monkeypatch.setitem(sys.modules, module, sys)
    need("onnx", "dqn-export-onnx")
