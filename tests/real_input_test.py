"""The real tokenizer, real questions, the real vocabulary, the real program."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from memjax import hf
from memjax import metrics as metrics_lib
from memjax import qwen3
from memjax.envs import hotpotqa

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_VOCAB = 151_936


def _save_with_transformers(path):
  import torch
  import transformers

  torch.manual_seed(0)
  config = transformers.Qwen3Config(
    vocab_size=_VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    intermediate_size=64,
    tie_word_embeddings=True,
  )
  transformers.Qwen3ForCausalLM(config).save_pretrained(path)


def _save_with_memjax(path):
  cfg = qwen3.Config(_VOCAB, 32, 2, 4, 2, 16, 64)
  hf.save(path, cfg, qwen3.init(jax.random.key(0), cfg))


def _main(*arguments):
  done = subprocess.run(
    [sys.executable, "-m", "memjax.main", *map(str, arguments)],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return done


@pytest.mark.slow
def test_two_iterations_on_hotpotqa(data_dir, tmp_path):
  files = sorted((data_dir / "hotpotqa").glob("*.json"))
  for name, file in zip(("train", "eval"), files):
    records = hotpotqa.build(hotpotqa.load(file), 20, seed=0)[:4]
    (tmp_path / f"{name}.json").write_text(json.dumps(records))
  model = tmp_path / "model"
  if importlib.util.find_spec("torch"):
    _save_with_transformers(model)
  else:
    _save_with_memjax(model)
  for file in (data_dir / "qwen3_tokenizer").iterdir():
    if file.name not in ("config.json", "generation_config.json"):
      shutil.copy(file, model)
  common = (
    "--config=configs/memagent_qwen3_0p6b.py",
    f"--config.model.path={model}",
    "--config.model.dtype=float32",  # bfloat16 is slow on CPU
    f"--config.data.eval_path={tmp_path}/eval.json",
    "--config.agent.chunk_tokens=1000",
    "--config.agent.max_chunks=4",
    "--config.agent.question_tokens=128",
    "--config.agent.memory_tokens=24",
    "--config.agent.update_tokens=24",
    "--config.agent.answer_tokens=12",
    "--config.rollout.questions=2",
    "--config.rollout.group_size=2",
    "--config.train.minibatches=2",
    "--config.train.micro_batch=2",
    "--config.train.steps=2",
    "--config.train.warmup_steps=0",
    "--config.eval.every=2",
    "--config.eval.examples=2",
    "--config.eval.batch_size=4",
    "--config.eval.samples=0",
    f"--workdir={tmp_path}/run",
  )
  _main(*common, f"--config.data.path={tmp_path}/train.json")
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert summary["trained"]["eval"]["n"] == 4
  records = metrics_lib.read_jsonl(tmp_path / "run" / "metrics.jsonl")
  steps = [r for r in records if "train/loss" in r]
  assert [r["step"] for r in steps] == [1, 2]
  assert all(0 < r["train/logp_gap_max"] < 1e-4 for r in steps)
  assert all(r["train/finite"] == 1 for r in steps)
  (rollout, *_) = json.loads((tmp_path / "run" / "rollouts.json").read_text())
  turns = rollout["before"]["turns"]
  # 20 documents of about 140 tokens in chunks of 1,000.
  assert 2 <= len(turns) <= 4
  assert "Document 1:" in turns[0]["chunk"]
  np.testing.assert_array_less(0, [len(turn["memory"]) for turn in turns])
  # The same checkpoint, evaluated alone.
  _main(*common, "--mode=eval")
  found = json.loads((tmp_path / "run" / "eval_last.json").read_text())
  assert found["trained"] == summary["trained"]
