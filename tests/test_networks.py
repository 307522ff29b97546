"""Networks of any topology: training steps run, and each gradient is that of the slow reference."""

import numpy as np
import pytest
import reference
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import anchored, selfreg_settings

from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.losses import draw_channels
from nnunetv2_selfreg.taps import StageTaps

CPU = torch.device("cpu")


class MeanSquare(torch.nn.Module):
    """Stands for nnU-Net's loss; with deep supervision the output is a list."""

    def forward(self, output, target):
        return sum(part.square().mean() for part in (output if isinstance(output, list) else [output]))


@st.composite
def topologies(draw):
    """A network as nnU-Net's planners and users configure them, and a batch that fits it."""
    dimensions, stages = draw(st.sampled_from([2, 3])), draw(st.integers(2, 4))
    strides = [[1] * dimensions] + [
        draw(st.lists(st.sampled_from([1, 2]), min_size=dimensions, max_size=dimensions)) for _ in range(stages - 1)
    ]
    bottleneck = [draw(st.integers(1, 3)) for _ in range(dimensions - 1)] + [draw(st.integers(3, 4))]
    architecture, blocks = draw(
        st.sampled_from(
            [
                (PlainConvUNet, "n_conv_per_stage"),
                (ResidualEncoderUNet, "n_blocks_per_stage"),
                (ResidualUNet, "n_blocks_per_stage"),
            ]
        )
    )
    norm = draw(st.sampled_from(["InstanceNorm", "BatchNorm"]))
    arguments = {
        "input_channels": draw(st.integers(1, 3)),
        "n_stages": stages,
        "features_per_stage": [draw(st.integers(1, 9)) for _ in range(stages)],
        "conv_op": getattr(torch.nn, f"Conv{dimensions}d"),
        "kernel_sizes": [draw(st.sampled_from([1, 3])) for _ in range(stages)],
        "strides": strides,
        blocks: [draw(st.integers(1, 3)) for _ in range(stages)],
        "num_classes": 2,
        "n_conv_per_stage_decoder": [draw(st.integers(1, 2)) for _ in range(stages - 1)],
        "conv_bias": True,
        "norm_op": getattr(torch.nn, f"{norm}{dimensions}d"),
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": draw(st.booleans()),
    }
    if architecture is ResidualUNet:
        arguments["n_conv_per_stage_decoder"] = [draw(st.integers(1, 2)) for _ in range(stages - 1)]
    grid = [size * int(np.prod([stride[axis] for stride in strides])) for axis, size in enumerate(bottleneck)]
    shape = [draw(st.integers(1, 2)), arguments["input_channels"], *grid]
    return architecture, arguments, shape


@given(
    topologies(),
    st.sampled_from(["stages", "first_and_last"]),
    st.sampled_from([(0.015, 0.015), (0.5, 0.0), (0.0, 0.5)]),
    st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_unet_trains_and_its_gradients_match_the_slow_reference(topology, kind, weights, seed):
    architecture, arguments, shape = topology
    torch.manual_seed(seed)
    network = architecture(**arguments).double()
    parsed = selfreg_settings(lambda_scr=weights[0], lambda_ifd=weights[1], taps=kind)
    criterion = SelfRegCriterion(MeanSquare(), StageTaps(network, parsed), parsed, CPU, seed=seed)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    images = torch.randn(shape, dtype=torch.float64)

    network(images)
    features = criterion.taps.take()
    leaves = [[f.detach().requires_grad_() for f in group] for group in features[:2]]
    check_against_reference(criterion, leaves, anchored(*leaves, features.teacher), seed)

    for _ in range(2):
        optimizer.zero_grad()
        loss = criterion(network(images), None)
        loss.backward()
        assert torch.isfinite(loss)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())
        optimizer.step()
    assert criterion.non_finite() is None
    assert criterion.taps.take() is None


def check_against_reference(criterion, leaves, features, seed):
    """The gradient of the weighted terms with respect to each student, maps fixed."""
    criterion._generator.manual_seed(seed)
    students = leaves[0] + leaves[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(criterion.taps, "take", lambda: features)
        loss = criterion(torch.zeros(1, dtype=torch.float64), None)
    gradients = torch.autograd.grad(loss, students, allow_unused=True)
    counts = [len(features.encoder), len(features.decoder)]

    final = features.teacher.detach().numpy()
    sizes = [student.shape[1] for student in students]
    channels = draw_channels(sizes, final.shape[1], torch.Generator().manual_seed(seed))
    for position, (student, gradient) in enumerate(zip(students, gradients, strict=True)):
        feature = student.detach().numpy()
        expected = np.zeros_like(feature)
        if "scr" in criterion.weights:
            part = reference.semantic_consistency(feature, final, *(c.numpy() for c in channels[position]))[1]
            expected += criterion.weights["scr"] * part / len(students)
        if "ifd" in criterion.weights:
            group = counts[0] if position < counts[0] else counts[1]
            expected += criterion.weights["ifd"] * reference.internal_feature_distillation(feature)[1] / group
        if "ifd" in criterion.weights and np.diff(np.sort(reference.importance(feature))).min(initial=1) < 1e-9:
            continue  # channels of equal importance: which comes first is rounding
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10 * max(abs(expected).max(), 1e-12))
    criterion._generator.manual_seed(seed)
