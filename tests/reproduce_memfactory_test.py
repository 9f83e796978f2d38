"""The config that states MemFactory's protocol, and its path from data on."""

import json
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import transformers

from memjax import config as config_lib
from memjax import hf
from memjax import metrics as metrics_lib
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax.envs import facts
from memjax.envs import hotpotqa
from memjax.envs import long_context

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_SETS = ("eval_50", "eval_100", "eval_fwe_16384")
_WORDS = facts.vocabulary()
# Facts of the generated language: a person's home.
_HOMES = [word for word in _WORDS if "=" in word]
_FILLER = [word for word in _WORDS if word.isalpha()]


def _get_config(model="1p7b"):
  path = _ROOT / "configs" / "reproduce_memfactory.py"
  return runpy.run_path(str(path))["get_config"](model)


def _record(rng, number, documents, labelled):
  """One question in MemFactory's fields: one document of many says it."""
  home = _HOMES[number % len(_HOMES)]
  name, city = home.split("=")
  bodies = [" ".join(rng.choice(_FILLER, 8)) for _ in range(documents)]
  bodies[int(rng.integers(documents))] += f" {home}"
  heads = [f"Document {i}:\n" if labelled else "" for i in range(1, 101)]
  joint = "\n\n" if labelled else " "
  return {
    "context": joint.join(a + b for a, b in zip(heads, bodies)),
    "input": f"{name}?",
    "answers": [city],
    "num_docs": documents,
    "index": number,
  }


def _write(folder, labelled):
  """A training file and three held-out ones, without a question in common."""
  rng = np.random.default_rng(0)
  names = list(dict.fromkeys(x.split("=")[0] for x in _HOMES))
  of = lambda some: [i for i, x in enumerate(_HOMES) if x.split("=")[0] in some]
  train, held_out = of(names[:2])[:4], of(names[2:])[:2]
  make = lambda indices, n: [_record(rng, i, n, labelled) for i in indices]
  files = {
    "train": make(train, 50),
    "eval_50": make(held_out, 50),
    "eval_100": make(held_out, 100),
    # RULER's fields: words that are all asked for.
    "eval_fwe_16384": [
      {
        "context": " ".join(rng.choice(_FILLER, 400)),
        "input": f"{names[-1]}?",
        "outputs": _FILLER[:3],
        "index": 0,
      }
    ],
  }
  for name, records in files.items():
    (folder / f"{name}.json").write_text(json.dumps(records))


def _save_model(path, data):
  """Random weights; the real tokenizer with its template, or a small one."""
  if data:
    size = 151_936
  else:
    small = tokenizer_lib.from_words(_WORDS)
    size = small.vocab_size
  cfg = qwen3.Config(size, 16, 1, 2, 1, 8, 32, scan_layers=False)
  hf.save(path, cfg, qwen3.init(jax.random.key(0), cfg))
  if not data:
    small.save(path)
    return
  for file in (data / "qwen3_tokenizer").iterdir():
    if file.name not in ("config.json", "generation_config.json"):
      shutil.copy(file, path)


def _train(tmp_path, *more):
  """What main prints of a step and two evaluations, and the summary."""
  done = subprocess.run(
    [
      *(sys.executable, "-m", "memjax.main"),
      "--config=configs/reproduce_memfactory.py:1p7b",
      f"--workdir={tmp_path}/run",
      f"--config.model.path={tmp_path}/model",
      "--config.model.dtype=float32",  # bfloat16 is slow on CPU
      f"--config.data.path={tmp_path}/train.json",
      *(f"--config.data.eval_paths.{x}={tmp_path}/{x}.json" for x in _SETS),
      *(
        f"--config.agent.{x}_tokens=16" for x in ("memory", "update", "answer")
      ),
      "--config.rollout.questions=2",
      "--config.rollout.group_size=2",
      # A random model has no group with two rewards.
      "--config.rollout.dynamic_sampling=False",
      "--config.train.steps=1",
      "--config.eval.batch_size=4",
      *more,
    ],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  return " ".join(done.stdout.split()), summary


@pytest.mark.parametrize(
  "real", [pytest.param(True, marks=pytest.mark.slow), False]
)
def test_from_files_to_both_tables(real, tmp_path, request):
  """Nothing but sizes differs from what the config says."""
  data = request.getfixturevalue("data_dir") if real else None
  _write(tmp_path, labelled=real)
  _save_model(tmp_path / "model", data)
  said, summary = _train(
    tmp_path,
    f"--config.agent.chunk_tokens={400 if real else 200}",
    "--config.agent.question_tokens=16",
    "--config.eval.samples=2",
    "--config.eval.controls=()",
    *([] if real else ["--config.agent.style=words"]),
  )
  assert {x: y["n"] for x, y in summary["trained"].items()} == {
    "eval_50": 2,
    "eval_100": 2,
    "eval_fwe_16384": 1,
  }
  assert all(x["samples"] == 2 for x in summary["trained"].values())
  scores = json.loads((tmp_path / "run" / "scores.json").read_text())
  assert scores["metric"] == "sub_em, ruler_all in eval_fwe_16384"
  records = metrics_lib.read_jsonl(tmp_path / "run" / "metrics.jsonl")
  (step,) = [r for r in records if "train/loss" in r]
  assert step["train/finite"] == 1 and step["train/logp_gap_max"] < 1e-4
  (rollout, *_) = json.loads((tmp_path / "run" / "rollouts.json").read_text())
  turns = rollout["before"]["turns"]
  assert len(turns) >= 2
  # The whole text of the first held-out set, the shortest one.
  read = "".join(turn["chunk"] for turn in turns)
  assert f"{rollout['question'][:-1]}={rollout['answers'][0]}" in read
  if real:
    assert read.startswith("Document 1:\n") and "Document 50:" in read
  # Both tables, and no word on which is better.
  assert "published, base 0.473 0.430 0.033" in said
  assert "published, trained 0.568 0.486 0.019" in said  # .0195
  assert "arXiv 2603.29493v2" in said and "gpt-4.1-nano" in said
  assert "better than" not in said and "worse than" not in said
  assert summary["published"]["base"]["eval_50"] == 0.4727
  assert "0.473" in (tmp_path / "run" / "report.html").read_text()


def _pack(data, folder, train, held_out):
  """HotpotQA as MemFactory's files have it, of real questions and passages.

  Both samples are of HotpotQA's dev set, so that questions that they share are
  left out of the training file.
  """
  one, other = (
    hotpotqa.load(data / "hotpotqa" / name)
    for name in (
      "hotpotqa_dev_distractor_first100_hf.json",
      "hotpotqa_distractor_reflexion100.json",
    )
  )
  asked = {item["question"] for item in other}
  one = [item for item in one if item["question"] not in asked]
  files = {
    "train": hotpotqa.build(one, 50, 0, train),
    "eval_50": hotpotqa.build(other, 50, 0, held_out),
    "eval_100": hotpotqa.build(other, 100, 0, held_out),
    # RULER's fields and generated words, three of which are the frequent ones.
    "eval_fwe_16384": [
      {
        "context": "ada " * 300 + "bob eve " * 200 + "kim " * 9,
        "input": "Which are the three most frequent words?",
        "outputs": ["ada", "bob", "eve"],
      }
    ],
  }
  for name, records in files.items():
    (folder / f"{name}.json").write_text(json.dumps(records))
  return files


def test_real_questions_fit_the_config(data_dir, tmp_path):
  """All that can be packed: no question is trained on and held out."""
  _pack(data_dir, tmp_path, 0, 0)
  data = _get_config().data
  data.path = str(tmp_path / "train.json")
  for name in _SETS:
    data.eval_paths[name] = str(tmp_path / f"{name}.json")
  kwargs = {x: y for x, y in data.to_dict().items() if x != "name"}
  env = long_context.make(**kwargs, seed=0)
  sets = env.eval_sets()
  assert list(sets) == list(_SETS)
  assert (len(sets["eval_50"]), len(sets["eval_100"])) == (100, 100)
  for number, name in ((50, "eval_50"), (100, "eval_100")):
    for example in sets[name]:
      assert f"\n\nDocument {number}:\n" in example.context
      assert f"Document {number + 1}:" not in example.context
      assert len(example.meta["oracle"]) == 2
  # Six chunks of 2,500 tokens hold the texts that are trained on.
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    data_dir / "qwen3_tokenizer"
  )
  agent = _get_config().agent
  texts = [x.context for x in env.train_examples(0, len(env.train))]
  lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
  assert max(lengths) <= agent.chunk_tokens * agent.max_chunks
  assert min(lengths) > agent.chunk_tokens  # or there were nothing to remember


@pytest.mark.slow
def test_real_questions_from_passages_to_both_tables(data_dir, tmp_path):
  """The number of chunks and avg@4 are those of the config."""
  files = _pack(data_dir, tmp_path, train=2, held_out=1)
  _save_model(tmp_path / "model", data_dir)
  said, summary = _train(
    tmp_path,
    "--config.agent.chunk_tokens=1250",  # half: a quarter of the attention
    "--config.eval.controls=('oracle',)",
  )
  trained = summary["trained"]
  assert {x: y["samples"] for x, y in trained.items()} == dict.fromkeys(
    _SETS, 4
  )
  assert trained["eval_50"]["n"] == trained["eval_100"]["n"] == 1
  # Which documents answer is known of HotpotQA alone.
  assert set(summary["controls"]["oracle"]) == {"eval_50", "eval_100"}
  records = metrics_lib.read_jsonl(tmp_path / "run" / "metrics.jsonl")
  (step,) = [r for r in records if "train/loss" in r]
  assert step["train/finite"] == 1 and step["train/logp_gap_max"] < 1e-4
  (rollout, *_) = json.loads((tmp_path / "run" / "rollouts.json").read_text())
  read = "".join(turn["chunk"] for turn in rollout["before"]["turns"])
  assert rollout["question"] == files["eval_50"][0]["input"]
  assert read == files["eval_50"][0]["context"]
  # The measured row has the mean of four in brackets, beside the printed one.
  assert "published, trained 0.568 0.486 0.019" in said
  assert re.search(r"trained 0\.\d{3} .*avg@4", said)


@pytest.mark.parametrize("model, tokens", [("1p7b", 2500), ("4b", 1500)])
def test_the_protocol(model, tokens):
  config = _get_config(model)
  config.data.path = "train.json"
  config_lib.check(config)
  assert config.agent.update_tokens == config.agent.answer_tokens == tokens
  assert (config.agent.chunk_tokens, config.agent.max_chunks) == (2500, 6)
  assert config.rollout.group_size == 16 and config.eval.samples == 4
  # 250 questions with a valid group, 24 of them an update.
  assert config.train.steps == 250 // config.rollout.questions
  for side in ("base", "trained"):
    assert set(config.published[side]) == set(config.data.eval_paths)
    # k of 512 answers, as printed with four digits.
    for value in config.published[side].values():
      assert abs(round(value * 512) / 512 - value) < 6e-5


def test_another_model_is_refused():
  with pytest.raises(ValueError, match="no model '8b': choose one of 1p7b, 4b"):
    _get_config("8b")


def test_published_numbers_say_where_they_are_from():
  config = _get_config()
  config.published.source = ""
  with pytest.raises(ValueError, match="config.published.source is missing"):
    config_lib.check(config)
  with config.published.unlocked():
    config.published.others = {}
  with pytest.raises(ValueError, match="config.published.others is not a key"):
    config_lib.check(config)
