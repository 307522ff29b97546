"""The forms that the study tries: values by slow references, gradients, and that no rescaling lowers them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import plain_unet, recorded
from torch import nn

from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study" / "trainers"))
import selfreg_forms as forms

FORMS = {"attention": forms.attention, "cka": forms.cka, "decorrelation": forms.decorrelation, "probe": forms.probe}


def maps(channels=3, dtype=torch.float64):
    """A student on the coarser grid, its teacher, and labels of two classes on the teacher's grid."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, channels, 4, 5, generator=generator, dtype=dtype) + 0.5
    teacher = torch.randn(2, 2, 8, 10, generator=generator, dtype=dtype)
    labels = torch.randint(0, 3, (2, 1, 8, 10), generator=generator).to(torch.int16)
    return student, teacher, labels


def value(name, student, teacher, labels):
    return FORMS[name](student, teacher, *([labels] if name == "probe" else []))


def blocks(feature):
    """Means of 2 x 2 cells."""
    batch, channels, height, width = feature.shape
    return feature.reshape(batch, channels, height // 2, 2, width // 2, 2).mean((3, 5))


def rows(feature):
    return np.stack([feature[image, :, y, x] for image in range(2) for y in range(4) for x in range(5)])


def slow_attention(student, teacher, labels):
    total = 0
    for image in range(2):
        one, other = (student[image] ** 2).mean(0), blocks((teacher**2).mean(1, keepdims=True))[image, 0]
        total += ((one / np.sqrt((one**2).sum()) - other / np.sqrt((other**2).sum())) ** 2).sum()
    return total / 2


def slow_cka(student, teacher, labels):
    """By the kernels of all pairs of observations."""
    one, other = rows(student), rows(blocks(teacher))
    centring = np.eye(40) - 1 / 40
    kernels = [centring @ x @ x.T @ centring for x in (one, other)]
    return 1 - np.trace(kernels[0] @ kernels[1]) / np.sqrt(
        np.trace(kernels[0] @ kernels[0]) * np.trace(kernels[1] @ kernels[1])
    )


def slow_probe(student, teacher, labels):
    """Ridge regression by least squares with one more row for each channel."""
    x = rows(student)
    x -= x.mean(0)
    ridge = np.sqrt(forms.RIDGE * (x**2).sum(0).mean())
    left = []
    for label in (1, 2):
        y = rows(blocks((labels == label).astype(float)))[:, 0]
        y -= y.mean()
        solution, *_ = np.linalg.lstsq(np.vstack([x, ridge * np.eye(x.shape[1])]), np.append(y, [0] * x.shape[1]), None)
        left.append(1 - (x @ solution) @ y / (y @ y))
    return np.mean(left)


def slow_decorrelation(student, teacher, labels):
    matrix, count = np.corrcoef(rows(student).T), student.shape[1]
    return sum(matrix[i, j] ** 2 for i in range(count) for j in range(count) if i != j) / (count * (count - 1))


SLOW = {
    "attention": slow_attention,
    "cka": slow_cka,
    "decorrelation": slow_decorrelation,
    "probe": slow_probe,
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_its_slow_reference(name):
    inputs = maps()
    expected = SLOW[name](*(each.numpy() for each in inputs))
    assert 0.01 < expected < 1
    assert value(name, *inputs).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_the_gradient_is_that_of_finite_differences(name):
    student, *others = maps()
    assert torch.autograd.gradcheck(lambda student: value(name, student, *others), student.requires_grad_())


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("name", FORMS)
def test_rescaling_a_stage_changes_nothing(name, factor):
    student, teacher, labels = maps(dtype=torch.float32)
    expected = value(name, student, teacher, labels).item()
    assert value(name, student * factor, teacher, labels).item() == pytest.approx(expected, rel=1e-4)
    assert value(name, student, teacher * factor, labels).item() == pytest.approx(expected, rel=1e-4)


def test_the_probe_is_0_where_the_channels_tell_the_classes_and_1_where_they_cannot():
    _, teacher, _ = maps()
    labels = torch.zeros(2, 1, 8, 10)
    labels[:, :, 2:, :4] = 1
    area = torch.from_numpy(blocks(labels.double().numpy()))
    assert forms.probe(torch.cat([3 * area + 1, torch.randn_like(area)], 1), teacher, labels).item() < 0.01
    assert forms.probe(torch.ones_like(area), teacher, labels).item() == 1


def test_the_probe_leaves_out_students_with_few_positions_and_batches_without_foreground():
    student, teacher, labels = maps(channels=11)  # 40 positions
    assert forms.probe(student, teacher, labels).item() == 0
    student, teacher, labels = maps(channels=10)
    assert forms.probe(student, teacher, labels).item() > 0
    assert forms.probe(student, teacher, labels * 0).item() == 0


def test_a_single_channel_has_no_correlation():
    student, teacher, _ = maps(channels=1)
    assert forms.decorrelation(student, teacher).item() == 0


class AnyTarget(nn.Module):
    """A loss of the finest output that needs no target."""

    def forward(self, output, target):
        return output[0].square().mean()


@pytest.mark.parametrize("term", [forms.ATTENTION, forms.CKA, forms.PROBE, forms.DECORRELATION], ids=lambda t: t.name)
def test_a_form_trains_a_network(term):
    """The network's gradient is that of the form written into the loss."""
    images, settings = torch.randn(2, 1, 16, 24, dtype=torch.float64), SelfRegSettings.from_plans({}, (term,))
    labels = torch.randint(0, 3, (2, 1, 16, 24), dtype=torch.int16)
    networks = [plain_unet(features=(4, 6, 8)).double() for _ in range(2)]
    taps, seen = StageTaps(networks[0], settings), recorded(networks[1])
    # under deep supervision the target is a list
    criterion = SelfRegCriterion(AnyTarget(), taps, settings, torch.device("cpu"), (term,))
    criterion(networks[0](images), [labels, labels[..., ::2, ::2]]).backward()
    output = networks[1](images)
    *students, teacher = [seen[name] for modules in taps.stages for name in modules]
    added = sum(value(term.name, student, teacher.detach(), labels) for student in students) / len(students)
    (AnyTarget()(output, None) + term.weight * added).backward()
    for found, expected in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-7, atol=1e-10)
    assert criterion.take_means()[term.name] == pytest.approx(added.item(), rel=1e-5)
    assert added > 0
