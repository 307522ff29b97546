"""The taps: which maps they hand over, when, and that they keep nothing and change nothing."""

import copy
import gc
import weakref

import pytest
import torch
import torch.utils.checkpoint
from networks import plain_unet, recorded, selfreg_settings
from test_criterion import batch, criterion_for

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.taps import StageTaps


def stage_outputs(network, images):
    """The maps by calling the stages one after the other, as the architecture's page draws them."""
    skips = []
    for stage in network.encoder.stages:
        images = stage(images)
        skips.append(images)
    decoder = []
    for i, stage in enumerate(network.decoder.stages):
        images = stage(torch.cat([network.decoder.transpconvs[i](images), skips[-2 - i]], 1))
        decoder.append(images)
    return skips, decoder


@pytest.mark.parametrize("dimensions", [2, 3])
def test_taps_hand_over_the_published_students_and_teacher(dimensions):
    network = plain_unet(dimensions)
    images = torch.randn(2, 1, *[8] * dimensions)
    encoder, decoder = stage_outputs(network, images)
    taps = StageTaps(network)
    network(images)
    features = taps.take()
    assert [f.shape[1] for f in features.encoder] == [8, 16]
    for found, expected in zip(
        [*features.encoder, *features.decoder, features.teacher], [*encoder[1:], *decoder], strict=True
    ):
        assert torch.equal(found, expected)
        assert not found.requires_grad


def test_taps_are_empty_after_take_and_outside_training():
    network = plain_unet()
    taps = StageTaps(network)
    images = torch.randn(1, 1, 8, 8)
    assert taps.take() is None
    network(images)
    assert taps.take() is not None
    assert taps.take() is None
    with torch.no_grad():
        network(images)
    assert taps.take() is None
    network.eval()
    network(images)
    assert taps.take() is None


def test_taps_leave_state_output_and_gradients_as_they_were():
    plain, tapped = plain_unet(), plain_unet()
    taps = StageTaps(tapped)
    images = torch.randn(2, 1, 8, 8)
    assert list(plain.state_dict()) == list(tapped.state_dict())
    outputs = [network(images) for network in (plain, tapped)]
    for output in outputs:
        sum(part.square().sum() for part in output).backward()
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), tapped.parameters(), strict=True))
    taps.remove()
    tapped(images)
    assert taps.take() is None


def test_taken_features_are_not_kept():
    network = plain_unet()
    taps = StageTaps(network)
    network(torch.randn(1, 1, 8, 8))
    features = taps.take()
    watched = [weakref.ref(f) for f in (*features.encoder, *features.decoder, features.teacher)]
    del features
    gc.collect()
    assert all(reference() is None for reference in watched)


def test_a_copy_of_a_tapped_network_does_not_fill_the_original_taps():
    network = plain_unet()
    taps = StageTaps(network)
    copy.deepcopy(network)(torch.randn(1, 1, 8, 8))
    assert taps.take() is None


def test_two_stages_have_no_decoder_student():
    network = plain_unet(features=(4, 8))
    taps = StageTaps(network)
    network(torch.randn(1, 1, 8, 8))
    features = taps.take()
    assert len(features.encoder) == 1
    assert features.decoder == []


def test_log_text_names_stages_and_channels():
    assert str(StageTaps(plain_unet()).stages) == (
        "students encoder.stages.1 (8), encoder.stages.2 (16), decoder.stages.0 (8); teacher decoder.stages.1 (4)"
    )


@pytest.mark.parametrize("network", [torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))])
def test_a_network_that_is_no_unet_is_refused_by_name(network):
    with pytest.raises(
        SelfRegError, match=rf"^SelfReg: {type(network).__name__} has no encoder\.stages and decoder\.stages; name enc"
    ):
        StageTaps(network)


def test_a_stage_without_a_map_is_named():
    network = plain_unet()
    taps = StageTaps(network)
    network.encoder.stages[1].eval()
    network(torch.randn(1, 1, 8, 8))
    with pytest.raises(SelfRegError, match=r"encoder\.stages\.1 gave no feature map"):
        taps.take()


def test_first_and_last_adds_the_first_block_of_each_student_stage():
    network = plain_unet()
    seen = recorded(network)
    taps = StageTaps(network, selfreg_settings(taps="first_and_last"))
    network(torch.randn(1, 1, 8, 8))
    features = taps.take()
    expected = ["encoder.stages.1.0.convs.0", "encoder.stages.1", "encoder.stages.2.0.convs.0", "encoder.stages.2"]
    assert all(torch.equal(found, seen[name]) for found, name in zip(features.encoder, expected, strict=True))
    expected = ["decoder.stages.0.convs.0", "decoder.stages.0"]
    assert all(torch.equal(found, seen[name]) for found, name in zip(features.decoder, expected, strict=True))
    assert "encoder.stages.1 first block (8), encoder.stages.1 (8), " in str(taps.stages)


def test_a_stage_of_one_block_counts_once():
    network = plain_unet(n_conv_per_stage=1, n_conv_per_stage_decoder=1)
    taps = StageTaps(network, selfreg_settings(taps="first_and_last"))
    assert list(taps.stages.encoder) == ["encoder.stages.1", "encoder.stages.2"]


def test_chosen_stages_are_the_students():
    taps = StageTaps(plain_unet(), selfreg_settings(encoder_stages=[0, 2], decoder_stages=[]))
    assert list(taps.stages.encoder) == ["encoder.stages.0", "encoder.stages.2"]
    assert list(taps.stages.decoder) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"encoder_stages": [3]}, r"'selfreg.encoder_stages' names stage 3; .* student stages are 0, 1, 2$"),
        ({"decoder_stages": [1]}, r"'selfreg.decoder_stages' names stage 1; .* student stages are 0$"),
        ({"encoder_stages": [], "decoder_stages": []}, r"no stage of PlainConvUNet is left as a student"),
    ],
)
def test_stages_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(SelfRegError, match=message):
        StageTaps(plain_unet(), selfreg_settings(**settings))


def test_stages_that_are_not_made_of_blocks_cannot_be_tapped_at_the_first():
    network = plain_unet()
    network.encoder.stages[1] = torch.nn.Conv2d(4, 8, 3, 2, 1)
    with pytest.raises(SelfRegError, match=r"encoder\.stages\.1 is not made of blocks; set plans key 'selfreg\.taps'"):
        StageTaps(network, selfreg_settings(taps="first_and_last"))


def test_two_forward_passes_before_one_loss_are_refused():
    network = plain_unet()
    taps = StageTaps(network)
    network(torch.randn(1, 1, 8, 8))
    network(torch.randn(1, 1, 8, 8))
    with pytest.raises(SelfRegError, match=r"encoder\.stages\.1, .* gave more than one feature map before the loss"):
        taps.take()
    network(torch.randn(1, 1, 8, 8))
    assert taps.take() is not None


def test_a_layer_that_writes_into_the_teacher_in_training_alone_is_refused():
    network = plain_unet(deep_supervision=False)
    network.decoder.seg_layers[-1] = torch.nn.Sequential(
        torch.nn.Dropout(0.5, inplace=True), network.decoder.seg_layers[-1]
    )
    images = torch.randn(1, 1, 8, 8)
    taps = StageTaps(network, images=images)  # dropout does nothing in evaluation mode
    network(images)
    with pytest.raises(SelfRegError, match=r"writes into the output of decoder\.stages\.1 in training"):
        taps.take()


class Checkpointed(torch.nn.Module):
    """A stage, or several, whose activations are made again in the backward pass."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, images):
        return torch.utils.checkpoint.checkpoint(self.stage, images, use_reentrant=False)


@pytest.mark.parametrize("inside", [False, True], ids=["around the tap", "inside the tap"])
def test_activation_checkpointing_gives_the_same_gradients_and_leaves_the_taps_empty(inside):
    gradients = []
    for checkpointed in (False, True):
        network = plain_unet(features=(4, 6, 8))
        if checkpointed and inside:  # the tap is on the wrapper, its stage is run again
            network.encoder.stages = torch.nn.Sequential(*map(Checkpointed, network.encoder.stages))
        criterion = criterion_for(network, lambda_scr=0.3, lambda_ifd=0.7)
        if checkpointed and not inside:  # the tapped stage itself is run again
            for i, stage in enumerate(network.encoder.stages):
                network.encoder.stages[i] = Checkpointed(stage)
        images, target = batch()
        criterion(network(images), target).backward()
        assert criterion.taps.take() is None
        gradients.append([p.grad for p in network.parameters()])
    for found, expected in zip(gradients[1], gradients[0], strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected)
