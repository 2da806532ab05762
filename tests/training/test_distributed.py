"""Several processes: the same scores as one, no image counted twice, each draw trained on once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import train_quick

import segkit
from segkit.config.compose import compose
from segkit.config.validation import validate
from segkit.core.errors import SegkitError
from segkit.core.sharing import Share
from segkit.data.draws import DrawSampler, EvenOrder, EverySample
from segkit.report.table import read_csv
from segkit.training.trainer import follow_launcher


def test_processes_share_the_draws_of_an_epoch():
    whole = DrawSampler(EvenOrder(10, 3), 7, seed=3)
    parts = [DrawSampler(EvenOrder(10, 3), 7, seed=3, rank=rank, processes=2) for rank in range(2)]
    for epoch in range(3):
        for sampler in (whole, *parts):
            sampler.set_epoch(epoch)
        draws = [list(part) for part in parts]
        assert [len(part) for part in draws] == [len(part) for part in parts] == [3, 3]
        assert sorted(draws[0] + draws[1]) == sorted(list(whole)[:6])


def test_processes_share_the_images_of_a_validation_and_repeat_none():
    sizes = [(8, 8), (8, 9)] * 6
    batches = [batch for rank in range(3) for batch in EverySample(sizes, 4, 10**6, rank, 3)]
    assert sorted(index for batch in batches for index in batch) == list(range(12))
    with pytest.raises(SegkitError, match="3 processes and 2 images"):
        EverySample(sizes[:2], 1, 1, 0, 3)


def test_images_of_a_validation_are_in_batches_of_one_size():
    sizes = [(8, 8), (8, 9), (8, 8), (100, 100), (8, 8), (100, 100), (8, 8)]
    batches = list(EverySample(sizes, batch_size=3, pixels=10_000))
    assert batches == [[0, 2, 4], [6], [1], [3], [5]]


OPTIONS = ["experiment=quick", "encoder=unet", "data.batch_size=2"]
OPTIONS += ["trainer.accelerator=cpu", "trainer.progress_bar=false"]


def train(*options, cwd, launcher="-m"):
    command = [sys.executable, *launcher.split(), "segkit.train"]
    if not options[0].startswith("resume="):
        command += OPTIONS
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *options], cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


TORCHRUN = f"-m torch.distributed.run --nproc-per-node=2 --master-port={21000 + os.getpid() % 9000}"


def load_last(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def find_difference(first, second):
    """The largest difference of two checkpoints, in weights and in the optimizer's averages."""
    weights = [part["state_dict"].values() for part in (first, second)]
    averages = [
        [state["state"][n]["exp_avg"] for group in state["param_groups"] for n in group["params"]]
        for state in (first["optimizer_states"][0], second["optimizer_states"][0])
    ]
    pairs = zip(*([*w, *a] for w, a in zip(weights, averages, strict=True)), strict=True)
    return max(float((one - two).abs().max()) for one, two in pairs)


NAN_ON_ONE = """
import os
from segkit.training.module import SegmentationModule
step = SegmentationModule.training_step
def broken(self, batch, batch_idx):
    if self.global_step == 3 and os.environ.get("LOCAL_RANK") == "1":
        BREAK
    return step(self, batch, batch_idx)
SegmentationModule.training_step = broken
"""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("broken", "status", "message"),
    [
        ("return step(self, batch, batch_idx) * float('nan')", 2, "error: the loss became nan in"),
        ("os.kill(os.getpid(), 2)", 130, "stopped in epoch 1. The weights are in"),
        ("os._exit(9)", 2, "error: another process of this training has ended"),
    ],
    ids=["nan", "ctrl_c", "dead"],
)
def test_all_processes_end_with_one_message(tmp_path, broken, status, message):
    """Whatever happens to the second one."""
    (tmp_path / "breaks.py").write_text(NAN_ON_ONE.replace("BREAK", broken))
    options = ["encoder.width=4", "encoder.depth=2", "trainer.max_epochs=3", "trainer.devices=2"]
    done = train(*options, "hydra.run.dir=run", "plugins=[breaks.py]", cwd=tmp_path)
    said = done.stdout + done.stderr
    assert said.count(message) == 1, said
    assert "Traceback" not in said
    assert done.returncode == status, said
    assert (tmp_path / "run/checkpoints/last.ckpt").is_file()


@pytest.mark.nightly
def test_parameters_without_a_gradient_are_left_out(tmp_path):
    """The last norm of this backbone is for its classifier: DDP would wait for its gradient."""
    options = ["encoder=timm", "encoder.name=pit_xs_224", "encoder.pretrained=false"]
    options += ["trainer.max_epochs=1", "trainer.devices=2", "hydra.run.dir=run"]
    done = train(*options, "data.crop_size=64", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_csv(tmp_path / "run/metrics.csv")) == 1


@pytest.mark.nightly
def test_a_killed_process_of_torchrun_ends_all_and_the_run_resumes(tmp_path):
    (tmp_path / "breaks.py").write_text(NAN_ON_ONE.replace("BREAK", "os.kill(os.getpid(), 9)"))
    options = ["encoder.width=4", "encoder.depth=2", "trainer.max_epochs=3", "hydra.run.dir=run"]
    done = train(*options, "plugins=[breaks.py]", cwd=tmp_path, launcher=f"{TORCHRUN} -m")
    assert done.returncode != 0
    assert done.stderr.count("\nerror: ") <= 1, done.stderr
    assert "[rank0]: Traceback" not in done.stderr, done.stderr
    done = train("resume=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in read_csv(tmp_path / "run/metrics.csv")] == [0, 1, 2]


SMALL_BLOCKS = """
from segkit.training import sharding
sharding.BLOCK = 10_000
"""


@pytest.mark.nightly
def test_sharded_weights_train_like_whole_ones_and_share_their_checkpoints(tmp_path):
    """The images of a validation are three, so that one process has more than the other."""
    (tmp_path / "blocks.py").write_text(SMALL_BLOCKS)
    options = ["encoder.width=16", "encoder.norm=group", "encoder.dropout=0", "data.val=3"]
    options += ["trainer.max_epochs=1", "scheduler=constant", "trainer.devices=2"]
    for strategy in ("ddp", "fsdp"):
        given = [f"trainer.strategy={strategy}", f"hydra.run.dir={strategy}", "plugins=[blocks.py]"]
        done = train(*options, *given, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    ddp, fsdp = tmp_path / "ddp", tmp_path / "fsdp"
    assert find_difference(load_last(ddp), load_last(fsdp)) < 1e-4
    assert read_csv(fsdp / "metrics.csv")[0]["val/iou"] == pytest.approx(
        read_csv(ddp / "metrics.csv")[0]["val/iou"], abs=1e-3
    )
    segkit.load(fsdp / "checkpoints/best.ckpt", device="cpu")
    shutil.copytree(ddp, tmp_path / "sharded")
    more = ["trainer.max_epochs=2", "plugins=[blocks.py]"]
    for run, strategy in (("ddp", "ddp"), ("sharded", "fsdp")):
        done = train(f"resume={run}", *more, f"trainer.strategy={strategy}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert find_difference(load_last(ddp), load_last(tmp_path / "sharded")) < 1e-4
    alone = ["trainer.devices=1", "trainer.strategy=auto"]
    assert train("resume=fsdp", *more, *alone, cwd=tmp_path).returncode == 0


def test_sharded_weights_are_not_averaged():
    config = compose([*OPTIONS, "trainer.strategy=fsdp", "trainer.ema=0.99"])
    with pytest.raises(SegkitError, match=r"trainer\.ema=0\.99: .* strategy=ddp"):
        validate(config)


def test_the_launcher_decides_how_many_devices_train():
    settings = validate(compose(OPTIONS))
    trainer = follow_launcher(settings, Share(3, 8, 1, 2)).trainer
    assert (trainer.devices, trainer.num_nodes) == (4, 2)
    with pytest.raises(SegkitError, match="on 3 machines: start equally many"):
        follow_launcher(settings, Share(0, 8, 0, 3))
    wanted = validate(compose([*OPTIONS, "trainer.devices=2"]))
    with pytest.raises(SegkitError, match=r"devices=2 .* are 2 processes, and 8 were started"):
        follow_launcher(wanted, Share(0, 8, 0, 2))
    with pytest.raises(SegkitError, match="with torchrun or srun on each machine"):
        follow_launcher(validate(compose([*OPTIONS, "trainer.num_nodes=2"])), Share())


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("-m", marks=pytest.mark.slow),
        pytest.param(f"{TORCHRUN} -m", marks=pytest.mark.nightly),
    ],
    ids=["alone", "torchrun"],
)
def test_two_processes_give_the_scores_of_one(tmp_path, launcher):
    """With three images, one process has two of them; the weights stay as they were drawn."""
    options = ["data.val=3", "optimizer.lr=1e-12", "encoder.norm=group", "encoder.width=8"]
    train_quick(tmp_path / "1", *options, quick=OPTIONS)
    done = train(*options, "trainer.devices=2", cwd=tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run folder:") == 1  # the other process says nothing
    (run,) = (tmp_path / "runs/quick").iterdir()
    assert (run / "report.html").is_file()
    rows = {1: read_csv(tmp_path / "1/metrics.csv")[0], 2: read_csv(run / "metrics.csv")[0]}
    for key, value in rows[1].items():
        if key.startswith("val/"):
            assert rows[2][key] == pytest.approx(value, abs=1e-6, nan_ok=True), key
