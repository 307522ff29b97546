"""The registry of terms: what a term of one's own computes, and how students are averaged."""

import numpy as np
import pytest
import torch
from networks import anchored, plain_unet, recorded, selfreg_settings
from test_criterion import BaseLoss, batch, slow_terms

from nnunetv2_selfreg.anchors import Anchor, weighted
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps
from nnunetv2_selfreg.terms import BUILT_IN, IFD, SCR, Step, own_term

CPU = torch.device("cpu")


def contrast(student, teacher):
    """Any function with a gradient that is easily written down: mean of (student - mean of the teacher) squared."""
    return (student - teacher.mean()).square().mean()


def with_gradient(term, student, teacher, weight=1.0):
    """The term's value of one student; gives the student its gradient."""
    anchor = Anchor()
    _, link = anchor.lay(student)
    losses = term.compute([student.detach()], Step(teacher))
    weighted(losses.values[None], torch.full((1, 1), weight), [losses.gradients], [anchor], [link]).backward()
    return losses.values


def test_a_term_of_ones_own_has_its_functions_value_and_gradient():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 2, 8, 5, generator=generator, dtype=torch.float64)
    values = with_gradient(own_term("contrast", contrast, 0.5), student, teacher, weight=0.5)
    difference = student.detach().numpy() - teacher.numpy().mean()
    assert values.tolist() == pytest.approx([np.mean(difference**2)], rel=1e-12)
    np.testing.assert_allclose(student.grad, 0.5 * 2 * difference / difference.size, rtol=1e-12)


def test_own_terms_stand_beside_the_built_in_ones():
    terms = (*BUILT_IN, own_term("contrast", contrast, 0.5, average="parts"))
    settings = SelfRegSettings.from_plans({"selfreg": {"lambda_scr": 0.3}}, terms)
    assert settings.weights == {"scr": 0.3, "ifd": 0.015, "contrast": 0.5}
    network = plain_unet(features=(4, 6, 8, 5))
    criterion = SelfRegCriterion(BaseLoss(), StageTaps(network, settings), settings, CPU, terms, seed=1)
    images, target = batch()
    network(images)
    features = criterion.taps.take()
    expected = slow_terms(features, seed=1)
    groups = [
        np.mean([((f.detach().numpy() - features.teacher.detach().numpy().mean()) ** 2).mean() for f in group])
        for group in (features.encoder, features.decoder)
    ]
    output = network(images)
    base = BaseLoss()(output, target).item()
    found = criterion(output, target).item()
    assert found == pytest.approx(base + 0.3 * expected["scr"] + 0.015 * expected["ifd"] + 0.5 * sum(groups), rel=1e-5)
    assert criterion.take_means()["contrast"] == pytest.approx(sum(groups), rel=1e-5)


def test_the_network_gets_the_own_terms_gradient():
    """As if the term had been written into the loss and autograd had done the rest."""
    images, target = batch()
    networks = [plain_unet(features=(4, 6, 8)).double() for _ in range(2)]
    terms = (own_term("contrast", contrast, 0.7),)
    settings = SelfRegSettings.from_plans({}, terms)
    criterion = SelfRegCriterion(BaseLoss(), StageTaps(networks[0], settings), settings, CPU, terms)
    criterion(networks[0](images.double()), target).backward()
    maps = recorded(networks[1])
    loss = BaseLoss()(networks[1](images.double()), target)
    *students, teacher = [maps[name] for modules in criterion.taps.stages for name in modules]
    loss = loss + 0.7 * sum(contrast(s, teacher.detach()) for s in students) / len(students)
    loss.backward()
    for found, expected in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_half_precision_maps_reach_the_function_in_float32_also_under_autocast():
    seen = []

    def loss(student, teacher):
        seen.extend([student.dtype, teacher.dtype, (student[0] @ student[0].mT).dtype])
        return student.square().mean()

    student = torch.full((1, 2, 4, 4), 300.0, dtype=torch.float16, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = with_gradient(own_term("square", loss, 1.0), student, student)
    assert set(seen) == {torch.float32}
    assert values.tolist() == [300.0**2]
    assert student.grad.dtype == torch.float16
    assert student.grad.isfinite().all()


def test_a_term_must_give_a_scalar():
    term = own_term("wrong", lambda student, teacher: student, 1.0)
    with pytest.raises(SelfRegError, match="the term 'wrong' must give a scalar tensor"):
        term.compute([torch.zeros(1, 1, 2, 2)], Step(torch.zeros(1, 1, 2, 2)))


@pytest.mark.parametrize("written", [0, 1], ids=["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_term_must_not_write_into_its_maps(written, dtype):
    def loss(*maps):
        maps[written].sub_(1)
        return maps[0].mean()

    term = own_term("writes", loss, 1.0)
    with pytest.raises(SelfRegError, match="the term 'writes' writes into a map that it is given"):
        term.compute([torch.zeros(1, 1, 2, 2, dtype=dtype)], Step(torch.zeros(1, 1, 2, 2, dtype=dtype)))


def test_a_term_that_reads_labels_gets_them_as_the_loss_does_and_is_refused_without():
    term = own_term(
        "area", lambda student, teacher, labels: student.mean() * (labels == 1).sum(), 1.0, reads_labels=True
    )
    student, labels = torch.ones(1, 2, 2, 2), torch.tensor([[[[0, 1], [2, 1]]]], dtype=torch.int16)
    assert term.compute([student], Step(student, labels=labels)).values.tolist() == [2]
    with pytest.raises(SelfRegError, match="the term 'area' reads labels, and there are none outside a training"):
        term.compute([student], Step(student))


@pytest.mark.parametrize("name", ["loss", "selfreg_share", "Mine", "my term", "", "1st"])
def test_a_name_that_cannot_be_logged_is_refused(name):
    with pytest.raises(SelfRegError, match="a term cannot be called"):
        own_term(name, contrast, 1.0)


def test_two_terms_of_one_name_are_refused():
    terms = (own_term("contrast", contrast, 0.1), own_term("contrast", contrast, 0.2))
    with pytest.raises(SelfRegError, match="several terms called contrast; rename one"):
        SelfRegSettings.from_plans({}, terms)


def test_the_built_in_terms_are_averaged_as_published():
    """SCR over all students, IFD over the encoder's plus over the decoder's (method section of the paper)."""
    assert SCR.student_weights(3, 1) == pytest.approx([1 / 4] * 4)
    assert IFD.student_weights(3, 1) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
    assert IFD.student_weights(2, 0) == pytest.approx([1 / 2, 1 / 2])
    assert IFD.student_weights(0, 1) == pytest.approx([1])


def test_a_trainer_of_one_term_checks_and_ignores_the_other_terms_weight():
    given = {"selfreg": {"lambda_scr": 0.1, "lambda_ifd": 0.2}}
    assert SelfRegSettings.from_plans(given, (SCR,)).weights == {"scr": 0.1}
    with pytest.raises(SelfRegError, match=r"selfreg\.lambda_ifd' must be finite"):
        SelfRegSettings.from_plans({"selfreg": {"lambda_ifd": -1}}, (SCR,))
    with pytest.raises(SelfRegError, match=r"'selfreg\.lambda_contrast' is unknown; known: lambda_scr, lambda_ifd, "):
        selfreg_settings(lambda_contrast=0.1)


def test_a_map_that_only_an_own_term_reads_is_named_when_it_is_not_finite():
    terms = (own_term("contrast", contrast, 0.5),)
    settings = SelfRegSettings.from_plans({}, terms)
    criterion = SelfRegCriterion(torch.nn.Identity(), StageTaps(plain_unet()), settings, CPU, terms)
    criterion.stock.forward = lambda output, target: torch.zeros(())
    maps = [torch.ones(1, 2, 4, 4) for _ in range(4)]
    maps[1][0, 0, 0, 0] = float("nan")
    criterion.taps.take = lambda: anchored(maps[:2], maps[2:3], maps[3])
    criterion(None, None)
    found = criterion.non_finite()
    assert (found.stages, found.what) == (["encoder.stages.2"], "feature maps or the term contrast")


@pytest.mark.parametrize(
    ("built_in", "what"), [((SCR, IFD), "the term contrast"), ((IFD,), "feature maps or the term contrast")]
)
def test_a_term_that_is_not_finite_on_finite_maps_is_named(built_in, what):
    """SCR reads all maps, IFD not the teacher."""
    terms = (*built_in, own_term("contrast", lambda student, teacher: student.sum() / (student.shape[1] - 2), 0.5))
    settings = SelfRegSettings.from_plans({}, terms)
    criterion = SelfRegCriterion(torch.nn.Identity(), StageTaps(plain_unet()), settings, CPU, terms)
    criterion.stock.forward = lambda output, target: torch.zeros(())
    maps = [torch.ones(1, channels, 4, 4) for channels in (4, 2, 4, 4)]
    criterion.taps.take = lambda: anchored(maps[:2], maps[2:3], maps[3])
    criterion(None, None)
    found = criterion.non_finite()
    assert (found.stages, found.what) == (["encoder.stages.2"], what)


def test_a_loss_may_be_a_constant_at_some_students():
    def of_wide_maps(student, teacher):
        return student.square().sum() if student.shape[1] > 2 else student.new_zeros(())

    students = [torch.ones(1, channels, 4, 4, requires_grad=True) for channels in (4, 2)]
    anchors = [Anchor() for _ in students]
    links = [anchor.lay(student)[1] for anchor, student in zip(anchors, students, strict=True)]
    term = own_term("wide", of_wide_maps, 1.0)
    losses = term.compute([student.detach() for student in students], Step(torch.ones(1, 2, 4, 4)))
    weighted(losses.values[None], torch.ones(1, 2), [losses.gradients], anchors, links).backward()
    assert torch.equal(students[0].grad, torch.full((1, 4, 4, 4), 2.0))
    assert not students[1].grad.any()
