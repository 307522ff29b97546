"""`selfreg.png`: ticks at whole epochs and no curve cut off, from the first epoch on."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nnunetv2_selfreg.progress import epoch_line, plot_progress
from nnunetv2_selfreg.terms import BUILT_IN, SHARE


def logging(epochs):
    curves = np.random.default_rng(0).uniform(0.2, 0.21, (len(BUILT_IN) + 1, epochs)).tolist()
    return dict(zip([*(term.name for term in BUILT_IN), SHARE], curves, strict=True))


@pytest.mark.parametrize(
    ("epochs", "expected"), [(1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (1000, [0, 200, 400, 600, 800])]
)
def test_ticks_are_epochs(epochs, expected, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda plot, path, **_: (drawn.append(plot), path.touch()))
    values = logging(epochs)
    plot_progress(values, BUILT_IN, tmp_path)
    shown = {line.get_label(): list(line.get_ydata()) for axis in drawn[0].axes for line in axis.lines}
    percent = [100 * share for share in values[SHARE]]
    assert shown == {"SCR": values["scr"], "IFD": values["ifd"], "share": pytest.approx(percent)}
    for axis in drawn[0].axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks[: len(expected)] == expected
        assert low < 0 <= epochs - 1 < high
        highest = max(max(line.get_ydata()) for line in axis.lines)
        assert axis.get_ylim()[0] == 0
        assert axis.get_ylim()[1] > 1.02 * highest


def test_a_term_below_zero_is_seen(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda plot, path, **_: (drawn.append(plot), path.touch()))
    plot_progress({"scr": [-1.0, -2.0], "ifd": [1.0, 1.0], SHARE: [0.5, 0.4]}, BUILT_IN, tmp_path)
    upper, lower = (axis.get_ylim() for axis in drawn[0].axes)
    assert upper[0] < -2
    assert upper[1] > 1
    assert lower[0] == 0


def test_each_term_has_a_colour_of_its_own(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda plot, path, **_: (drawn.append(plot), path.touch()))
    names = ["size", "scr", "shape", "ifd", "third"]
    terms = [replace(BUILT_IN[0], name=name) for name in names]
    plot_progress({name: [1.0, 2.0] for name in [*names, SHARE]}, terms, tmp_path)
    colours = [line.get_color() for axis in drawn[0].axes for line in axis.lines]
    assert len(set(colours)) == len(names) + 1
    plot_progress({"scr": [1.0], SHARE: [1.0]}, BUILT_IN[:1], tmp_path)
    assert drawn[1].axes[0].lines[0].get_color() == colours[1]


def test_the_line_says_that_the_share_is_of_the_loss():
    line = epoch_line({"scr": 2.0, "ifd": 1.0}, {"scr": 0.01, "ifd": 0.02}, 0.125)
    assert line == "SelfReg: scr 2, ifd 1; weighted, they add 0.04 to train_loss (share of the loss 12.5%)"


def test_epochs_without_values_leave_a_gap(tmp_path, monkeypatch):
    """Epochs of a training that was stock at first are not a number."""
    drawn = []
    with monkeypatch.context() as patched:
        patched.setattr(Figure, "savefig", lambda plot, path, **_: (drawn.append(plot), path.touch()))
        plot_progress({name: [float("nan"), *series] for name, series in logging(2).items()}, BUILT_IN, tmp_path)
    for line in (line for axis in drawn[0].axes for line in axis.lines):
        assert list(line.get_xdata()) == [0, 1, 2]
        assert np.isnan(line.get_ydata()).tolist() == [True, False, False]
    for values in (logging(1), {name: [float("nan")] for name in logging(1)}):
        plot_progress(values, BUILT_IN, tmp_path)
        with Image.open(tmp_path / "selfreg.png") as picture:
            assert picture.size == (1350, 1050)
