"""Two processes over loopback: the run of one, and what a lost one does."""

import json
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from memjax import metrics as metrics_lib

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CONFIG = _ROOT / "tests" / "tiny_config.py"
_SECONDS = 500  # what a loaded machine may take


@pytest.fixture
def start(model_dir, tmp_path):
  """Starts processes of one run; none of them outlives the test."""
  started = []

  def go(workdir, count, *more):
    with socket.socket() as free:
      free.bind(("127.0.0.1", 0))
      port = free.getsockname()[1]
    processes = []
    for number in range(count):
      command = [sys.executable, "-m", "memjax.main", f"--config={_CONFIG}"]
      command += [f"--config.model.path={model_dir}", f"--workdir={workdir}"]
      command += ["--config.eval.controls=()", "--config.eval.samples=0"]
      command += [f"--config.mesh.data={count}", *more]
      if count > 1:
        command += [f"--distributed=127.0.0.1:{port},{count},{number}"]
      log = tmp_path / f"{workdir.name}{len(started)}.log"
      processes.append(
        (
          subprocess.Popen(
            command,
            cwd=_ROOT,
            stdout=subprocess.DEVNULL,
            stderr=log.open("w"),
          ),
          log,
        )
      )
      started.append(processes[-1][0])
    return processes

  yield go
  for process in started:
    if process.poll() is None:
      process.kill()


def _finish(processes):
  for process, log in processes:
    assert process.wait(_SECONDS) == 0, log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_two_processes_train_as_one(start, tmp_path, rank):
  """All parameters, or adapters of them."""
  one, two = tmp_path / "one", tmp_path / "two"
  _finish(start(one, 1, f"--config.lora.rank={rank}"))
  _finish(start(two, 2, f"--config.lora.rank={rank}"))
  records = [metrics_lib.read_jsonl(x / "metrics.jsonl") for x in (one, two)]
  assert len(records[0]) == 8  # before, 5 iterations, 2 evaluations
  for a, b in zip(*records, strict=True):
    assert a.keys() == b.keys()
    for name in a.keys() - {"train/logp_gap", "train/logp_gap_max"}:
      assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-5), name
  load = lambda x, name: json.loads((x / name).read_text())
  a, b = (load(x, "summary.json") for x in (one, two))
  assert a["trained"] == b["trained"] and a["base"] == b["base"]
  assert load(one, "scores.json") == load(two, "scores.json")
  # Written once, and whole.
  assert (two / "report.html").stat().st_size > 0
  assert not list(two.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_ends_the_other(start, tmp_path, victim):
  workdir = tmp_path / "dies"
  processes = start(workdir, 2, "--config.train.steps=400")
  metrics, deadline = workdir / "metrics.jsonl", time.monotonic() + _SECONDS
  while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
    assert time.monotonic() < deadline
    assert all(process.poll() is None for process, _ in processes)
    time.sleep(0.05)
  processes[victim][0].send_signal(signal.SIGKILL)
  other, log = processes[1 - victim]
  # JAX itself would take 100 s.
  assert other.wait(60) != 0
  said = log.read_text()
  assert f"memjax: process {victim} was lost" in said
  last = said.split("it goes on after iteration ")[1].split()[0]
  assert int(last) >= 2
  steps = int(last) + 2
  _finish(start(workdir, 1, f"--config.train.steps={steps}"))
  records = metrics_lib.read_jsonl(metrics)
  trained = [x["step"] for x in records if "train/loss" in x]
  assert trained == list(range(1, steps + 1))


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(start, tmp_path):
  """Each tells its own, or whose log has it; none waits for the other."""
  processes = start(tmp_path / "wrong", 2, "--config.train.micro_batch=3")
  said = []
  for process, log in processes:
    assert process.wait(_SECONDS) == 1
    said.append(log.read_text())
  own = ["micro_batch=3 is not a multiple of 2" in text for text in said]
  assert any(own)
  for text, told in zip(said, own):
    assert told or "ended with an error, see its log" in text
