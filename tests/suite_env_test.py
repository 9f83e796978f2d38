import collections
import dataclasses
import json

import ml_collections
import pytest
import tiny_runs

from memjax import build
from memjax import config as config_lib
from memjax import controls
from memjax import evaluate
from memjax import modes
from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax.envs import example as example_lib
from memjax.envs.suite import env as env_lib
from memjax.envs.suite import labels
from memjax.envs.suite import readers

_TASKS = ("niah_multiquery", "babi_qa4", "mqar", "dialogues")


@pytest.fixture(scope="module")
def env():
  return env_lib.Suite(
    seed=2, tasks=_TASKS, lengths=(1024, 2048), eval_examples=4
  )


def test_sets_of_each_task_and_length(env):
  sets = env.eval_sets()
  assert list(sets) == [f"{t}_{n}" for n in (1024, 2048) for t in _TASKS]
  for name, examples in sets.items():
    assert [x.id for x in examples] == [0, 1, 2, 3]
    for x in examples:
      assert name == f"{x.meta['task']}_{x.meta['length']}"
      right = readers.honest(x)
      assert env.metric(x, right) == env.reward(x, right) == 1
      assert env.metric(x, "") == 0
      kind = x.meta.get("kind", x.meta["task"])
      assert env.label(x, right) == {kind: 1.0}
  # Made once; other settings have sets of their own.
  assert env.eval_sets() is sets
  other = dataclasses.replace(env, seed=3).eval_sets()["mqar_1024"]
  assert other[0].question != sets["mqar_1024"][0].question


def test_groups_are_lengths(env):
  sets = env.eval_sets()
  found = env.groups()
  assert list(found) == ["mean_1024", "mean_2048"]
  assert [x for names in found.values() for x in names] == list(sets)
  assert dataclasses.replace(env, tasks=("mqar",)).groups() == {}


def test_the_training_stream(env):
  found = env.train_examples(5, 12)
  assert [x.id for x in found] == list(range(5, 17))
  assert found[2:5] == env.train_examples(7, 3)
  pairs = [(x.meta["task"], x.meta["length"]) for x in found]
  every = [(t, n) for n in (1024, 2048) for t in _TASKS]
  assert pairs[3:11] == every
  held_out = {x.question for s in env.eval_sets().values() for x in s}
  first = [x for x in found if x.meta["task"] in ("mqar", "niah_multiquery")]
  assert len({x.question for x in first}) == len(first)
  assert not {x.question for x in first} & held_out
  short = dataclasses.replace(env, train_lengths=(1024,))
  assert {x.meta["length"] for x in short.train_examples(0, 8)} == {1024}
  # All kinds of questions about a dialogue come up.
  talk = env_lib.Suite(tasks=("mqar", "dialogues"), lengths=(1024,))
  kinds = [x.meta.get("kind") for x in talk.train_examples(0, 12)]
  assert len(set(kinds)) == 7


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"reward_name": "bleu"}, "config.data.reward_name='bleu'.*task, reward_"),
    ({"metric_name": "bleu"}, "config.data.metric_name='bleu'"),
    ({"tasks": ("niah",)}, "config.data.tasks: 'niah' is none of.*vt"),
    ({"tasks": ()}, "0 tasks"),
    ({"eval_examples": 0}, "eval_examples=0"),
    ({"lengths": (100,)}, "lengths=100: expected 256 to.*niah_single_1"),
    ({"train_lengths": (1 << 23,)}, "lengths=8388608: expected 256 to 4194304"),
    ({"tasks": ("qa",)}, "config.data.path is empty: the task 'qa' needs"),
    (
      {"tasks": ("qa",), "path": "x.json"},
      "config.data.tokenizer is empty",
    ),
  ],
)
def test_bad_settings_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    env_lib.Suite(**kwargs)


def test_named_metrics_replace_those_of_the_tasks(env):
  strict = dataclasses.replace(env, metric_name="em", reward_name="reward_f1")
  (x, *_) = env.eval_sets()["niah_multiquery_1024"]
  some = f"{x.answers[0]}, {x.answers[1]}"
  assert env.metric(x, some) == 0.5
  assert strict.metric(x, some) == 0 and 0 < strict.reward(x, some) < 1


def test_only_one_label_will_do():
  places = ("attic", "cellar", "stable")
  ask = "What is north of the cellar? Answer attic or stable."
  only = lambda text, answer="attic": labels.only(text, (answer,), places, ask)
  assert only("attic") == only("The ATTIC is north of the cellar.") == 1
  assert only(r"Hm. \boxed{attic}") == only("attic. Or stable.") == 1
  assert only("attic or stable") == only("stable") == only("") == 0
  # Words, not parts of words; sets in any order.
  assert labels.only("I know", ("no",), ("yes", "no"), "Is it?") == 0
  assert only("stable, attic", "attic,stable") == 1
  assert only("attic", "attic,stable") == 0


def test_a_text_is_made_when_it_is_read():
  made = []
  x = example_lib.Deferred(
    1, "q?", lambda: made.append(0) or "a text", ("a",), {"k": 1}
  )
  assert (x.question, x.answers, x.meta["k"], made) == ("q?", ("a",), 1, [])
  assert x.parts == ("a text",) and len(made) == 1
  asked = dataclasses.replace(x, context="")
  assert asked.parts == () and len(made) == 1
  assert x.with_id(2).id == 2 and x.with_id(2).context == "a text"
  assert isinstance(x, example_lib.Example)
  plain = example_lib.Example(1, "q?", "a text", ("a",))
  assert example_lib.fingerprint([x]) == example_lib.fingerprint([plain])


def test_one_command_evaluates_on_it(config, tmp_path, capsys):
  """`configs/eval_suite.py` as it is, but for sizes."""
  scope = {}
  exec((tiny_runs._ROOT / "configs/eval_suite.py").read_text(), scope)
  full = scope["get_config"]()
  assert len(full.data.tasks) == 17
  full.model = config.model
  full.agent.update(config.agent.to_dict())
  full.data.update(
    tasks=("vt", "niah_multikey_1"), lengths=(512,), eval_examples=2
  )
  full.agent.question_tokens = 128
  full.eval.batch_size = 2
  modes.evaluate(build.make(full), tmp_path, "base")
  heads = [x.split() for x in capsys.readouterr().out.splitlines()]
  assert ["niah_multikey_1_512", "vt_512", "mean_512"] in heads
  found = json.loads((tmp_path / "eval_base.json").read_text())
  assert set(found["controls"]) == set(config_lib.CONTROLS)
  for cells in (found["base"], *found["controls"].values()):
    assert set(cells) == {"vt_512", "niah_multikey_1_512", "mean_512"}
    assert cells["mean_512"]["n"] == 4
  page = (tmp_path / "report.html").read_text()
  assert "mean_512" in page and "control: last window" in page


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  """`configs/quickstart_text.py` on the suite, with random weights."""
  scope = {}
  exec((tiny_runs._ROOT / "configs/quickstart_text.py").read_text(), scope)
  config = scope["get_config"]()
  # Bytes, nearly: any text has ids.
  tokenizer = tokenizer_lib.train_bpe(
    ["Emma walked to the attic."], 280, prompts.STYLE_WORDS
  )
  path = tmp_path_factory.mktemp("model") / "tiny"
  config.model.path = tiny_runs.save_model(path, tokenizer, 512)
  with config.unlocked():
    config.data = ml_collections.ConfigDict(
      {
        "name": "suite",
        "tasks": ("babi_qa1", "babi_qa4"),
        "lengths": (512,),
        "eval_examples": 3,
      }
    )
  config.agent.update(
    chunk_tokens=256,
    question_tokens=64,
    memory_tokens=512,
    update_tokens=4,
    answer_tokens=4,
  )
  config.eval.update(batch_size=2, samples=0, traces=1)
  return config


def test_an_agent_is_evaluated_on_it(config, monkeypatch):
  """A text is made three times at most: to sort, to read and to hash."""
  made = collections.Counter()
  plain = example_lib.Deferred.context.fget

  def context(self):
    if callable(self._context):
      made[self.meta["task"], self.id] += 1
    return plain(self)

  monkeypatch.setattr(example_lib.Deferred, "context", property(context))
  run = build.make(config)
  # Checking the settings reads no text.
  assert not made
  assert list(run.env.eval_sets()) == ["babi_qa1_512", "babi_qa4_512"]
  policies = run.policies(run.load_params())
  result = evaluate.suite(run, policies)
  assert set(made.values()) == {3} and len(made) == 6
  assert {x["n"] for x in result["sets"].values()} == {3}
  assert len(set(result["data_sha256"].values())) == 2
  found, parts, _ = controls.evaluate_all(run, policies)
  assert set(found) == set(config_lib.CONTROLS)
  assert set(found["oracle"]) == set(result["sets"])
  assert parts["oracle"]["babi_qa1"]["n"] == 3


def test_oracle_memories_reach_the_model_as_they_are(config):
  run = build.make(config)
  examples = run.env.eval_sets()["babi_qa1_512"]
  tokenizer = run.tokenizer
  ids = [tokenizer.encode_batch(list(x.meta["oracle"])) for x in examples]
  state = run.agent.given(None, ids)
  for row, x in enumerate(examples):
    (held,) = run.agent.shown(state, row)
    text = tokenizer.decode(held)
    assert text == "".join(x.meta["oracle"])
    assert readers.score(x, readers.honest(x, text)) == 1
