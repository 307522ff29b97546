"""SCR's expectation against the mean over each draw that there is, and the setting that asks for it."""

from itertools import permutations, product

import numpy as np
import pytest
import reference
import torch
from compiler import needs_a_compiler
from networks import plain_unet, recorded, selfreg_settings
from test_compile import Training, assert_same
from test_criterion import CPU, BaseLoss, batch, criterion_for

from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.taps import StageTaps
from nnunetv2_selfreg.terms import SCR, Step

SHAPES = [  # student, teacher
    ((2, 4, 3, 2), (2, 2, 6, 4)),
    ((2, 2, 4, 4), (2, 3, 4, 4)),  # fewer channels than the teacher
    ((1, 3, 3, 7), (1, 3, 8, 5)),  # one is finer on one axis each, sizes that do not divide
    ((1, 3, 6, 4), (1, 1, 3, 2)),  # the student is the finer one, a teacher of one channel
    ((1, 2, 1, 2, 3), (1, 3, 2, 4, 5)),
]


def random_maps(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.4).to(dtype) for shape in shapes]


def mean_over_all_draws(student, teacher):
    """Value and gradient by the slow reference: each ordered choice of k channels of both is as likely as the next."""
    sizes = student.shape[1], teacher.shape[1]
    draws = list(product(*(permutations(range(size), min(sizes)) for size in sizes)))
    found = [reference.semantic_consistency(student, teacher, *map(np.array, drawn)) for drawn in draws]
    return np.mean([value for value, _ in found]), np.mean([gradient for _, gradient in found], axis=0)


def expected_scr(student, teacher):
    """The library's value, and the gradient that it adds to one that is there already."""
    losses = SCR.compute([student], Step(teacher, scr_channels="expected"))
    there = torch.ones_like(student)
    added = [
        losses.gradients[0](there.clone(), student, torch.tensor(0.5, dtype=losses.values.dtype), in_place)
        for in_place in (False, True)
    ]
    torch.testing.assert_close(added[0].to(student.dtype), added[1])
    return losses.values.item(), ((added[1].double() - 1) / 0.5).numpy()


@pytest.mark.parametrize(("student_shape", "teacher_shape"), SHAPES)
def test_value_and_gradient_are_the_means_over_all_draws(student_shape, teacher_shape):
    student, teacher = random_maps([student_shape, teacher_shape])
    value, gradient = mean_over_all_draws(student.numpy(), teacher.numpy())
    found, added = expected_scr(student, teacher)
    assert found == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(added, gradient, rtol=1e-9, atol=1e-14)


def test_half_precision_loses_only_what_the_format_loses():
    student, teacher = random_maps(SHAPES[0], torch.float16)
    value, gradient = mean_over_all_draws(student.double().numpy(), teacher.double().numpy())
    found, added = expected_scr(student, teacher)
    assert found == pytest.approx(value, rel=1e-5)
    assert abs(added - gradient).max() < 2 * torch.finfo(torch.float16).eps  # the sum with 1 is rounded


def test_the_network_gets_the_gradient_of_the_closed_form():
    images, target = batch()
    networks = [plain_unet(features=(4, 6, 8, 5)).double() for _ in range(2)]
    criterion = criterion_for(networks[0], lambda_scr=0.3, lambda_ifd=0, scr_channels="expected")
    found = criterion(networks[0](images.double()), target)
    found.backward()
    maps, taps = recorded(networks[1]), StageTaps(networks[1])
    loss = BaseLoss()(networks[1](images.double()), target)
    *students, teacher = [maps[name] for modules in taps.stages for name in modules]
    for student in students:
        final = torch.nn.functional.adaptive_avg_pool2d(teacher.detach(), student.shape[2:])
        scr = (student - final.mean(1, keepdim=True)).square().mean() + final.var(1, correction=0).mean()
        loss = loss + 0.3 / len(students) * scr
    loss.backward()
    torch.testing.assert_close(found, loss)
    for parameter, expected in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_nothing_is_drawn():
    values = []
    for seed in (0, 1):
        network = plain_unet()
        criterion = criterion_for(network, seed=seed, scr_channels="expected")
        before = criterion._generator.get_state()
        criterion(network(batch()[0]), batch()[1])
        assert torch.equal(criterion._generator.get_state(), before)
        values.append(criterion.take_means())
    assert values[0] == values[1]


@needs_a_compiler
@pytest.mark.longer
def test_a_compiled_step_is_the_eager_step():
    given = {"scr_channels": "expected", "lambda_scr": 0.5}
    eager, compiled = Training(False, **given), Training(backend="inductor", terms_compiled=True, **given)
    assert_same(compiled.step(), eager.step())
    assert compiled.criterion.take_means() == pytest.approx(eager.criterion.take_means(), rel=1e-4)


def test_autocast_changes_nothing_in_the_terms():
    settings = selfreg_settings(scr_channels="expected", lambda_ifd=0)
    network = plain_unet()
    criterion = SelfRegCriterion(BaseLoss(), StageTaps(network, settings), settings, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch()[0])
        features = criterion.taps.take()
        criterion.taps.take = lambda: features
        criterion(output, batch()[1])
    students = [*features.encoder, *features.decoder]
    each = [closed_form(student, features.teacher) for student in students]
    assert criterion.take_means()["scr"] == pytest.approx(np.mean(each), rel=1e-4)


def closed_form(student, teacher):
    """The closed form in float64 by numpy, of a student that is the coarser one."""
    final = reference.pooled(teacher.double().numpy(), tuple(student.shape[2:]))
    values = student.double().numpy()
    return ((values - final.mean(1, keepdims=True)) ** 2).mean() + final.var(1).mean()
