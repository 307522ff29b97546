"""The losses against the slow reference, the published code's vectors, and the inputs that break things."""

import numpy as np
import pytest
import reference
import torch
from vectors import VECTORS, cases

from nnunetv2_selfreg.losses import TeacherPyramid, draw_channels, internal_feature_distillation, semantic_consistency

BOUND = {torch.float64: 1e-10, torch.float32: 1e-5}

SHAPES = [
    (2, 8, 6, 6),
    (1, 2, 4, 5),
    (3, 7, 5, 3),  # odd channels
    (2, 1, 4, 4),  # one channel: no IFD
    (2, 5, 1, 1),  # one pixel
    (2, 6, 3, 4, 5),
    (1, 9, 1, 4, 6),  # one slice
    (2, 4, 11),
]


def random_map(shape, seed=0):
    return np.random.default_rng(seed).normal(0.3, 1.0, shape)


def loss_and_gradient(function, feature, dtype, *arguments):
    tensor = torch.as_tensor(feature).to(dtype).clone().requires_grad_()
    loss = function(tensor, *arguments)
    loss.backward()
    return loss.item(), tensor.grad.double().numpy()


def assert_agrees(found, expected, relative):
    loss, gradient = found
    expected_loss, expected_gradient = expected
    assert loss == pytest.approx(expected_loss, rel=relative, abs=1e-300)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=relative * abs(expected_gradient).max())


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("shape", SHAPES)
def test_ifd_agrees_with_slow_reference(shape, dtype):
    feature = random_map(shape)
    found = loss_and_gradient(internal_feature_distillation, feature, dtype)
    assert_agrees(found, reference.internal_feature_distillation(feature), BOUND[dtype])


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize(
    ("student_shape", "teacher_shape"),
    [
        ((2, 8, 4, 4), (2, 3, 8, 8)),
        ((2, 3, 8, 8), (2, 8, 4, 4)),  # the student is the finer one
        ((1, 5, 3, 7), (1, 5, 8, 5)),  # one axis each, sizes that do not divide
        ((2, 4, 1, 1), (2, 4, 6, 6)),
        ((2, 6, 4, 3, 5), (2, 4, 4, 7, 9)),  # anisotropic 3D
        ((3, 2, 9), (3, 4, 4)),
    ],
)
def test_scr_agrees_with_slow_reference(student_shape, teacher_shape, dtype):
    student, teacher = random_map(student_shape, 1), random_map(teacher_shape, 2)
    (channels,) = draw_channels([student_shape[1]], teacher_shape[1], torch.Generator().manual_seed(3))
    found = loss_and_gradient(semantic_consistency, student, dtype, torch.tensor(teacher, dtype=dtype), *channels)
    expected = reference.semantic_consistency(student, teacher, *(c.numpy() for c in channels))
    assert_agrees(found, expected, BOUND[dtype])


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("case", cases("ifd"))
def test_ifd_agrees_with_published_code(case, dtype):
    found = loss_and_gradient(internal_feature_distillation, VECTORS[f"{case}_feature"], dtype)
    assert_agrees(found, (VECTORS[f"{case}_loss"], VECTORS[f"{case}_grad"]), BOUND[dtype])


@pytest.mark.parametrize("dtype", BOUND)
@pytest.mark.parametrize("case", cases("scr"))
def test_scr_agrees_with_published_code(case, dtype):
    teacher = torch.tensor(VECTORS[f"{case}_teacher"], dtype=dtype)
    channels = [torch.tensor(VECTORS[f"{case}_{side}_channels"]) for side in ("student", "teacher")]
    found = loss_and_gradient(semantic_consistency, VECTORS[f"{case}_student"], dtype, teacher, *channels)
    assert_agrees(found, (VECTORS[f"{case}_loss"], VECTORS[f"{case}_grad"]), BOUND[dtype])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 8, 16, 16), (2, 6, 8, 8, 8)])
def test_half_precision_loses_only_what_the_format_loses(shape, dtype):
    """The reference sees the rounded maps, so what is left is the rounding of the gradient to the format."""
    student, teacher = (torch.tensor(random_map(shape, seed)).to(dtype) for seed in (1, 2))
    coarse = teacher[..., ::2]
    (channels,) = draw_channels([shape[1]], shape[1], torch.Generator().manual_seed(0))
    rounded, coarse_rounded = student.double().numpy(), coarse.double().numpy()
    for found, expected in (
        (
            loss_and_gradient(internal_feature_distillation, student, dtype),
            reference.internal_feature_distillation(rounded),
        ),
        (
            loss_and_gradient(semantic_consistency, student, dtype, coarse, *channels),
            reference.semantic_consistency(rounded, coarse_rounded, *(c.numpy() for c in channels)),
        ),
    ):
        assert found[0] == pytest.approx(expected[0], rel=1e-5)
        resolution = torch.finfo(dtype)
        bound = resolution.eps * abs(expected[1]) + resolution.smallest_normal * resolution.eps
        assert (abs(found[1] - expected[1]) <= bound).all()


def test_losses_of_half_precision_maps_are_single_precision():
    feature = torch.ones(1, 2, 3, 3, dtype=torch.float16)
    (channels,) = draw_channels([2], 2)
    assert internal_feature_distillation(feature).dtype == torch.float32
    assert internal_feature_distillation(feature[:, :1]).dtype == torch.float32
    assert semantic_consistency(feature, feature, *channels).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 300.0, -300.0])
@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (1, 3, 1, 1), (2, 1, 8, 8), (1, 4, 8, 8, 8)])
def test_extreme_maps_give_finite_losses_and_gradients(shape, value, dtype):
    student = torch.full(shape, value, dtype=dtype)
    student[:, ::2] *= -1  # otherwise the IFD of a constant map is 0 for any formula
    student.requires_grad_()
    teacher = torch.full((shape[0], 4, *(2 * n for n in shape[2:])), -value, dtype=dtype)
    loss = internal_feature_distillation(student) + semantic_consistency(
        student, teacher, *draw_channels([shape[1]], 4, torch.Generator().manual_seed(0))[0]
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    if value == 0:
        assert loss == 0


def test_teacher_gets_no_gradient():
    student, teacher = (torch.randn(1, 2, 4, 4, requires_grad=True) for _ in range(2))
    semantic_consistency(student, teacher, *draw_channels([2], 2)[0]).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_drawn_channels_are_distinct_valid_and_repeatable():
    students, teacher = (8, 3, 5, 1), 5
    first = draw_channels(students, teacher, torch.Generator().manual_seed(7))
    again = draw_channels(students, teacher, torch.Generator().manual_seed(7))
    assert len(first) == len(students)
    for student, drawn_pair, repeated_pair in zip(students, first, again, strict=True):
        for drawn, repeated, available in zip(drawn_pair, repeated_pair, (student, teacher), strict=True):
            assert drawn.dtype == torch.int64
            assert len(set(drawn.tolist())) == len(drawn) == min(student, teacher)
            assert set(drawn.tolist()) <= set(range(available))
            assert torch.equal(drawn, repeated)


def test_every_channel_is_drawn_equally_often_and_independently():
    generator = torch.Generator().manual_seed(0)
    within, between = np.zeros((4, 4)), np.zeros((4, 4))
    for _ in range(4000):
        (student, teacher), (other, _) = draw_channels([4, 7], 4, generator)
        within[student[0], teacher[0]] += 1
        between[student[0], other[0] % 4] += 1
    # 16 equally likely pairs: chi-square with 15 degrees of freedom, its 99.99th percentile is 44.3
    assert ((within - 250) ** 2 / 250).sum() < 44.3
    expected = np.outer([1000] * 4, [2 / 7, 2 / 7, 2 / 7, 1 / 7])  # channels 0 to 6, counted modulo 4
    assert ((between - expected) ** 2 / expected).sum() < 44.3


@pytest.mark.parametrize("sizes", [(16, 16), (12, 20), (9, 15), (8, 4, 12)])
def test_the_teacher_pyramid_is_the_teacher_pooled_to_each_grid(sizes):
    teacher = random_map((2, 3, *sizes))
    pyramid = TeacherPyramid(torch.tensor(teacher))
    for divisor in (1, 2, 4, 3):  # 3 after 4: its source cannot be the smallest level
        grid = tuple(max(1, size // divisor) for size in sizes)
        found = pyramid.at(torch.zeros(2, 5, *grid))
        np.testing.assert_allclose(found.numpy(), reference.pooled(teacher, grid), rtol=1e-12, atol=1e-15)
        assert pyramid.at(torch.zeros(2, 1, *grid)) is found


def test_the_pyramid_is_exact_also_where_a_level_does_not_divide_the_teacher():
    """As in a network whose max pooling rounds down: 100, 12, 6."""
    teacher = random_map((1, 2, 100))
    pyramid = TeacherPyramid(torch.tensor(teacher))
    for size in (50, 12, 6):
        found = pyramid.at(torch.zeros(1, 1, size))
        np.testing.assert_allclose(found.numpy(), reference.pooled(teacher, (size,)), rtol=1e-12, atol=1e-15)


def test_a_student_finer_than_the_teacher_sees_the_teacher_itself():
    pyramid = TeacherPyramid(torch.zeros(1, 2, 4, 6))
    assert pyramid.at(torch.zeros(1, 1, 8, 3)).shape == (1, 2, 4, 3)


def test_losses_keep_nothing_of_their_own_for_backward():
    """Beside the maps, which the network keeps anyway, only indices are saved."""
    student, teacher = torch.randn(2, 8, 16, 16, requires_grad=True), torch.randn(2, 4, 16, 16)
    (channels,) = draw_channels([8], 4)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        loss = internal_feature_distillation(student) + semantic_consistency(student, teacher, *channels)
    own = [t for t in saved if t.data_ptr() not in (student.data_ptr(), teacher.data_ptr())]
    assert sum(t.numel() for t in own) <= 2 * 8 + 2 * 4
    loss.backward()
