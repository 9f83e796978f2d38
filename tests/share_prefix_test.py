"""What a group reads alike is read once: the same rollouts, the same update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_runs

from memjax import agents
from memjax import batching
from memjax import build
from memjax import collect
from memjax import learner
from memjax import losses
from memjax import prompts
from memjax import rows as rows_lib
from memjax import sampling
from memjax import tasks
from memjax import tokens as token_lib
from memjax import traces
from memjax.envs import example as example_lib
from memjax.memory import recurrent

_G = 4
_ADV = jnp.array([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3, -0.3])
_LOSS = losses.LossConfig(kl_coef=1e-2)


@pytest.fixture(scope="module", params=["words_chunk_first", "words"])
def reader(request, agent, tokenizer):
  """The recurrent agent, the chunk before the memory or behind it."""
  op = recurrent.make_recurrent(tokenizer, request.param, capacity=3)
  return dataclasses.replace(
    agent, op=dataclasses.replace(op, stop_ids=agent.op.stop_ids)
  )


@pytest.fixture(scope="module")
def task(reader, tokenizer):
  """Two contexts, of one and of three chunks, four trajectories each."""
  words = "the of and to a in is it".split()
  examples = [
    example_lib.Example(i, "kim?", " ".join((words * 3)[:n]), ())
    for i, n in enumerate((5, 17))
  ]
  return tasks.repeat(tasks.make_task(examples, tokenizer, reader), _G)


@pytest.fixture(scope="module")
def episodes(policies, reader, task):
  """An agent's rollouts, and the same of one that shares."""
  sample = lambda agent: agents.rollout_jit(
    policies, agent, task, jax.random.key(0), 1.0
  )
  sharing = dataclasses.replace(reader, group=_G)
  return (reader, sample(reader)), (sharing, sample(sharing))


def _turn_rows(agent, episode):
  """Rows of the memory turns, by name."""
  adv = {"update": _ADV, "answer": _ADV}
  rows = rows_lib.from_episode(agent, episode, adv)
  return {name: x for name, x in rows.items() if name != "answer"}


def _whole(grouped):
  """Grouped rows as they are read."""
  each = lambda x: jnp.repeat(x, grouped.group, axis=0)
  return token_lib.concat([jax.tree.map(each, grouped.shared), grouped.own])


def _text(episode):
  prompt = episode.turns["update"].prompt
  if isinstance(prompt, token_lib.Grouped):
    prompt = jax.vmap(_whole)(prompt)
  return prompt


def test_what_stands_before_the_first_slot_of_its_own():
  pieces = lambda *x: prompts.Template(x)
  count = prompts.shared_pieces
  assert count(pieces((1,), "question", (2,), "chunk", (3,), "memory")) == 5
  assert count(pieces((1,), "memory", (2,), "chunk", (3,))) == 0
  assert count(pieces((1,), "question", (2,), "memory", "chunk")) == 0
  # All alike: what is left of a row is the last piece.
  assert count(pieces((1,), "chunk", (3,))) == 2
  assert count(pieces((1,), "question", "memory")) == 0


def test_who_has_no_group_shares_nothing():
  row = lambda *ids: token_lib.from_lists([ids, ids], capacity=2)
  slots = {"chunk": row(5, 6), "memory": row(7)}
  template = prompts.Template(((1,), "chunk", (3,), "memory"))
  alone = prompts.fill(template, **slots)
  assert isinstance(alone, token_lib.Tokens)
  grouped = prompts.fill(template, 2, **slots)
  assert isinstance(grouped, token_lib.Grouped) and grouped.group == 2
  for one, other in zip(*map(jax.tree.leaves, (alone, _whole(grouped)))):
    np.testing.assert_array_equal(one, other)


def test_rollouts_are_the_same(episodes):
  (_, plain), (_, shared) = episodes
  for one, two in (
    (plain.turns["update"], shared.turns["update"]),
    (plain.answer, shared.answer),
  ):
    np.testing.assert_array_equal(
      one.response.tokens.ids, two.response.tokens.ids
    )
    np.testing.assert_array_equal(one.active, two.active)
    np.testing.assert_allclose(one.response.logp, two.response.logp, atol=1e-5)
  # The same prompts, of which the shared part is stored once.
  one, two = _text(plain), _text(shared)
  np.testing.assert_array_equal(one.length, two.length)
  mask = np.asarray(one.mask)
  got = np.asarray(two.ids)[..., : one.capacity]
  np.testing.assert_array_equal(got[mask], np.asarray(one.ids)[mask])
  # As people see them.
  segment = jax.device_get(jax.tree.map(lambda x: x[1], shared.turns["update"]))
  plain_one = jax.device_get(
    jax.tree.map(lambda x: x[1], plain.turns["update"])
  )
  for row in (4, 7):
    assert traces._prompt(segment, row) == traces._prompt(plain_one, row)


def test_what_is_read_once(monkeypatch, policies, reader, task):
  """Of two texts: each turn's, or those of the first turn alone."""
  read, decode = [], sampling.decode

  def watched(params, cfg, prompt, *args, **kwargs):
    shared, own = token_lib.parts(prompt)
    read.append((len(shared.ids) if shared else 0, own.capacity))
    return decode(params, cfg, prompt, *args, **kwargs)

  monkeypatch.setattr(sampling, "decode", watched)
  sharing = dataclasses.replace(reader, group=_G)
  jax.eval_shape(
    lambda: agents.rollout(policies, sharing, task, jax.random.key(0), 1.0)
  )
  *turns, answer = read
  assert answer[0] == 0
  if reader.alike == agents.BEGINNINGS:
    assert [n for n, _ in turns] == [2]
  else:
    assert turns[0] == (2, 1)
    assert [n for n, _ in turns] == [2, 0]


def test_updates_are_the_same(params, agent, reader, episodes):
  """With a reference, groups in parts or whole."""
  micro_batch = 3 if reader.alike == agents.BEGINNINGS else 8
  tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1))
  ref = jax.tree.map(lambda x: 0.9 * x, params)
  found = []
  for reader, episode in episodes:
    made = _turn_rows(reader, episode).values()
    copy = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    new, _, history = learner.update(
      copy,
      tx.init(copy),
      [(rows, np.flatnonzero(np.asarray(rows.weight))) for rows in made],
      ref,
      cfg=agent.model,
      objective=learner.Objective(loss=_LOSS),
      tx=tx,
      minibatches=1,
      micro_batch=micro_batch,
      old_logp="trainer",
      rng=np.random.default_rng(0),
    )
    found.append((new, history[0]))
  (one, first), (two, second) = found
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, params)
  assert max(jax.tree.leaves(moved)) > 1e-3
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for name in ("loss", "kl", "entropy", "grad_norm", "logp_gap"):
    np.testing.assert_allclose(first[name], second[name], atol=1e-4)


def _shared_rows(episodes):
  """Rows of groups: all turns', or those of the first."""
  made = _turn_rows(*episodes[1])
  (rows,) = [rows for rows in made.values() if rows.group > 1]
  return rows


def test_packs_are_whole_groups_or_equal_parts(episodes):
  rows = _shared_rows(episodes)
  assert rows.group == _G
  assert [rows.pack(n) for n in (1, 2, 3, 4, 9)] == [1, 2, 2, 4, 4]
  got = rows_lib.take(rows, jnp.array([3, -1]), 2)  # rows 6, 7 of group 1
  want = _whole(rows.prompt)
  whole = _whole(got.prompt)
  for i, row in enumerate((6, 7)):
    n = int(want.length[row])
    assert int(whole.length[i]) == n
    np.testing.assert_array_equal(whole.ids[i, :n], want.ids[row, :n])
  assert not got.weight[2:].any()


def test_minibatches_do_not_depend_on_the_micro_batch(episodes):
  """Two groups of four, one row of which counts nowhere."""
  rows = _shared_rows(episodes)
  index, found = np.array([0, 1, 2, 3, 6, 7]), []
  for micro_batch in (4, 2, 1):
    plan = batching.make(rows, micro_batch, 1)
    parts = batching.minibatches(rows, index, plan, 3, np.random.default_rng(0))
    made = [(x[:, None] * plan.pack + np.arange(plan.pack)) for x in parts]
    found.append([set(index) & set(x.reshape(-1)) for x in made])
    # Packs of rows that do not count are left out.
    assert sum(map(len, parts)) == {4: 2, 2: 3, 1: 6}[plan.pack]
  assert found[0] == found[1] == found[2]
  assert sorted(map(len, found[0])) == [0, 2, 4]


def test_groups_are_put_where_they_belong(episodes):
  rows = _shared_rows(episodes)
  count = len(rows.weight)
  target = np.full(count, -1)
  target[4:8] = [8, 9, 10, 11]
  got = rows_lib.put(rows_lib.empty_like(rows, count + 4), rows, target)
  assert not np.asarray(got.weight)[:8].any()
  np.testing.assert_array_equal(got.weight[8:12], rows.weight[4:8])
  old, new = _whole(rows.prompt), _whole(got.prompt)
  np.testing.assert_array_equal(new.ids[8:12], old.ids[4:8])
  np.testing.assert_array_equal(got.old_logp[8:12], rows.old_logp[4:8])


def _collected(run, cfg):
  """An iteration's experience of a model with random weights."""
  return collect.collect(
    agents.Policies(run.load_params()),
    run.agent,
    run.env,
    run.tokenizer,
    cfg,
    key=jax.random.key(1),
    seed=(1, 2),
    cursor=0,
    record=1,
  )


@pytest.mark.parametrize("style", ["words_chunk_first", "words"])
def test_experience_shares_by_the_config(config, style):
  config.rollout.share_prefix = True
  config.agent.style = style
  run = build.make(config)
  shared = _collected(run, run.collect)
  plain = _collected(run, dataclasses.replace(run.collect, share_prefix=False))
  first = shared.rows["update" + rows_lib.FIRST * (style == "words")]
  assert first.group == config.rollout.group_size
  assert plain.rows["update"].group == 1
  counted = lambda x: sum(map(len, x.index.values()))
  assert counted(shared) == counted(plain) > 0
  assert shared.metrics == pytest.approx(plain.metrics)
  assert shared.tokens == plain.tokens
  one, two = (
    [t["calls"][0]["prompt"] for t in x.groups[0]["group"][1]["turns"]]
    for x in (plain, shared)
  )
  assert one == two and one


@pytest.mark.parametrize("name", ["memory_r1", "memory_rmm"])
def test_extractors_of_banks_share_what_they_read(name, tmp_path):
  """Experience and an update on it, with advantages made up for each row."""
  config = tiny_runs.dialogues(tmp_path)
  config.agent.name = name
  config.rollout.update(questions=2, wave_questions=2, group_size=_G)
  config.rollout.share_prefix = True
  run = build.make(config)
  shared = _collected(run, run.collect)
  plain = _collected(run, dataclasses.replace(run.collect, share_prefix=False))
  assert shared.rows["extract"].group == _G
  assert plain.rows["extract"].group == 1
  assert shared.metrics == pytest.approx(plain.metrics)
  params, tx, found = run.load_params(), optax.sgd(0.1), []
  ref = jax.tree.map(lambda x: 0.9 * x, params)
  adv = lambda rows: jnp.cos(rows.response.ids.sum(1).astype(jnp.float32))
  for experience in (plain, shared):
    copy = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    new, _, history = learner.update(
      copy,
      tx.init(copy),
      [
        (dataclasses.replace(rows, adv=adv(rows)), experience.index[op])
        for op, rows in experience.rows.items()
      ],
      ref,
      cfg=run.model,
      objective=learner.Objective(loss=_LOSS),
      tx=tx,
      minibatches=1,
      micro_batch=8,
      old_logp="trainer",
      rng=np.random.default_rng(0),
    )
    found.append((new, history[0]))
  (one, first), (two, second) = found
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), one, params)
  assert max(jax.tree.leaves(moved)) > 1e-3
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for key in ("loss", "kl", "entropy", "grad_norm"):
    np.testing.assert_allclose(first[key], second[key], atol=1e-4)


def test_one_turn_is_the_first(config):
  """Texts of one chunk: there are no rows of later turns."""
  config.rollout.share_prefix, config.agent.max_chunks = True, 1
  run = build.make(config)
  found = _collected(run, run.collect)
  assert set(found.rows) == {"update" + rows_lib.FIRST, "answer"}
