import json
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from memjax import metrics


def _write(workdir, steps, resume_step=None, slow=0.0):
  """Writes the lines of a small run; `slow` stands for the clock."""
  with metrics.MetricWriter(workdir, resume_step) as writer:
    for step in steps:
      scalars = {
        "train/reward": np.float32(math.sin(step)),
        "train/loss": 1 / (step + 1),
        "time/step": slow + step,
      }
      writer.write_scalars(step, scalars)
      if step % 3 == 0:
        writer.write_scalars(step, {"eval/x1/accuracy": step / 10})


def _events(workdir):
  module = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
  )
  accumulator = module.EventAccumulator(str(workdir / "tensorboard"))
  accumulator.Reload()
  return accumulator


class TestMetricWriter:
  def test_a_line_is_the_step_and_sorted_names(self, tmp_path):
    with metrics.MetricWriter(tmp_path / "new" / "run", None) as writer:
      writer.write_scalars(np.int32(7), {"b": 2, "a": 0.5, "c": True})
      # On disk before the next call, not only at close.
      text = (tmp_path / "new/run/metrics.jsonl").read_text()
    assert text == '{"step": 7, "a": 0.5, "b": 2, "c": 1}\n'

  @pytest.mark.parametrize("resume_step", [0, 4, 6, 9])
  @pytest.mark.parametrize("torn", ["", '{"step": 10, "train/lo', '{"st', "{"])
  def test_killed_and_resumed_is_byte_identical(
    self, tmp_path, resume_step, torn
  ):
    _write(tmp_path / "whole", range(12))
    _write(tmp_path / "killed", range(10), slow=5.0)
    path = tmp_path / "killed" / "metrics.jsonl"
    with path.open("a") as file:
      file.write(torn)
    _write(tmp_path / "killed", range(resume_step + 1, 12), resume_step, 9.0)
    expected = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert expected.count(b"\n") == 16
    assert path.read_bytes() == expected
    names = {p.name for p in (tmp_path / "killed").iterdir()}
    assert names == {"metrics.jsonl", "timing.jsonl", "tensorboard"}

  def test_every_cut_of_the_last_line_resumes(self, tmp_path):
    _write(tmp_path / "whole", range(5))
    expected = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    start_of_last = expected.rindex(b"\n", 0, -1) + 1
    path = tmp_path / "killed" / "metrics.jsonl"
    path.parent.mkdir()
    # The last cut is a whole record that lacks only its newline.
    for end in range(start_of_last, len(expected)):
      path.write_bytes(expected[:end])
      metrics._cut_back(path, 3)
      assert path.read_bytes() == expected[:start_of_last]
    metrics.MetricWriter(path.parent, 3).close()
    _write(path.parent, [4], 3)
    assert path.read_bytes() == expected

  def test_no_resume_step_starts_over(self, tmp_path):
    _write(tmp_path, range(4))
    _write(tmp_path, range(2))
    steps = [r["step"] for r in metrics.read_jsonl(tmp_path / "metrics.jsonl")]
    assert steps == [0, 0, 1]

  def test_a_broken_line_in_the_middle_is_an_error(self, tmp_path):
    path = tmp_path / "metrics.jsonl"
    before = b'{"step": 0, "a": 1}\n{"step": 1, "a\n{"step": 2, "a": 1}\n'
    path.write_bytes(before)
    with pytest.raises(ValueError, match="line 2"):
      metrics.MetricWriter(tmp_path, 2)
    assert path.read_bytes() == before

  def test_clock_values_are_only_in_timing(self, tmp_path):
    _write(tmp_path, range(4))
    with metrics.MetricWriter(tmp_path, 3) as writer:
      writer.write_scalars(4, {"time/only": 1.0})
    for record in metrics.read_jsonl(tmp_path / "metrics.jsonl"):
      assert not [name for name in record if name.startswith("time/")]
      assert set(record) != {"step"}
    timing = metrics.read_jsonl(tmp_path / "timing.jsonl")
    assert timing[:2] == [
      {"step": 0, "time/step": 0.0},
      {"step": 1, "time/step": 1.0},
    ]
    assert timing[-1] == {"step": 4, "time/only": 1.0}

  def test_non_finite_values_survive_in_valid_json(self, tmp_path):
    values = {"a": np.float32("nan"), "b": math.inf, "c": jnp.array(-jnp.inf)}
    with metrics.MetricWriter(tmp_path, None) as writer:
      writer.write_scalars(1, values)

    def refuse(constant):
      raise AssertionError(f"{constant} is not JSON")

    text = (tmp_path / "metrics.jsonl").read_text()
    raw = json.loads(text, parse_constant=refuse)
    assert raw == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    (record,) = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"])
    assert (record["b"], record["c"]) == (math.inf, -math.inf)

  def test_numbers_are_exact(self, tmp_path):
    values = {
      "bf16": jnp.bfloat16(0.1015625),
      "f32": np.float32(0.1),
      "int": np.int64(2**53 + 1),
      "jax": jnp.float32(1 / 3),
    }
    with metrics.MetricWriter(tmp_path, None) as writer:
      writer.write_scalars(0, values)
    (record,) = metrics.read_jsonl(tmp_path / "metrics.jsonl")
    assert record["bf16"] == 0.1015625
    assert np.float32(record["f32"]) == np.float32(0.1)
    assert record["int"] == 2**53 + 1
    assert np.float32(record["jax"]) == np.float32(1 / 3)

  @pytest.mark.parametrize("value", [np.zeros(2), "0.5", None, [1.0]])
  def test_not_one_number_is_an_error(self, tmp_path, value):
    with metrics.MetricWriter(tmp_path, None) as writer:
      with pytest.raises(ValueError, match="'train/x' must be one number"):
        writer.write_scalars(0, {"train/x": value})
      with pytest.raises(ValueError, match="step"):
        writer.write_scalars(0, {"step": 1})
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""

  def test_closes_twice_and_after_an_error(self, tmp_path):
    with pytest.raises(RuntimeError, match="stop"):
      with metrics.MetricWriter(tmp_path, None) as writer:
        writer.write_scalars(0, {"a": 1})
        writer.flush()
        raise RuntimeError("stop")
    writer.close()
    with pytest.raises(ValueError, match="closed"):
      writer.write_scalars(1, {"a": 1})
    assert len(metrics.read_jsonl(tmp_path / "metrics.jsonl")) == 1


class TestTensorBoard:
  def test_events_can_be_read_back(self, tmp_path):
    config = {"seed": 1, "model": {"width": 8, "name": "a"}, "shape": (1, 2)}
    with metrics.MetricWriter(tmp_path, None) as writer:
      writer.write_hparams(config)
      writer.write_scalars(0, {"train/reward": 0.25, "time/step": 3.0})
      writer.write_scalars(1, {"train/reward": math.nan})
    events = _events(tmp_path)
    first, second = events.Scalars("train/reward")
    assert (first.step, first.value) == (0, 0.25)
    assert second.step == 1 and math.isnan(second.value)
    assert events.Scalars("time/step")[0].value == 3.0
    content = events.SummaryMetadata("_hparams_/session_start_info")
    assert b"model.width" in content.plugin_data.content

  def test_resume_replaces_the_later_steps(self, tmp_path):
    # All within one second, which names the event files alike.
    _write(tmp_path, range(6))
    _write(tmp_path, range(4, 8), resume_step=3)
    _write(tmp_path, range(6, 8), resume_step=5)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    events = _events(tmp_path).Scalars("train/reward")
    assert [event.step for event in events] == list(range(8))


class TestProgress:
  def test_log_lines_without_a_terminal(self, monkeypatch):
    lines = []
    clock = iter([100.0, 110.0, 140.0, 141.0])
    monkeypatch.setattr(logging, "info", lambda f, *a: lines.append(f % a))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    with metrics.Progress(10, enabled=False) as progress:
      progress.update(5, reward=0.5, tokens_per_s=12345.6)
      progress.update(6, reward=0.5)  # 10 s later: no line
      progress.update(9, reward=0.75)  # 4 steps took 40 s, one is left
      progress.update(10)  # the last step always has a line
    assert lines == [
      "step 5/10 reward 0.500, 12,346 tokens/s",
      "step 9/10 reward 0.750, 0:00:10 left",
      "step 10/10 0:00:00 left",
    ]

  def test_bar_shows_the_numbers(self, capsys):
    with metrics.Progress(10, enabled=True) as progress:
      progress.update(3, reward=0.25, tokens_per_s=1000.0)
    text = capsys.readouterr().err
    assert "3/10" in text
    assert "reward 0.250, 1,000 tokens/s" in text


def test_read_jsonl_of_an_empty_file(tmp_path: pathlib.Path):
  (tmp_path / "metrics.jsonl").write_bytes(b"")
  assert metrics.read_jsonl(tmp_path / "metrics.jsonl") == []
