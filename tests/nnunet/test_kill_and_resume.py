"""A training that is killed in the middle of an epoch and continued with nnU-Net's --c."""

import math
import re
import signal
import subprocess
import time

import pytest
import torch
from commands import model_folder, run, start

TRAINER = "nnUNetTrainerSelfReg_5epochs"
STOCK_KEYS = {
    "network_weights",
    "optimizer_state",
    "grad_scaler_state",
    "logging",
    "_best_ema",
    "current_epoch",
    "init_args",
    "trainer_name",
    "inference_allowed_mirroring_axes",
}


@pytest.mark.slow
def test_settings_and_curves_continue_without_gap_or_repeat(dataset):
    plans = "SmallKilled"
    run(f"nnUNetv2_selfreg plans -d {dataset.number} -p Small -c 2d --lambda-scr 0.05 --taps first_and_last -o {plans}")
    command = f"nnUNetv2_train {dataset.number} 2d 0 -tr {TRAINER} -p {plans} -device cpu"
    model = model_folder(TRAINER, plans, "2d") / "fold_0"
    process = start(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        log = wait_for_log(model, "Epoch 2", process)
        time.sleep(1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = torch.load(model / "checkpoint_best.pth", weights_only=False)["logging"]
    epochs = len(before["scr"])
    assert 1 <= epochs <= 2

    printed = run(command + " --c")
    started = re.search(r"SelfReg: lambda_scr.*", log.read_text()).group()
    assert "lambda_scr 0.05, lambda_ifd 0.015, taps first_and_last" in started
    assert started.strip() in printed
    checkpoint = torch.load(model / "checkpoint_final.pth", weights_only=False)
    assert checkpoint.keys() == STOCK_KEYS
    logging = checkpoint["logging"]
    assert {name: len(values) for name, values in logging.items()} == dict.fromkeys(logging, 5)
    for name in ("scr", "ifd", "selfreg_share"):
        assert logging[name][:epochs] == before[name]
        assert all(math.isfinite(value) and value > 0 for value in logging[name])
    assert len(set(logging["scr"])) == 5


def wait_for_log(folder, text, process, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for log in folder.glob("training_log_*.txt"):
            if re.search(rf": {text}\s", log.read_text()):
                return log
        time.sleep(0.2)
    raise AssertionError(f"{text} did not come within {seconds} s; exit code {process.poll()}")
