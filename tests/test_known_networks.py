"""Stages of networks that are known, and modules by name: which are students and teacher, and what is refused."""

import pytest
import torch
from networks import plain_unet, recorded, selfreg_settings
from torch import nn
from transformers import NAMED, Transformer

from nnunetv2_selfreg.compat import compile_with_hooks
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.networks import known_stages
from nnunetv2_selfreg.taps import StageTaps, choose_students

CPU = torch.device("cpu")


def swin_unetr(dimensions=3):
    nets = pytest.importorskip("monai.networks.nets", reason="monai comes with the extra [dev]")
    torch.manual_seed(0)
    return nets.SwinUNETR(1, 3, feature_size=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 2, 4), spatial_dims=dimensions)


def dyn_unet():
    nets = pytest.importorskip("monai.networks.nets", reason="monai comes with the extra [dev]")
    return nets.DynUNet(2, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[4, 8, 16, 32])


def monai_unet(units=1, channels=(4, 8, 16, 32)):
    nets = pytest.importorskip("monai.networks.nets", reason="monai comes with the extra [dev]")
    return nets.UNet(2, 1, 3, channels, [2] * (len(channels) - 1), num_res_units=units)


def monai_mednext():
    nets = pytest.importorskip("monai.networks.nets", reason="monai comes with the extra [dev]")
    return nets.MedNeXt(2, 4, 1, 3, blocks_down=(1, 1, 1, 1), blocks_bottleneck=1, blocks_up=(1, 1, 1, 1))


class MedNeXt(nn.Module):
    """The layout of the package nnunet_mednext: blocks, and what goes down and up between them, as attributes."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        for i in range(4):
            setattr(self, f"enc_block_{i}", nn.Sequential(nn.Conv2d(4 * 2**i, 4 * 2**i, 3, padding=1)))
            setattr(self, f"down_{i}", nn.Conv2d(4 * 2**i, 8 * 2**i, 2, 2))
        self.bottleneck = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
        for i in (3, 2, 1, 0):
            setattr(self, f"up_{i}", nn.ConvTranspose2d(8 * 2**i, 4 * 2**i, 2, 2))
            setattr(self, f"dec_block_{i}", nn.Sequential(nn.Conv2d(4 * 2**i, 4 * 2**i, 3, padding=1)))
        self.out_0 = nn.Conv2d(4, 3, 1)

    def forward(self, images):
        feature, skips = self.stem(images), []
        for i in range(4):
            skips.append(getattr(self, f"enc_block_{i}")(feature))
            feature = getattr(self, f"down_{i}")(skips[-1])
        feature = self.bottleneck(feature)
        for i in (3, 2, 1, 0):
            feature = getattr(self, f"dec_block_{i}")(getattr(self, f"up_{i}")(feature) + skips[i])
        return self.out_0(feature)


UNET = "model.1.submodule"


@pytest.mark.parametrize(
    ("build", "patch", "encoder", "decoder", "teacher"),
    [
        (
            lambda: swin_unetr(2),
            (64, 96),
            [f"swinViT.layers{i}.0" for i in (1, 2, 3, 4)],
            [f"decoder{i}" for i in (5, 4, 3, 2)],
            "decoder1",
        ),
        (
            dyn_unet,
            (32, 64),
            ["downsamples.0", "downsamples.1", "bottleneck"],
            ["upsamples.0", "upsamples.1"],
            "upsamples.2",
        ),
        (
            monai_unet,
            (32, 64),
            [f"{UNET}.0", f"{UNET}.1.submodule.0", f"{UNET}.1.submodule.1.submodule"],
            [f"{UNET}.1.submodule.2"],
            f"{UNET}.2",
        ),
        (lambda: monai_unet(0, (4, 8, 16)), (32, 64), [f"{UNET}.0", f"{UNET}.1.submodule"], [], f"{UNET}.2"),
        (
            monai_mednext,
            (32, 64),
            ["enc_stages.1", "enc_stages.2", "enc_stages.3", "bottleneck"],
            ["dec_stages.0", "dec_stages.1", "dec_stages.2"],
            "dec_stages.3",
        ),
        (
            MedNeXt,
            (32, 64),
            ["enc_block_1", "enc_block_2", "enc_block_3", "bottleneck"],
            ["dec_block_3", "dec_block_2", "dec_block_1"],
            "dec_block_0",
        ),
    ],
    ids=["SwinUNETR", "DynUNet", "UNet", "UNet without residual units", "MedNeXt", "nnunet_mednext's layout"],
)
def test_known_networks_train_with_their_stages(build, patch, encoder, decoder, teacher):
    network = build()
    seen = recorded(network)
    settings = selfreg_settings()
    taps = StageTaps(network, settings, torch.zeros(1, 1, *patch))
    assert [list(part) for part in taps.stages] == [encoder, decoder, [teacher]]
    criterion = SelfRegCriterion(nn.MSELoss(), taps, settings, CPU)
    images = torch.randn(2, 1, *patch)
    output = network(images)
    features = taps.take()
    students = [*features.encoder, *features.decoder, features.teacher]
    for name, feature in zip([*encoder, *decoder, teacher], students, strict=True):
        assert torch.equal(feature, seen[name])
    # the class of a network is no feature of it
    assert features.teacher.shape[2:] == tuple(size // (2 if teacher == f"{UNET}.2" else 1) for size in patch)
    assert not torch.equal(features.teacher, output)
    criterion(network(images), torch.zeros(2, 3, *patch)).backward()
    assert all(value > 0 for value in criterion.take_means().values())


@pytest.mark.slow
def test_a_compiled_swin_unetr_trains_as_the_eager_one():
    settings, found = selfreg_settings(), []
    images = torch.randn(2, 1, 64, 96)
    for compiled in (False, True):
        network = swin_unetr(2)
        taps = StageTaps(network, settings, torch.zeros(1, 1, 64, 96))
        criterion = SelfRegCriterion(nn.MSELoss(), taps, settings, CPU)
        called = torch.compile(network, backend="aot_eager") if compiled else network
        if compiled:
            compile_with_hooks()
        criterion(called(images), torch.zeros(2, 3, 64, 96)).backward()
        found.append([criterion.take_means(), *(p.grad for p in network.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_the_published_transformer_form_taps_the_first_block_of_each_swin_layer():
    network = swin_unetr()
    seen = recorded(network)
    taps = StageTaps(network, selfreg_settings(taps="first_and_last"), torch.zeros(1, 1, 32, 64, 64))
    network(torch.randn(1, 1, 32, 64, 64))
    features = taps.take()
    assert len(features.encoder) == 8
    for i, channels in ((1, 12), (2, 24), (3, 48), (4, 96)):
        first, last = features.encoder[2 * i - 2 : 2 * i]
        assert torch.equal(first, seen[f"swinViT.layers{i}.0.blocks.0"].permute(0, 4, 1, 2, 3))
        assert torch.equal(last, seen[f"swinViT.layers{i}.0"])
        assert (first.shape[1], last.shape[1]) == (channels, 2 * channels)
    assert list(taps.stages.decoder) == [f"decoder{i}" for i in (5, 4, 3, 2)]


def test_indices_count_the_stages_of_a_known_network():
    chosen = choose_students(dyn_unet(), selfreg_settings(encoder_stages=[0, 3], decoder_stages=[1]))
    assert [list(part) for part in chosen[:2]] == [["input_block", "bottleneck"], ["upsamples.1"]]


def test_a_network_of_a_known_name_with_other_modules_is_not_known():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(1, 2, 2, 2), nn.ConvTranspose2d(2, 1, 2, 2)

    assert not known_stages(UNet()).encoder
    with pytest.raises(
        SelfRegError, match=r"^SelfReg: UNet has no encoder\.stages and decoder\.stages; name encoder_st"
    ):
        choose_students(UNet(), selfreg_settings())


def test_names_and_indices_of_a_unet_can_be_mixed():
    settings = selfreg_settings(
        encoder_stages=[2, "encoder.stages.1.0.convs.0"], teacher="decoder.stages.0", decoder_stages=[1]
    )
    taps = StageTaps(plain_unet(), settings, torch.zeros(1, 1, 8, 16))
    assert [list(part) for part in taps.stages] == [
        ["encoder.stages.1.0.convs.0", "encoder.stages.2"],
        ["decoder.stages.1"],
        ["decoder.stages.0"],
    ]


class Primus(nn.Module):
    """The names of Primus: an embedding, blocks of tokens, a decoder of one path."""

    def __init__(self):
        super().__init__()
        self.down_projection = nn.Conv2d(1, 6, 4, 4)
        self.eva = nn.Module()
        self.eva.blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)) for _ in range(8)])
        self.up_projection = nn.Module()
        self.up_projection.decode = nn.Sequential(
            nn.Sequential(nn.ConvTranspose2d(6, 8, 2, 2)),
            nn.Sequential(nn.ConvTranspose2d(8, 8, 1)),
            nn.ConvTranspose2d(8, 3, 2, 2),
        )

    def forward(self, images):
        embedded = self.down_projection(images)
        tokens = embedded.flatten(2).transpose(1, 2)
        for block in self.eva.blocks:
            tokens = block(tokens)
        return self.up_projection.decode(tokens.transpose(1, 2).unflatten(2, embedded.shape[2:]))


def test_primus_is_refused_with_what_to_name_and_trains_so():
    with pytest.raises(SelfRegError, match=r"^SelfReg: Primus has one resolution and no decoder stages") as refused:
        StageTaps(Primus())
    assert "\n" not in str(refused.value)
    named = {"encoder_stages": ["eva.blocks.3", "eva.blocks.7"], "decoder_stages": ["up_projection.decode.0"]}
    named |= {"teacher": "up_projection.decode.1"}
    assert all(str(value).replace("'", '"') in str(refused.value) for value in named.values())
    network = Primus()
    taps = StageTaps(network, selfreg_settings(**named), torch.zeros(1, 1, 16, 40))
    network(torch.randn(2, 1, 16, 40))
    features = taps.take()
    assert [f.shape for f in features.encoder] == [(2, 6, 4, 10)] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {},
            r"Transformer has no encoder\.stages and decoder\.stages; name encoder_stages, decoder_stages and teacher",
        ),
        ({**NAMED, "decoder_stages": None}, r"Transformer has no encoder\.stages"),
        ({**NAMED, "encoder_stages": [0]}, r"Transformer has no encoder\.stages"),
        ({**NAMED, "teacher": None}, r"Transformer has no encoder\.stages"),
        ({**NAMED, "teacher": "fnal"}, r"plans key 'selfreg\.teacher' names 'fnal', which .* the nearest: final \("),
        (
            {**NAMED, "encoder_stages": ["norm"]},
            r"plans key 'selfreg\.encoder_stages' names 'norm', .* nearest: tokens\.norm \(all: .*--list-modules\)$",
        ),
        (
            {**NAMED, "decoder_stages": ["final"]},
            r"final is named twice; name each student once, and not the teacher among",
        ),
        ({**NAMED, "decoder_stages": ["merge"]}, r"merge is named twice"),
        ({**NAMED, "encoder_stages": [], "decoder_stages": []}, r"no stage of Transformer is left as a student"),
        ({**NAMED, "taps": "first_and_last"}, r"tokens is not made of blocks; set plans key 'selfreg\.taps' to stages"),
    ],
)
def test_names_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(SelfRegError, match=rf"^SelfReg: {message}"):
        choose_students(Transformer(), selfreg_settings(**settings))


def test_an_ending_that_fits_several_modules_names_them_all():
    with pytest.raises(
        SelfRegError, match=r"names 'blocks\.0', .* nearest: swinViT\.layers1\.0\.blocks\.0, swinViT\.l"
    ):
        choose_students(swin_unetr(), selfreg_settings(teacher="blocks.0"))


def test_two_names_of_one_module_are_refused():
    network = Transformer()
    network.other = network.merge
    settings = selfreg_settings(**NAMED | {"encoder_stages": ["merge", "other"]})
    with pytest.raises(SelfRegError, match=r"^SelfReg: merge and other are one; name each student once"):
        choose_students(network, settings)


def test_the_last_decoder_stage_is_no_teacher_and_student_at_once():
    with pytest.raises(SelfRegError, match=r"decoder\.stages\.0 is named twice"):
        choose_students(plain_unet(), selfreg_settings(teacher="decoder.stages.0"))
