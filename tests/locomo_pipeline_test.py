"""Memory-R1 on real conversations, the real vocabulary, the real program."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax

from memjax import hf
from memjax import metrics as metrics_lib
from memjax import qwen3

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_VOCAB = 151_936


def _shorten(path, out):
  """Three conversations of two sessions, the questions of each one apiece."""
  kept = []
  for sample in json.loads(path.read_text()):
    if sample["sample_id"] not in ("conv-26", "conv-30", "conv-41"):
      continue
    talk = sample["conversation"]
    short = {
      key: value
      for key, value in talk.items()
      if not key.startswith("session_") or key.split("_")[1] in ("1", "2")
    }
    for key in ("session_1", "session_2"):
      short[key] = talk[key][:8]
    known = {turn["dia_id"] for x in (1, 2) for turn in short[f"session_{x}"]}
    asked = [q for q in sample["qa"] if set(q["evidence"]) <= known]
    asked = [q for q in asked if q["category"] != 5 and q["evidence"]]
    kept.append({**sample, "conversation": short, "qa": asked[:4]})
  out.write_text(json.dumps(kept))


def test_two_iterations_on_locomo(data_dir, tmp_path):
  _shorten(data_dir / "locomo" / "locomo10.json", tmp_path / "locomo.json")
  model = tmp_path / "model"
  cfg = qwen3.Config(_VOCAB, 32, 1, 2, 1, 16, 64)
  hf.save(model, cfg, qwen3.init(jax.random.key(0), cfg))
  for file in (data_dir / "qwen3_tokenizer").iterdir():
    if file.name not in ("config.json", "generation_config.json"):
      shutil.copy(file, model)
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "memjax.main",
      "--config=configs/memory_r1_locomo.py",
      f"--config.model.path={model}",
      "--config.model.dtype=float32",  # bfloat16 is slow on CPU
      f"--config.data.path={tmp_path}/locomo.json",
      # Random weights never answer: only the format tells rollouts apart.
      "--config.data.reward_name=reward_f1",
      "--config.agent.chunk_tokens=384",
      "--config.agent.max_chunks=2",
      "--config.agent.entries=16",
      "--config.agent.entry_tokens=8",
      "--config.agent.facts=2",
      "--config.agent.ops=2",
      "--config.agent.candidates=4",
      "--config.agent.retrieved=6",
      "--config.agent.extract_tokens=8",
      "--config.agent.update_tokens=8",
      "--config.agent.answer_tokens=8",
      "--config.rollout.questions=1",
      "--config.rollout.group_size=4",
      "--config.train.steps=2",
      "--config.train.micro_batch=4",
      "--config.train.warmup_steps=0",
      "--config.eval.every=2",
      "--config.eval.batch_size=4",
      "--config.eval.samples=0",
      "--config.eval.controls=('oracle',)",
      "--config.eval.examples=4",
      f"--workdir={tmp_path}/run",
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  records = metrics_lib.read_jsonl(tmp_path / "run" / "metrics.jsonl")
  last = [record for record in records if "train/loss" in record][-1]
  assert last["step"] == 2 and last["train/finite"] == 1
  # The sampler and the trainer agree on what was sampled.
  assert last["train/logp_gap_max"] < 1e-3
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert summary["trained"]["valid"]["n"] == 4
  assert summary["trained"]["test"]["n"] == 4
  assert all(
    name.startswith("category ") for name in summary["breakdown"]["trained"]
  )
  assert (tmp_path / "run" / "report.html").exists()
