"""The criterion: what it adds to nnU-Net's loss, what it counts, and that it keeps nothing."""

import gc
import weakref

import numpy as np
import psutil
import pytest
import reference
import torch
from networks import anchored, plain_unet, recorded, selfreg_settings
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch._subclasses.fake_tensor import FakeTensorMode
from vectors import VECTORS

from nnunetv2_selfreg import losses
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.losses import add_distillation_gradient, draw_channels
from nnunetv2_selfreg.taps import StageTaps

CPU = torch.device("cpu")


class BaseLoss(torch.nn.Module):
    """Stands for nnU-Net's deep-supervision loss."""

    def forward(self, output, target):
        return sum(torch.nn.functional.cross_entropy(part, target) for part in output[:1])


def criterion_for(network, seed=0, compiled=False, **settings):
    chosen = selfreg_settings(**settings)
    return SelfRegCriterion(BaseLoss(), StageTaps(network, chosen), chosen, CPU, seed=seed, compiled=compiled)


def total(criterion, features):
    """What the criterion adds to nnU-Net's loss for these maps."""
    criterion.stock = torch.nn.Module()
    criterion.stock.forward = lambda output, target: torch.zeros((), dtype=features.teacher.dtype)
    criterion.taps.take = lambda: features
    return criterion(None, None)


def batch(size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 1, size, size, generator=generator), torch.randint(3, (2, size, size), generator=generator)


def drawn(students, teacher, generator):
    return draw_channels([student.shape[1] for student in students], teacher.shape[1], generator)


def slow_terms(features, seed):
    """SCR and IFD of the maps by the slow reference, with the channels drawn again from the seed."""
    generator = torch.Generator().manual_seed(seed)
    final = features.teacher.detach().numpy()
    students = [*features.encoder, *features.decoder]
    scr = [
        reference.semantic_consistency(student.numpy(), final, *(c.numpy() for c in channels))[0]
        for student, channels in zip(students, drawn(students, final, generator), strict=True)
    ]
    ifd = sum(
        np.mean([reference.internal_feature_distillation(f.detach().numpy())[0] for f in group])
        for group in (features.encoder, features.decoder)
        if group
    )
    return {"scr": np.mean(scr), "ifd": ifd}


@pytest.mark.parametrize("features", [(4, 8, 16), (4, 8), (3, 5, 7, 9)])
@pytest.mark.parametrize("weights", [(0.015, 0.015), (0.1, 0.0), (0.0, 2.0), (0.0, 0.0)])
def test_loss_is_nnunets_plus_the_weighted_terms(features, weights):
    network = plain_unet(features=features)
    images, target = batch()
    criterion = criterion_for(network, seed=5, lambda_scr=weights[0], lambda_ifd=weights[1])
    network(images)
    expected_terms = slow_terms(criterion.taps.take(), seed=5)
    output = network(images)
    base = BaseLoss()(output, target).item()
    expected = base + weights[0] * expected_terms["scr"] + weights[1] * expected_terms["ifd"]
    assert criterion(output, target).item() == pytest.approx(expected, rel=1e-5)
    active = {name: expected_terms[name] for name, weight in zip(("scr", "ifd"), weights, strict=True) if weight}
    expected_means = {"loss": abs(base), **active} if active else {}
    assert criterion.take_means() == pytest.approx(expected_means, rel=1e-5)


@pytest.mark.skipif("unet_loss" not in VECTORS, reason="the complete set of vectors is not at hand")
def test_whole_network_agrees_with_published_code():
    """Two terms of weight 1 over a U-Net's maps; the draws are the published ones, handed in in their order."""
    names = [f"enc{i}" for i in range(4)] + [f"dec{i}" for i in range(3)]
    maps = {name: torch.tensor(VECTORS[f"unet_{name}"], requires_grad=True) for name in names}
    features = anchored(
        encoder=[maps[name] for name in names[:4]],
        decoder=[maps[name] for name in names[4:]],
        teacher=torch.tensor(VECTORS["unet_final"]),
    )
    draws = [
        tuple(torch.tensor(VECTORS[f"unet_{name}_{side}_channels"]) for side in ("student", "teacher"))
        for name in names
    ]
    criterion = criterion_for(plain_unet(), lambda_scr=1.0, lambda_ifd=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunetv2_selfreg.terms.draw_channels", lambda *_: draws)
        loss = total(criterion, features)
    loss.backward()
    assert loss.item() == pytest.approx(VECTORS["unet_loss"].item(), rel=1e-10)
    for name in names:
        expected = VECTORS[f"unet_{name}_grad"]
        np.testing.assert_allclose(maps[name].grad, expected, rtol=0, atol=1e-10 * abs(expected).max())


def test_the_network_gets_the_gradient_of_the_slow_reference():
    """Through the anchors that the taps lay: the gradient of every parameter, nnU-Net's loss and both terms."""
    weights = {"lambda_scr": 0.3, "lambda_ifd": 0.7}
    images, target = batch()
    networks = [plain_unet(features=(4, 6, 8, 5)).double() for _ in range(2)]
    criterion = criterion_for(networks[0], seed=3, **weights)
    criterion(networks[0](images.double()), target).backward()

    taps, generator = StageTaps(networks[1]), torch.Generator().manual_seed(3)
    maps = recorded(networks[1])
    BaseLoss()(networks[1](images.double()), target).backward(retain_graph=True)
    features = taps.take()
    final = features.teacher.numpy()
    students = [maps[name] for name in (*taps.stages.encoder, *taps.stages.decoder)]
    gradients = []
    for student, channels in zip(students, drawn(students, final, generator), strict=True):
        feature = student.detach().numpy()
        scr = reference.semantic_consistency(feature, final, *(c.numpy() for c in channels))[1] / len(students)
        group = features.encoder if len(gradients) < len(features.encoder) else features.decoder
        ifd = reference.internal_feature_distillation(feature)[1] / len(group)
        gradients.append(torch.tensor(weights["lambda_scr"] * scr + weights["lambda_ifd"] * ifd))
    torch.autograd.backward(students, gradients)
    for found, expected in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert (found.grad is None) == (expected.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12)


def test_each_gradient_is_made_when_the_backward_pass_arrives_at_its_map(monkeypatch):
    """Not when it starts: then all gradients would exist beside all activations."""
    network = plain_unet(features=(4, 6, 8, 5))
    criterion = criterion_for(network)
    happened = []

    def made(*arguments, **named):
        happened.append("made")
        return add_distillation_gradient(*arguments, **named)

    def watch(module, inputs, output):
        output.register_hook(lambda gradient: happened.append("arrived"))

    monkeypatch.setattr("nnunetv2_selfreg.terms.add_distillation_gradient", made)
    for stage in (*network.encoder.stages[1:], *network.decoder.stages[:-1]):
        stage.register_forward_hook(watch)
    images, target = batch()
    criterion(network(images), target).backward()
    assert happened == ["arrived", "made"] * 5


def test_outside_training_the_loss_is_nnunets_own():
    network = plain_unet().eval()
    images, target = batch()
    criterion = criterion_for(network)
    with torch.no_grad():
        output = network(images)
        assert criterion(output, target) == BaseLoss()(output, target)
    assert criterion.take_means() == {}


class Scheduled(torch.nn.Module):
    """A loss whose weight a trainer changes, and which takes more than output and target."""

    def __init__(self):
        super().__init__()
        self.weight = 1.0
        self.weights = self.terms = "theirs"

    def forward(self, output, target, offset=0.0):
        return self.weight * torch.nn.functional.cross_entropy(output, target) + offset


def test_a_trainer_may_change_its_loss_as_in_stock():
    network = plain_unet()
    images, target = batch()
    chosen = selfreg_settings(lambda_scr=0.0)
    criterion = SelfRegCriterion(
        DeepSupervisionWrapper(Scheduled(), [1.0, 0.5]), StageTaps(network, chosen), chosen, CPU
    )

    def loss(*others, **named):
        output = network(images)[:2]
        targets = [target, target[:, ::2, ::2]]
        return criterion(output, targets, *others, **named) - 0.015 * criterion.take_means()["ifd"]

    assert (criterion.stock.loss.weights, criterion.weights) == ("theirs", {"ifd": 0.015})
    whole = loss().item()
    criterion.loss.weight = 0.5  # as trainer.loss.loss
    assert loss().item() == pytest.approx(whole / 2, rel=1e-4)
    criterion.weight_factors = (2.0, 1.0)
    assert loss().item() == pytest.approx(whole, rel=1e-4)
    assert loss([1.0, 1.0]).item() == pytest.approx(whole + 3, rel=1e-4)
    assert "weight_factors" not in vars(criterion)
    with pytest.raises(AttributeError, match="nothing"):
        criterion.nothing  # noqa: B018


def test_a_trainer_may_replace_its_loss_inside_of_the_criterion():
    network, new = plain_unet(), Scheduled()
    chosen = selfreg_settings()
    taps = StageTaps(network, chosen)
    supervised = SelfRegCriterion(DeepSupervisionWrapper(Scheduled(), [1.0, 0.5]), taps, chosen, CPU)
    supervised.loss = new  # as in stock
    assert supervised.stock.loss is new
    alone = SelfRegCriterion(torch.nn.CrossEntropyLoss(), taps, chosen, CPU)
    with pytest.raises(SelfRegError, match=r"a CrossEntropyLoss, has no loss .*; replace self\.loss\.stock"):
        alone.loss = new
    alone.stock = new
    images, target = batch()
    with torch.no_grad():
        output = network(images)[0]
        assert alone(output, target) == new(output, target)


def test_a_training_step_without_features_is_an_error():
    network = plain_unet()
    criterion = criterion_for(network)
    images, target = batch()
    output = network(images)
    criterion.taps.take()
    with pytest.raises(SelfRegError, match=r"no feature map reached the loss.*use_reentrant=False"):
        criterion(output, target)


def test_a_second_loss_of_one_forward_pass_is_named_among_the_reasons():
    network = plain_unet()
    criterion = criterion_for(network)
    images, target = batch()
    output = network(images)
    criterion(output, target)
    with pytest.raises(SelfRegError, match="this is a second loss of one forward pass"):
        criterion(output, target)


def test_means_are_over_the_steps_since_the_last_call():
    network = plain_unet()
    criterion = criterion_for(network)
    images, target = batch()
    values = []
    for scale in (1.0, 3.0):
        output = network(scale * images)
        criterion(output, target)
        values.append(BaseLoss()(output, target).item())
    assert criterion.take_means()["loss"] == pytest.approx(np.mean(values))
    assert criterion.take_means() == {}


def test_draws_change_from_step_to_step_and_repeat_with_the_seed():
    images, target = batch()
    runs = []
    for seed in (0, 0, 1):
        network = plain_unet()
        criterion = criterion_for(network, seed=seed, lambda_ifd=0.0)
        run = []
        for _ in range(3):
            criterion(network(images), target)
            run.append(criterion.take_means()["scr"])
        runs.append(run)
    assert len(set(runs[0])) == 3
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_draws_leave_torchs_own_random_numbers_alone():
    network = plain_unet()
    criterion = criterion_for(network)
    images, target = batch()
    state = torch.get_rng_state()
    criterion(network(images), target)
    assert torch.equal(torch.get_rng_state(), state)


def live_tensors():
    gc.collect()
    return [thing for thing in gc.get_objects() if torch.is_tensor(thing)]


def test_no_map_is_kept_between_the_loss_and_its_gradients():
    """Neither a difference of maps nor the teacher on a coarser grid: they are made again where a gradient is made."""
    criterion = criterion_for(plain_unet())
    encoder = [torch.randn(2, channels, size, size, requires_grad=True) for channels, size in ((8, 16), (16, 8))]
    features = anchored(encoder, [torch.randn(2, 8, 16, 16, requires_grad=True)], torch.randn(2, 4, 32, 32))
    maps = {map_.untyped_storage().data_ptr() for map_ in (*features.encoder, *features.decoder, features.teacher)}
    earlier = live_tensors()  # other tests leave tensors without data
    known = set(map(id, earlier))
    loss = total(criterion, features)
    made = [tensor for tensor in live_tensors() if id(tensor) not in known and tensor.is_floating_point()]
    sizes = [tensor.numel() for tensor in made if tensor.untyped_storage().data_ptr() not in maps]
    smallest_map = 2 * 4 * 8 * 8  # the teacher's channels on the coarsest grid
    assert sizes
    assert max(sizes) < smallest_map
    loss.backward()
    assert all(feature.grad.abs().sum() > 0 for feature in encoder)


def test_nothing_is_retained_over_many_steps():
    """Feature maps die with their step; tensors and the memory of the process stay what they were."""
    earlier = live_tensors()  # held to the end, so that what other tests left does not go meanwhile
    network = plain_unet()
    criterion = criterion_for(network)
    images, target = batch(32)
    watched = []
    for stage in (*network.encoder.stages, *network.decoder.stages):
        stage.register_forward_hook(lambda module, inputs, output: watched.append(weakref.ref(output)))

    def step():
        criterion(network(images), target).backward()
        network.zero_grad(set_to_none=True)

    step()
    gc.collect()
    assert len(watched) == 5
    assert all(reference() is None for reference in watched)
    assert not criterion._sums.requires_grad
    tensors = len(live_tensors())
    for _ in range(10):
        step()
    memory = psutil.Process().memory_info().rss
    for _ in range(100):
        step()
    assert len(live_tensors()) == tensors > len(earlier)
    # one step's graph holds more than 0.3 MB, so 100 kept steps would take 30
    assert psutil.Process().memory_info().rss - memory < 10e6


def test_a_step_never_waits_for_the_host(monkeypatch):
    """A fake tensor has no data: reading a value, or a size that depends on one, raises."""
    criterion = criterion_for(plain_unet())
    monkeypatch.setattr("nnunetv2_selfreg.losses._on_device", losses._on_device.__wrapped__)  # keeps no fake tensor
    with FakeTensorMode():
        encoder, decoder, final = (torch.empty(2, n, 16 // n, 16, requires_grad=True) for n in (8, 4, 2))
        criterion._generator = None  # a generator's state is data
        for _ in range(2):
            loss = total(criterion, anchored([encoder], [decoder], final))
            loss.backward()
        with pytest.raises(Exception, match="_local_scalar_dense"):  # the trap works
            loss.item()


FIRST_AND_LAST = {"taps": "first_and_last"}


@pytest.mark.parametrize(
    "settings",
    [FIRST_AND_LAST, {"encoder_stages": [0, 2]}, {"decoder_stages": []}, {"encoder_stages": [], **FIRST_AND_LAST}],
)
def test_settings_of_the_taps_agree_with_slow_reference(settings):
    network = plain_unet(features=(4, 5, 6, 8))
    images, target = batch()
    criterion = criterion_for(network, seed=2, lambda_scr=0.3, lambda_ifd=0.7, **settings)
    taps = criterion.taps
    network(images)
    expected = slow_terms(taps.take(), seed=2)
    output = network(images)
    base = BaseLoss()(output, target).item()
    found = criterion(output, target).item()
    assert found == pytest.approx(base + 0.3 * expected["scr"] + 0.7 * expected["ifd"], rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "broken", "expected"),
    [
        ((0.1, 0.1), "encoder", ["encoder.stages.2"]),
        ((0.1, 0.1), "decoder", ["decoder.stages.0"]),
        ((0.1, 0.1), "final", ["decoder.stages.1"]),
        ((0.0, 0.1), "encoder", ["encoder.stages.2"]),
        ((0.1, 0.0), "decoder", ["decoder.stages.0"]),
        ((0.1, 0.0), "final", ["encoder.stages.1", "decoder.stages.1"]),  # SCR alone cannot tell it from the first
    ],
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_maps_that_are_not_finite_are_named_and_kept_out_of_the_means(weights, broken, expected, value):
    criterion = criterion_for(plain_unet(), lambda_scr=weights[0], lambda_ifd=weights[1])
    generator = torch.Generator().manual_seed(0)

    def features():
        encoder = [torch.randn(2, n, 4, 4, generator=generator) for n in (8, 16)]
        return anchored(encoder, [torch.randn(2, 8, 8, 8, generator=generator)], torch.randn(2, 4, 16, 16))

    total(criterion, features())
    assert criterion.non_finite() is None
    bad = features()
    {"encoder": bad.encoder[1], "decoder": bad.decoder[0], "final": bad.teacher}[broken].fill_(value)
    total(criterion, bad)
    total(criterion, features())
    found = criterion.non_finite()
    assert (found.stages, found.iteration, found.every_step) == (expected, 1, False)
    means = criterion.take_means()
    assert all(np.isfinite(mean) for mean in means.values())
    assert criterion.non_finite() is None
    total(criterion, bad)
    assert not criterion.non_finite().every_step  # one step tells nothing: AMP's scaler may skip it
    total(criterion, bad)
    assert criterion.non_finite().every_step


def test_the_iteration_of_what_is_not_finite_counts_training_steps():
    """With `every`, also the steps without terms; from 0 in each epoch."""
    criterion = criterion_for(plain_unet(), every=2)

    def step(value):
        encoder = [torch.full((1, channels, 4, 4), value) for channels in (8, 16)]
        decoder = [torch.full((1, 8, 8, 8), value)]
        total(criterion, anchored(encoder, decoder, torch.ones(1, 4, 16, 16)))

    for value in (1.0, 1.0, 1.0, 1.0, torch.nan):
        step(value)
    assert criterion.non_finite().iteration == 4
    criterion.take_means()
    for value in (1.0, 1.0, 1.0, torch.nan):  # the first is a step without terms
        step(value)
    assert criterion.non_finite().iteration == 3


def test_a_frozen_encoder_keeps_no_losses_for_a_backward_pass_that_does_not_come():
    network = plain_unet()
    network.encoder.requires_grad_(False)
    criterion = criterion_for(network)
    images, target = batch()
    criterion(network(images), target).backward()
    assert [anchor.losses for anchor in criterion.taps._anchors.values()] == [[]] * len(criterion.taps._anchors)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_terms_in_every_kth_step_give_the_same_gradient_on_average(every):
    """IFD alone, since it draws nothing; the weights do not change between the steps."""
    network = plain_unet(features=(4, 6, 8)).double()
    images, target = batch()

    def gradients(criterion, steps):
        network.zero_grad()
        for _ in range(steps):
            criterion(network(images.double()), target).backward()
        return [p.grad / steps for p in network.parameters() if p.grad is not None]

    expected_criterion = criterion_for(network, lambda_scr=0.0, lambda_ifd=0.7)
    expected = gradients(expected_criterion, 6)
    expected_criterion.taps.remove()
    criterion = criterion_for(network, lambda_scr=0.0, lambda_ifd=0.7, every=every)
    for found, wanted in zip(gradients(criterion, 6), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert criterion.take_means() == pytest.approx(expected_criterion.take_means())


def test_between_the_kth_steps_the_loss_is_nnunets_own():
    network = plain_unet()
    images, target = batch()
    criterion = criterion_for(network, every=2)
    output = network(images)
    assert criterion(output, target) > BaseLoss()(output, target)
    criterion.take_means()
    output = network(images)
    assert criterion(output, target) == BaseLoss()(output, target)
    assert criterion.take_means() == {}
    assert criterion.non_finite() is None
    assert criterion.taps.take() is None


def test_a_backward_pass_that_ends_early_leaves_nothing_to_the_next_step():
    """As with autograd.grad of some parameters, or an error that a trainer catches."""
    network = plain_unet(features=(4, 6, 8))
    images, target = batch()
    BaseLoss()(network(images), target).backward()
    expected = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    criterion = criterion_for(network, every=2)
    torch.autograd.grad(criterion(network(images), target), list(network.encoder.stages[2].parameters()))
    criterion(network(images), target).backward()
    for name, wanted in expected.items():
        torch.testing.assert_close(network.get_parameter(name).grad, wanted)


def test_two_losses_before_one_backward_pass_each_keep_their_own_gradients():
    network = plain_unet(features=(4, 6, 8)).double()
    target = batch()[1]
    batches = [torch.randn(2, 1, 16, 16, dtype=torch.float64) for _ in range(2)]
    criterion = criterion_for(network, lambda_scr=0.0, lambda_ifd=0.7)
    for images in batches:
        criterion(network(images), target).backward()
    expected = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    sum(criterion(network(images), target) for images in batches).backward()
    for parameter, wanted in zip(network.parameters(), expected, strict=True):
        if wanted is not None:
            torch.testing.assert_close(parameter.grad, wanted)
