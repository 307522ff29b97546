"""Each statement of documentation/what_it_does.md about the losses, worked out on its own with numpy."""

import json
import os
import subprocess
import sys
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
import torch
from networks import plain_unet, recorded

from nnunetv2_selfreg.losses import draw_channels, internal_feature_distillation, semantic_consistency
from nnunetv2_selfreg.taps import StageTaps

ROOT = Path(__file__).parents[1]


def maps(student=(2, 6, 4, 3), teacher=(2, 3, 8, 6)):
    random = np.random.default_rng(0)
    return random.normal(0.3, 1, student), random.normal(-0.2, 2, teacher)


def parts(student, teacher):
    """Of SCR's expectation: variance of the student's channels, distance of the means, variance of the teacher's."""
    met = reference.pooled(teacher, student.shape[2:])
    return np.mean(student.var(1)), np.mean((student.mean(1) - met.mean(1)) ** 2), np.mean(met.var(1))


def test_the_mean_of_many_draws_is_the_closed_form():
    student, teacher = maps()
    tensors, generator = [torch.tensor(each) for each in (student, teacher)], torch.Generator().manual_seed(0)
    draws = [draw_channels([6], 3, generator)[0] for _ in range(4000)]
    values = np.array([semantic_consistency(*tensors, *drawn).item() for drawn in draws])
    # within four standard errors, which are 0.3 % here
    assert abs(values.mean() - sum(parts(student, teacher))) < 4 * values.std() / len(values) ** 0.5
    assert values.std() / len(values) ** 0.5 < 0.005 * values.mean()


def test_scr_is_least_where_every_channel_is_the_teachers_mean_channel():
    student, teacher = maps()
    met = reference.pooled(teacher, student.shape[2:])
    optimum = np.repeat(met.mean(1, keepdims=True), 6, axis=1)
    least = sum(parts(optimum, teacher))
    assert least == pytest.approx(parts(student, teacher)[2])  # what is left does not depend on the student
    assert np.linalg.matrix_rank(optimum.transpose(1, 0, 2, 3).reshape(6, -1)) == 1
    for seed in range(20):  # the expectation is a square, so any step away from the optimum costs that step's square
        step = np.random.default_rng(seed).normal(0, 0.1, student.shape)
        assert sum(parts(optimum + step, teacher)) == pytest.approx(least + np.mean(step**2))


def test_ifd_of_random_pairs_is_twice_the_variance_of_the_channels():
    feature, _ = maps()
    orders = np.array(list(permutations(range(6))))
    values = [np.mean((feature[:, order[:3]] - feature[:, order[3:]]) ** 2) for order in orders]
    assert np.mean(values) == pytest.approx(2 * np.mean(feature.var(1)) * 6 / 5)


def test_ifd_is_nothing_where_all_channels_are_one_and_falls_with_the_square_of_the_amplitude():
    half = maps()[0][:, :3]
    one = np.repeat(half[:, :1], 6, axis=1)
    assert internal_feature_distillation(torch.tensor(one)).item() == pytest.approx(0, abs=1e-20)
    # three pairs of equal channels: equal ones are neighbours in the ranking, so they are not compared
    assert internal_feature_distillation(torch.tensor(np.repeat(half, 2, axis=1))).item() > 0.1
    whole = torch.tensor(maps()[0])
    assert internal_feature_distillation(whole / 10) == pytest.approx(internal_feature_distillation(whole).item() / 100)


def test_scr_is_a_parabola_in_the_amplitude_of_a_stage():
    student, teacher = maps()
    student += 0.5 * reference.pooled(teacher, student.shape[2:]).mean(1, keepdims=True)  # else the best factor is none
    met = reference.pooled(teacher, student.shape[2:])
    best = np.mean(student.mean(1) * met.mean(1)) / np.mean(student**2)
    least = sum(parts(best * student, teacher))
    assert 0.05 < best < 0.95
    assert least < sum(parts(student, teacher))
    for factor in (0, 0.1, 0.5, 1, 2):
        away = (factor - best) ** 2 * np.mean(student**2)
        assert sum(parts(factor * student, teacher)) == pytest.approx(least + away)


def test_one_draw_points_elsewhere_than_the_expectation_by_a_known_angle():
    """Exact, over all draws: the mean squared norm, and the mean product with the expected gradient."""
    student, teacher = maps((1, 4, 2, 2), (1, 2, 2, 2))
    draws = product(*(permutations(range(size), 2) for size in (4, 2)))
    gradients = np.array([reference.semantic_consistency(student, teacher, *map(np.array, d))[1] for d in draws])
    expected = gradients.mean(0)
    squares = np.mean((gradients**2).sum((1, 2, 3, 4)))
    assert np.mean((gradients * expected).sum((1, 2, 3, 4))) == pytest.approx((expected**2).sum())
    of_student, of_means, of_teacher = parts(student, teacher)
    whole = of_student + of_means + of_teacher
    assert (expected**2).sum() / squares == pytest.approx(2 / 4 * (1 - of_teacher / whole))


def test_the_cosine_of_a_draw_on_a_networks_maps_is_what_the_formula_says():
    network = plain_unet(features=(4, 8, 16))
    taps, images = StageTaps(network), torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    network(images)
    features, generator = taps.take(), torch.Generator().manual_seed(0)
    for student in (*features.encoder, *features.decoder):
        gradients = []
        for _ in range(200):
            (drawn,) = draw_channels([student.shape[1]], 4, generator)
            leaf = student.clone().requires_grad_()
            semantic_consistency(leaf, features.teacher, *drawn).backward()
            gradients.append(leaf.grad.flatten())
        met = reference.pooled(features.teacher.numpy(), tuple(student.shape[2:])).mean(1, keepdims=True)
        expected = torch.tensor(student.numpy() - met, dtype=torch.float32).flatten()
        cosines = [torch.cosine_similarity(each, expected, dim=0).item() for each in gradients]
        of_student, of_means, of_teacher = parts(student.numpy(), features.teacher.numpy())
        formula = (4 / student.shape[1] * (1 - of_teacher / (of_student + of_means + of_teacher))) ** 0.5
        assert np.mean(cosines) == pytest.approx(formula, rel=0.05)
        assert formula < 0.75


def test_a_stage_can_be_scaled_down_without_changing_the_function():
    network = plain_unet(features=(4, 8, 16), deep_supervision=False).double()
    with torch.no_grad():
        for parameter in network.parameters():  # biases that are not 0
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    images = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    seen = recorded(network)
    before = network(images).detach()
    stage, teacher = (seen[name].detach().clone() for name in ("encoder.stages.1", "decoder.stages.1"))
    norm = network.encoder.stages[1][0].convs[-1].norm
    readers = [network.encoder.stages[2][0].convs[0].conv.weight, network.decoder.stages[0].convs[0].conv.weight[:, 8:]]
    with torch.no_grad():
        norm.weight.mul_(0.1)
        norm.bias.mul_(0.1)
        for weight in readers:
            weight.mul_(10)
    after = network(images).detach()
    torch.testing.assert_close(after, before, rtol=1e-11, atol=1e-12)
    scaled = seen["encoder.stages.1"].detach()
    ratio = internal_feature_distillation(scaled) / internal_feature_distillation(stage)
    assert ratio.item() == pytest.approx(0.01, rel=1e-9)
    # and the part of SCR that the student can change
    assert sum(parts(scaled.numpy(), teacher.numpy())[:2]) < sum(parts(stage.numpy(), teacher.numpy())[:2])


def test_the_losses_are_called_as_the_page_says():
    """In a process of its own: the values are the reference's, both halves get a gradient, nnU-Net is not imported."""
    part = (ROOT / "documentation" / "what_it_does.md").read_text().partition("## The losses in other code")[2]
    lines = [line.removeprefix("    ") for line in part.splitlines() if line.startswith("    ")]
    check = (
        "import sys, numpy, reference",
        "drawn = of_student.numpy(), of_teacher.numpy()",
        "first = reference.semantic_consistency(student.detach().numpy(), teacher.numpy(), *drawn)",
        "second = reference.internal_feature_distillation(student.detach().numpy())",
        "numpy.testing.assert_allclose([scr.item(), ifd.item()], [first[0], second[0]], rtol=1e-5)",
        "expected = 0.015 * first[1] + 0.015 * second[1]",
        "numpy.testing.assert_allclose(student.grad, expected, rtol=1e-4, atol=1e-9)",
        "assert 'nnunetv2' not in sys.modules",
    )
    environment = os.environ | {"PYTHONPATH": str(Path(reference.__file__).parent)}
    subprocess.run([sys.executable, "-c", "\n".join([*lines, *check])], env=environment, check=True)


def test_the_page_shows_the_numbers_of_the_committed_measurement():
    """Its table is the one that plots.py prints; so a new measurement cannot leave old numbers behind."""
    example = ROOT / "examples" / "what_it_does"
    program = {"__name__": "plots"}
    exec((example / "plots.py").read_text(), program)
    page = (ROOT / "documentation" / "what_it_does.md").read_text()
    results = json.loads((example / "results.json").read_text())
    for line in program["table"](results):
        assert line in page


def said():
    """The page's sentences that hold a number, with the number from the committed measurement."""
    results = json.loads((ROOT / "examples" / "what_it_does" / "results.json").read_text())
    first, *between, last = [list(of["stages"].values()) for of in results["epochs"]]
    every = [each for stages in (first, *between, last) for each in stages]

    def ends(stages, of, form=".2f"):
        found = sorted(map(of, stages))
        return f"{found[0]:{form}} to {found[-1]:{form}}"

    def own(of):
        changing = of["student variance"] + of["squared difference of means"]
        return 100 * of["student variance"] / changing

    def over_random(of):
        return of["IFD"] / of["IFD of random pairs"]

    def share(term):
        return f"{term}, % of the gradient"

    dice = results["moving pseudo Dice"]
    of_e1, of_e3 = last[0], last[2]
    of_loss = sorted(of["% of the loss"] for of in results["epochs"][1:])
    scr = {each["scale"]: each["SCR expected"] for each in results["rescaled"]}
    ifd = {each["scale"]: each["IFD"] for each in results["rescaled"]}
    lowest = min(scr, key=scr.get)
    for_five = [results["weight"] * 5 / of[share(term)] for term in ("IFD", "SCR expected") for of in (of_e3, of_e1)]
    at_one = ends(last, lambda of: of[share("IFD")] / results["weight"], ".0f")
    curves = pd.read_csv(ROOT / "examples/study/results/curves.csv").query("arm == 'selfreg'")
    at_end = curves.sort_values("epoch").groupby(["dataset", "repetition", "fold"])["share"].last()
    of_study = at_end.groupby("dataset").mean()
    most = max(of[share(term)] for of in last for term in ("SCR drawn", "IFD"))
    noise = sorted(of[share("SCR expected")] / of[share("SCR drawn")] for of in last)
    return {
        # nnU-Net's moving mean is 0.9 times the one before and 0.1 times the epoch's
        f"pseudo Dice {(dice[-1] - 0.9 * dice[-2]) / 0.1:.2f} in its last epoch": True,
        f"{ends(first, lambda of: of['cosine of one draw'])} before the training and "
        f"{ends(last, lambda of: of['cosine of one draw'])} after it": True,
        f"{ends(first, own, '.0f')} % is the variance of its own channels before the training, "
        f"{ends(last, own, '.0f')} % after it": True,
        f"rises from at most {max(of['teacher variance'] for of in first):.2f} to between "
        f"{ends(last, lambda of: of['teacher variance']).replace('to', 'and')}": True,
        "SCR doubles while it is penalised": all(
            after["SCR expected"] > 1.9 * before["SCR expected"] for before, after in zip(first, last, strict=True)
        ),
        f"IFD was {ends(first, over_random)} times this before the training, {ends(last, over_random)} times after it, "
        f"and up to {max(map(over_random, every)):.2f} times in between": True,
        f"SCR falls less, by up to {100 * (1 - scr[lowest] / scr[1]):.0f} % at $a={lowest}$": True,
        "with $a=0.1$ IFD is 1/100": ifd[0.1] == pytest.approx(ifd[1] / 100),
        "no logit changes by more than 5e-16": all(
            each["change of the logits"] < 5e-16 for each in results["rescaled"]
        ),
        "SCR rises again": scr[0.1] > scr[lowest],
        f"SCR reaches {max(of[share('SCR drawn')] for of in every):.1f} % and IFD "
        f"{max(of[share('IFD')] for of in every):.1f} %": True,
        f"After the fourth, {most:.1f} % is the most, and seven of the ten shares are below 0.5 %": sum(
            of[share(term)] < 0.5 for of in last for term in ("SCR drawn", "IFD")
        )
        == 7,
        "a fifth to two fifths of a draw's": noise[0] > 0.2 and noise[-1] < 0.41,
        f"two fifths of a draw's: {ends(last, lambda of: of[share('SCR expected')])} %": True,
        "IFD and SCR's expectation pull almost five times as hard at E3 as at E1": all(
            4.5 < of_e3[share(term)] / of_e1[share(term)] < 5 for term in ("IFD", "SCR expected")
        ),
        f"From the first epoch on it is {of_loss[0]:.0f} to {of_loss[-1]:.0f} %": True,
        f"The study's trainings end at {100 * min(of_study):.0f} to {100 * max(of_study):.0f} %": True,
        f"shares of {at_one} % from IFD": True,
        "IFD would need about {:.2f} at E3 and {:.1f} at E1, SCR's expectation about {:.1f} and {:.1f}".format(
            *for_five
        ): True,
    }


@pytest.mark.parametrize("sentence", said())
def test_the_page_says_what_was_measured(sentence):
    page = " ".join((ROOT / "documentation" / "what_it_does.md").read_text().split())
    assert sentence in page
    assert said()[sentence]
