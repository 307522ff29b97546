"""How maps are laid out: tokens and channels last become views `(B, C, *spatial)`; what is in doubt is refused."""

import copy
from functools import partial

import pytest
import torch
import torch.utils.checkpoint
from compiler import needs_a_compiler
from networks import plain_unet, recorded, selfreg_settings
from reference import semantic_consistency
from test_taps import Checkpointed
from torch import nn
from transformers import NAMED, LastBlock, TokenBlock, Transformer

from nnunetv2_selfreg.compat import compile_with_hooks
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.layouts import Layout, Trial
from nnunetv2_selfreg.losses import draw_channels
from nnunetv2_selfreg.taps import StageTaps

PATCH = (16, 40)  # not square: 4 x 10 tokens, 2 x 5 merged


def images(batch=2, patch=PATCH):
    return torch.randn(batch, 1, *patch, generator=torch.Generator().manual_seed(0))


def tapped(network, patch=PATCH, **settings):
    return StageTaps(network, selfreg_settings(**(NAMED | settings)), torch.zeros(1, 1, *patch))


class AsMaps(nn.Module):
    """A module whose output is written out as `(B, C, *spatial)`, and read back: what the taps do by views."""

    def __init__(self, module, grid):
        super().__init__()
        self.module, self.grid, self.seen = module, grid, nn.Identity()

    def forward(self, values):
        output = self.module(values)
        rows, columns = self.grid
        if output.ndim == 3:
            feature = torch.stack([output[:, i * columns : (i + 1) * columns] for i in range(rows)], 1)
        else:
            feature = output
        feature = self.seen(feature.permute(0, 3, 1, 2).contiguous())
        return feature.permute(0, 2, 3, 1).reshape(output.shape)


def test_tokens_and_channels_last_are_handed_over_as_maps():
    network = Transformer()
    seen = recorded(network)
    taps = tapped(network)
    network(images())
    features = taps.take()
    tokens, merged = features.encoder
    assert (tokens.shape, merged.shape) == ((2, 6, 4, 10), (2, 12, 2, 5))
    for row in range(4):
        for column in range(10):
            assert torch.equal(tokens[:, :, row, column], seen["tokens"][:, 10 * row + column])
    assert torch.equal(merged, seen["merge"].permute(0, 3, 1, 2))
    assert features.teacher.shape == (2, 4, 16, 40)


def test_a_map_is_a_view_and_goes_back_as_one():
    for shape, layout in [
        ((2, 40, 6), Layout(-1, (4, 10))),
        ((2, 6, 40), Layout(1, (4, 10))),
        ((2, 4, 10, 6), Layout(-1)),
    ]:
        output = torch.randn(shape)
        feature = layout.to_map(output)
        assert feature.shape == (2, 6, 4, 10)
        back = layout.from_map(feature)
        assert feature.data_ptr() == back.data_ptr() == output.data_ptr()
        assert torch.equal(back, output)


def gradients(network, criterion, called=None):
    network.zero_grad()
    criterion((network if called is None else called)(images()), torch.zeros(2, 3, *PATCH)).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def criterion_for(network, taps, compiled=False):
    settings = selfreg_settings(lambda_scr=0.3, lambda_ifd=0.7)
    return SelfRegCriterion(nn.MSELoss(), taps, settings, torch.device("cpu"), compiled=compiled)


@pytest.mark.parametrize(
    "backend", [None, "aot_eager", pytest.param("inductor", marks=[pytest.mark.longer, needs_a_compiler])]
)
def test_gradients_are_those_of_maps_that_are_written_out(backend):
    network, explicit = Transformer(), Transformer()
    explicit.tokens, explicit.merge = AsMaps(explicit.tokens, (4, 10)), AsMaps(explicit.merge, (2, 5))
    named = {"encoder_stages": ["tokens.seen", "merge.seen"]}
    expected = gradients(explicit, criterion_for(explicit, StageTaps(explicit, selfreg_settings(**(NAMED | named)))))
    called = torch.compile(network, backend=backend) if backend else network
    if backend:
        compile_with_hooks()
    found = gradients(network, criterion_for(network, tapped(network), backend == "inductor"), called)
    for name, gradient in found.items():
        wanted = expected[name.replace("tokens.", "tokens.module.").replace("merge.", "merge.module.")]
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    plain = Transformer()
    plain_loss = nn.functional.mse_loss(plain(images()), torch.zeros(2, 3, *PATCH))
    plain_loss.backward()
    assert not torch.allclose(plain.tokens.linear.weight.grad, found["tokens.linear.weight"])


def test_token_maps_under_activation_checkpointing_get_the_same_gradients():
    found = []
    for checkpointed in (False, True):
        network = Transformer()
        criterion = criterion_for(network, tapped(network))
        if checkpointed:
            forward = network.tokens.forward
            network.tokens.forward = partial(torch.utils.checkpoint.checkpoint, forward, use_reentrant=False)
            network.merge = Checkpointed(network.merge)  # its tap is run again, too
        found.append([*gradients(network, criterion).values()])
        assert criterion.taps.take() is None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_a_teacher_may_be_coarser_than_the_students():
    """SCR pools the finer of two maps, whichever it is."""
    network = Transformer()
    taps = tapped(network, encoder_stages=["tokens"], decoder_stages=["final"], teacher="merge")
    criterion = criterion_for(network, taps)
    found = gradients(network, criterion)
    network(images())
    features = taps.take()
    students, teacher = [*features.encoder, *features.decoder], features.teacher.numpy()
    assert teacher.shape[2:] == (2, 5)
    drawn = draw_channels([6, 4], 12, torch.Generator().manual_seed(0))
    expected = [
        semantic_consistency(student.numpy(), teacher, *(channels.numpy() for channels in of_both))[0]
        for student, of_both in zip(students, drawn, strict=True)
    ]
    assert criterion.take_means()["scr"] == pytest.approx(sum(expected) / 2, rel=1e-4)
    assert found["final.weight"].isfinite().all()


def test_output_and_gradients_of_the_network_itself_stay():
    plain, network = Transformer(), Transformer()
    taps = tapped(network)
    outputs = [each(images()) for each in (plain, network)]
    assert torch.equal(*outputs)
    for output in outputs:
        output.square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), network.parameters(), strict=True))
    taps.remove()


def test_the_network_goes_on_with_what_left_the_anchor():
    """So that the gradient is added where the backward pass is; the network's own layout comes after it."""
    network = Transformer()
    taps = tapped(network)
    seen = recorded(network)  # hooks that run after the taps'
    network(images())
    for name in ("tokens", "merge", "up"):
        node, passed = seen[name].grad_fn, []
        while "Anchored" not in node.name():
            passed.append(node.name())
            node = node.next_functions[0][0]
        assert set(passed) <= {"PermuteBackward0", "ViewBackward0"}
    taps.remove()


def test_the_trial_leaves_the_network_as_it_was():
    network = plain_unet(norm_op=nn.BatchNorm2d)
    network.encoder.stages[0].eval()
    before, modes = copy.deepcopy(network.state_dict()), [module.training for module in network.modules()]
    state = torch.get_rng_state()
    StageTaps(network, images=torch.zeros(1, 1, 8, 16))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not module._forward_hooks or "stages" in name for name, module in network.named_modules())


def test_students_come_in_the_order_of_their_calls():
    taps = tapped(Transformer(), encoder_stages=["merge", "tokens"])
    assert list(taps.stages.encoder) == ["tokens", "merge"]


def layout(module, value, patch, convolved=None):
    """The layout that is read off a module that gives `value`, in a network that begins with a convolution."""

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 2, convolved or 1, convolved or 1)
            self.module = module

        def forward(self, images):
            self.stem(images)
            return self.module(value)

    return Trial(network := Network(), torch.zeros(1, 1, *patch)).layout("module", network.module)


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [
        ((1, 5, 16, 32), (32, 64), Layout(1)),
        ((1, 16, 32, 5), (32, 64), Layout(-1)),
        ((1, 11, 13, 7), (32, 64), None),  # no grid of this patch
        ((2, 16, 32, 5), (32, 64), None),  # windows
        ((1, 8, 16, 32), (32, 64), None),  # 8 channels of 16 x 32 or 32 channels of 8 x 16
        ((1, 128, 5), (32, 64), None),  # tokens, but no layer says so
        ((1, 1, 5, 16, 32), (32, 64), None),
        ((1, 5), (32, 64), None),
        ((), (32, 64), None),
    ],
)
def test_shapes_alone(shape, patch, expected):
    if expected:
        assert layout(nn.Identity(), torch.zeros(shape), patch) == expected
    else:
        with pytest.raises(
            SelfRegError, match=r"^SelfReg: module gives \(.*\) for an image of 32 x 64, which is not su"
        ):
            layout(nn.Identity(), torch.zeros(shape), patch)


@pytest.mark.parametrize(
    ("module", "shape", "patch", "expected"),
    [
        (nn.Conv2d(8, 8, 1), (1, 8, 16, 32), (32, 64), Layout(1)),
        (nn.InstanceNorm2d(16), (1, 16, 16, 16), (32, 32), Layout(1)),  # all sizes the same
        (nn.Linear(32, 32), (1, 8, 16, 32), (32, 64), Layout(-1)),
        (nn.Linear(16, 16), (1, 16, 16, 16), (32, 32), None),  # perhaps turned round afterwards
        (nn.Sequential(nn.Conv2d(8, 8, 1), nn.Linear(32, 32)), (1, 8, 16, 32), (32, 64), None),
        (TokenBlock(5), (1, 128, 5), (32, 64), Layout(-1, (8, 16))),
        (TokenBlock(512), (1, 128, 512), (32, 64), Layout(-1, (8, 16))),  # 512 is 16 x 32, too
        (TokenBlock(128), (1, 128, 128), (32, 64), None),
        (TokenBlock(128), (1, 130, 128), (32, 64), None),  # 128 patches and two registers
        (nn.BatchNorm1d(5), (1, 5, 128), (32, 64), Layout(1, (8, 16))),
    ],
)
def test_layers_inside_settle_what_shapes_leave_open(module, shape, patch, expected):
    value = torch.zeros(shape)
    if expected:
        assert layout(module, value, patch) == expected
    else:
        with pytest.raises(SelfRegError, match=r"which is not surely"):
            layout(module, value, patch)


def test_tokens_of_unequal_strides_take_the_grid_of_the_patch_embedding():
    assert layout(TokenBlock(7), torch.zeros(1, 128, 7), (32, 32), convolved=(2, 4)) == Layout(-1, (16, 8))
    # merged by two along each axis
    assert layout(TokenBlock(7), torch.zeros(1, 32, 7), (32, 32), convolved=(2, 4)) == Layout(-1, (8, 4))


def test_grids_of_one_size_and_other_shapes_are_not_guessed():
    """64 tokens of a patch of 16 x 16: 8 x 8 by one stride, 4 x 16 as the embedding's grid."""
    with pytest.raises(SelfRegError, match=r"module gives \(1, 64, 7\) for an image of 16 x 16, which is not surely"):
        layout(TokenBlock(7), torch.zeros(1, 64, 7), (16, 16), convolved=(4, 1))


class Odd(nn.Module):
    """Modules that give no map, each in its way."""

    def __init__(self):
        super().__init__()
        self.shared, self.spare = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)
        self.parts = nn.ModuleList([nn.Conv2d(1, 1, 1)])
        self.pair = _Pair()
        self.norm, self.inplace, self.whole = nn.InstanceNorm2d(1, affine=True), nn.ReLU(inplace=True), nn.Identity()
        self.alias = self.norm

    def forward(self, images):
        twice = self.shared(self.shared(self.parts[0](images)))
        return self.whole(self.inplace(self.norm(self.pair(twice)[0])))


class _Pair(nn.Module):
    def forward(self, images):
        return images, images


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shared", r"shared is called 2 times in a forward pass of Odd; name another module"),
        ("spare", r"spare is not called in a forward pass of Odd; name another module"),
        ("parts", r"parts is not called in a forward pass of Odd; name a part of it, such as parts\.0"),
        ("pair", r"pair gives a tuple, which is no feature map; name another module"),
        ("norm", r"a later layer writes into the output of norm; name that layer"),
        ("alias", r"a later layer writes into the output of alias; name that layer"),
    ],
)
@pytest.mark.parametrize("role", ["student", "teacher"])
def test_modules_without_a_map_are_refused_before_any_step(name, message, role):
    named = {"student": ([name], "whole"), "teacher": (["whole"], name)}[role]
    settings = selfreg_settings(encoder_stages=named[0], decoder_stages=[], teacher=named[1])
    network = Odd()
    with pytest.raises(SelfRegError, match=rf"^SelfReg: {message}"):
        StageTaps(network, settings, torch.zeros(1, 1, 8, 16))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_that_cannot_take_the_patch_is_named():
    with pytest.raises(SelfRegError, match=r"^SelfReg: Transformer fails for an image of shape \(1, 1, 20, 40\), that"):
        tapped(Transformer(), (20, 40))


def test_merging_reads_rows_before_columns():
    """The stand-in itself: what it merges lies together in the image."""
    block = LastBlock(1)
    assert block(torch.zeros(1, 4, 10, 1)).shape == (1, 2, 5, 2)
