"""Every benchmark by its name: what `nnUNetv2_selfreg convert` writes and what `leaderboard score` measures."""

from nnunetv2_selfreg.benchmarks import acdc, digestpath, ebhi, glas, monuseg, synapse

_MODULES = (acdc, synapse, glas, monuseg, digestpath, ebhi)

BENCHMARKS = {module.BENCHMARK.protocol.dataset: module.BENCHMARK for module in _MODULES}
PROTOCOLS = {name: protocol for module in _MODULES for name, protocol in module.PROTOCOLS.items()}
