"""README.md: what it shows is what the library has."""

import re
import textwrap
from pathlib import Path

import pytest
import torch

from nnunetv2_selfreg.settings import SelfRegSettings

README = Path(__file__).parents[1] / "README.md"


def test_the_term_that_it_shows_is_one():
    code = README.read_text(encoding="utf-8").partition("# nnUNetTrainerSelfRegCloseness.py")[2].partition("\n## ")[0]
    program = {"__name__": "of_the_readme"}
    exec(textwrap.dedent(code.partition("\n")[2]), program)
    trainer = program["nnUNetTrainerSelfRegCloseness"]
    (term,) = trainer.terms
    settings = trainer.selfreg_settings({"configurations": {"2d": {}}}, "2d")
    assert dict(settings.weights) == {term.name: 0.015}
    value = program["closeness"](torch.full((2, 4, 8, 8), 3.0), torch.ones(2, 2, 16, 16))
    assert value.item() == pytest.approx(4)


def test_the_table_of_settings_has_each_with_its_default():
    part = README.read_text(encoding="utf-8").partition("| key | default | meaning |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in part.splitlines()[2:]]
    shown = {name: default.strip("`") for names, default in rows for name in re.findall(r"`(\w+)`", names)}
    defaults = SelfRegSettings().as_plans()
    expected = {
        name: "null" if value is None else f'"{value}"' if isinstance(value, str) else f"{value:g}"
        for name, value in defaults.items()
    }
    assert shown == expected
