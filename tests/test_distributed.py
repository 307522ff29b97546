"""Two processes, eager and compiled: the same channels on each, and the gradients of each batch alone."""

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing
from compiler import needs_a_compiler
from networks import plain_unet
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_selfreg.compat import compile_with_hooks, unwrapped

RANKS, STEPS = 2, 3
FEATURES = (16, 64, 256)  # 4 MB: more than one of DDP's buckets, between which a compiled graph is parted


def images_of(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * rank + step)
    images = torch.randn(2, 1, 16, 16, generator=generator, dtype=torch.float64)
    return images, torch.randint(3, (2, 16, 16), generator=generator)


def criterion_of(network, compiled=False):
    from test_criterion import criterion_for

    return criterion_for(network, compiled=compiled)


def rank_steps(rank: int, folder: str, compiled: bool) -> None:
    store = distributed.FileStore(f"{folder}/meeting", RANKS)
    distributed.init_process_group("gloo", None, timedelta(minutes=2), RANKS, rank, store)
    network = plain_unet(norm_op=None, features=FEATURES).double()
    # as nnU-Net does: DDP around the (compiled) network first, then the loss with hooks on the network inside
    called = torch.compile(network) if compiled else network
    wrapped = DistributedDataParallel(called, find_unused_parameters=not compiled)
    if compiled:
        compile_with_hooks()
    inner, is_compiled = unwrapped(wrapped)  # as the trainer finds it
    assert (inner is network, is_compiled) == (True, compiled)
    criterion = criterion_of(inner, compiled)
    gradients = []
    for step in range(STEPS):
        images, target = images_of(rank, step)
        wrapped.zero_grad()
        criterion(wrapped(images), target).backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
    torch.save((gradients, criterion._generator.get_state()), f"{folder}/{rank}.pt")
    while not all(os.path.exists(f"{folder}/{other}.pt") for other in range(RANKS)):
        time.sleep(0.05)  # the other may still wait for what this one sent
    os._exit(0)  # gloo's threads can hang a process that destroys its group or ends as usual (pytorch issue 190489)


@pytest.fixture(
    scope="module",
    params=[False, pytest.param(True, marks=[pytest.mark.longer, needs_a_compiler])],
    ids=["eager", "compiled"],
)
def ranks(request, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("ranks"))
    torch.multiprocessing.spawn(
        rank_steps, (folder, request.param), nprocs=RANKS, daemon=True
    )  # they end with this process
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(RANKS)]


def test_ranks_draw_the_same_channels(ranks):
    assert torch.equal(ranks[0][1], ranks[1][1])


def test_gradients_are_the_mean_of_what_each_batch_gives_alone(ranks):
    alone = []
    for rank in range(RANKS):
        network = plain_unet(norm_op=None, features=FEATURES).double()
        criterion = criterion_of(network)
        steps = []
        for step in range(STEPS):
            images, target = images_of(rank, step)
            network.zero_grad()
            criterion(network(images), target).backward()
            steps.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        alone.append(steps)
    for step in range(STEPS):
        for name, found in ranks[0][0][step].items():
            if name not in alone[0][step]:
                continue  # the deep supervision layers that the loss does not read: DDP fills them with 0
            mean = sum(steps[step][name] for steps in alone) / RANKS
            torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(ranks[1][0][step][name], found, rtol=0, atol=0)
