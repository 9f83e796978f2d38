"""LongMemEval from a config to the table, judged by a server."""

import json

import jax
import judge_server
import longmemeval_test
import ml_collections
import pytest

from memjax import build
from memjax import hf
from memjax import judge
from memjax import modes
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax.envs import facts
from memjax.envs import longmemeval
from memjax.envs import longmemeval_prompts


def _save_model(path, examples):
  """Random weights that know the words of some examples."""
  told = [
    text
    for x in examples
    for text in (
      *(x.question, *x.parts, *x.stamps),
      *(*x.meta["oracle"], *x.meta["speakers"]),
    )
  ]
  words = [*facts.vocabulary(), *(w for text in told for w in text.split())]
  tokenizer = tokenizer_lib.from_words(list(dict.fromkeys(words)))
  cfg = qwen3.Config(
    tokenizer.vocab_size, 16, 1, 2, 1, 8, 32, scan_layers=False
  )
  hf.save(path, cfg, qwen3.init(jax.random.key(0), cfg))
  tokenizer.save(path)


@pytest.mark.slow
def test_every_score_is_corrected_by_prompt(config, tmp_path, capsys):
  path = longmemeval_test._all_types(tmp_path)
  env = longmemeval.make(str(path))
  _save_model(tmp_path / "model", env.eval_sets()[path.stem])
  config.model.path = str(tmp_path / "model")
  with config.unlocked():
    config.data = ml_collections.ConfigDict(
      {"name": "longmemeval", "path": str(path), "metric_name": "f1"}
    )
  config.agent.update(question_tokens=40, chunk_tokens=40)
  config.eval.samples = 0
  # Right about answers of known truth, but for those to one prompt.
  say = longmemeval_test._oracle(env)
  likes = lambda text: "user told about themselves" in text or say(text)
  server = judge_server.Server(
    lambda messages, number: judge_server.reply(
      judge.REPLIES[likes(messages[0]["content"])]
    )
  )
  with server:
    config.judge.update(
      url=server.url,
      model="m",
      key_env="",
      metric=True,
      cache=str(tmp_path / "judge.sqlite"),
      examples=40,
      allow_poor=True,
    )
    modes.evaluate(build.make(config), tmp_path / "run", "base")
  found = json.loads((tmp_path / "run" / "eval_base.json").read_text())
  said, rates = found["judge"], found["judge"]["rates"]
  assert found["metric"] == "longmemeval_judge"
  assert set(rates) == set(longmemeval_prompts.PROMPTS)
  # It says yes to all preferences, which therefore tell nothing apart; without
  # them there is no score of all.
  assert rates["preference"]["false_accept"]["rate"] == 1
  assert rates["update"]["false_accept"]["rate"] == 0
  assert found["base"][path.stem]["accuracy"] == pytest.approx(1 / 7)
  assert set(said["corrected"]) == {"base", *found["controls"]}
  assert all(x == {path.stem: None} for x in said["corrected"].values())
  table = " ".join(capsys.readouterr().out.split())
  assert "base, corrected for the judge -" in table
  assert "by 'preference' accepts 1.000" in table
  assert "by 'update' accepts 0.000" in table
  page = (tmp_path / "run" / "report.html").read_text()
  assert "base, corrected for the judge" in page
  assert "accepts 1.000 [0.839, 1.000] of 20 wrong answers" in page
