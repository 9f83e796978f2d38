import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax import agents
from memjax import learner
from memjax import losses
from memjax import rows as rows_lib
from memjax import tasks
from memjax.envs import example as example_lib

_LOSS = losses.LossConfig(kl_coef=0.0)
_TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


@pytest.fixture(scope="module")
def rows(policies, agent, tokenizer):
  """Memory turns and answers of eight trajectories, with made-up advantages."""
  words = "the of and to a in is it".split()
  examples = [
    example_lib.Example(i, "kim?", " ".join(words[: 2 * i + 2]), ())
    for i in range(4)
  ]
  task = tasks.repeat(tasks.make_task(examples, tokenizer, agent), 2)
  episode = agents.rollout_jit(policies, agent, task, jax.random.key(0), 1.0)
  adv = jnp.array([1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3, -0.3])
  return (
    rows_lib.from_turns(episode.turns["update"], adv),
    rows_lib.from_segment(episode.answer, adv),
  )


def _index(rows):
  return np.flatnonzero(np.asarray(rows.weight))


def _update(
  params,
  agent,
  rows,
  ref=None,
  tx=_TX,
  objective=None,
  opt_state=None,
  **kwargs,
):
  settings = {
    "minibatches": 1,
    "micro_batch": 16,
    "old_logp": "trainer",
    "rng": np.random.default_rng(0),
  } | kwargs
  copy = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
  return learner.update(
    copy,
    tx.init(copy) if opt_state is None else opt_state,
    [(part, _index(part)) for part in rows],
    ref,
    cfg=agent.model,
    objective=objective or learner.Objective(loss=_LOSS),
    tx=tx,
    **settings,
  )


def _assert_close(got, want, atol=1e-5):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    np.testing.assert_allclose(a, b, atol=atol)


def test_idle_turns_are_no_rows(rows):
  turns, answers = rows
  # Contexts of 2, 4, 6 and 8 words in chunks of 6, two samples of each.
  assert len(_index(answers)) == 8
  assert len(turns.weight) == 16
  assert len(_index(turns)) == int(turns.weight.sum()) == 10


def test_sums_do_not_depend_on_the_micro_batch(params, agent, rows):
  """The gradient of a minibatch, however it is cut: numerators add up."""
  objective = learner.Objective(loss=_LOSS)

  def sums(size):
    total = learner.init_sums(params, with_ref=False)
    for part in rows:
      index = _index(part)
      for i in range(0, len(index), size):
        piece = index[i : i + size]
        piece = np.pad(piece, (0, size - len(piece)), constant_values=-1)
        total = learner.accumulate(
          total, params, part, piece, True, cfg=agent.model, objective=objective
        )
    return total

  whole, cut = sums(16), sums(3)
  assert float(whole.loss.den) == float(cut.loss.den) > 0
  _assert_close(cut.grads, whole.grads, 1e-4)
  _assert_close(cut.loss, whole.loss, 1e-4)
  assert float(jnp.abs(jax.tree.leaves(whole.grads)[0]).max()) > 1e-3


def test_an_objective_of_whole_sequences_may_be_cut(params, agent, rows):
  """That of one ratio each; losses_test.py cuts the others."""
  objective = learner.Objective("gspo", _LOSS)
  run = lambda size: _update(
    params,
    agent,
    rows,
    objective=objective,
    micro_batch=size,
    tx=optax.sgd(1.0),
  )[0]
  _assert_close(run(4), run(16), 1e-5)


def test_ratio_is_exactly_one_on_the_first_update_only(params, agent, rows):
  objective = learner.Objective(
    loss=dataclasses.replace(_LOSS, clip_low=0.05, clip_high=0.05)
  )
  _, _, (first, second, third) = _update(
    params,
    agent,
    rows,
    minibatches=3,
    tx=optax.sgd(1.0),  # a learning rate at which clipping acts
    objective=objective,
  )
  assert float(first["ratio"]) == 1.0
  assert float(first["clip_frac"]) == 0.0
  assert float(second["ratio"]) != 1.0
  assert float(second["clip_frac"]) + float(third["clip_frac"]) > 0.0


def test_sampler_and_trainer_logp_agree(params, agent, rows):
  _, _, (metrics,) = _update(params, agent, rows)
  assert 0 < float(metrics["logp_gap_max"]) < 1e-4
  moved = jax.tree.map(lambda x: x * 1.1, params)
  _, _, (metrics,) = _update(moved, agent, rows)
  assert float(metrics["logp_gap_max"]) > 1e-2


def test_old_logp_of_later_minibatches_is_that_of_the_start(
  params, agent, rows
):
  """With sampler log-probs, equal to the trainer's, both modes do the same."""
  run = lambda old, rows: _update(
    params, agent, rows, minibatches=2, old_logp=old, tx=optax.sgd(0.1)
  )[0]
  want = run("sampler", rows)
  _assert_close(run("trainer", rows), want, 1e-4)
  # The trainer's do not depend on what the sampler recorded.
  wrong = [
    dataclasses.replace(part, old_logp=part.old_logp - 1.0) for part in rows
  ]
  _assert_close(run("trainer", wrong), want, 1e-4)


def test_without_rows_there_is_no_step(params, agent, rows):
  """Not even by the momentum of an earlier one."""
  tx = optax.adam(1e-2)
  moved, opt_state, _ = _update(params, agent, rows, tx=tx)
  before = jax.device_get((moved, opt_state))
  none = [
    dataclasses.replace(part, weight=jnp.zeros_like(part.weight))
    for part in rows
  ]
  *after, history = _update(
    moved, agent, none, tx=tx, opt_state=opt_state, minibatches=2
  )
  assert history == []
  for a, b in zip(jax.tree.leaves(tuple(after)), jax.tree.leaves(before)):
    np.testing.assert_array_equal(a, b)


def test_rows_that_weigh_nothing_change_nothing(params, agent, rows):
  turns, answers = rows
  poisoned = dataclasses.replace(
    turns,
    old_logp=jnp.where(turns.weight[:, None], turns.old_logp, jnp.nan),
    adv=jnp.where(turns.weight, turns.adv, jnp.nan),
  )
  run = lambda t: _update(params, agent, (t, answers), tx=optax.sgd(1.0))[0]
  _assert_close(run(poisoned), run(turns), 0)


def test_kl_pulls_towards_the_reference(params, agent, rows):
  moved = jax.tree.map(lambda x: x * 1.2, params)
  dead = [
    dataclasses.replace(part, adv=jnp.zeros_like(part.adv)) for part in rows
  ]
  objective = learner.Objective(loss=dataclasses.replace(_LOSS, kl_coef=1.0))
  state, kl = moved, []
  for _ in range(4):
    state, _, (metrics,) = _update(
      state, agent, dead, ref=params, objective=objective, tx=optax.sgd(0.01)
    )
    kl.append(float(metrics["kl"]))
  assert kl[0] > kl[1] > kl[2] > kl[3] > 0


def test_kl_to_oneself_is_zero(params, agent, rows):
  objective = learner.Objective(loss=dataclasses.replace(_LOSS, kl_coef=1e-3))
  _, _, (metrics,) = _update(
    params, agent, rows, ref=params, objective=objective
  )
  assert abs(float(metrics["kl"])) < 1e-10


def test_an_update_that_is_not_finite_changes_nothing(params, agent, rows):
  turns, answers = rows
  bad = dataclasses.replace(turns, adv=turns.adv * jnp.inf)
  before = _TX.init(params)
  new, opt_state, (metrics,) = _update(params, agent, (bad, answers))
  assert not bool(metrics["finite"])
  for a, b in zip(
    jax.tree.leaves((new, opt_state)), jax.tree.leaves((params, before))
  ):
    np.testing.assert_array_equal(a, b)
  assert bool(_update(params, agent, rows)[2][0]["finite"])


def test_bfloat16_computes_on_float32_masters(params, agent, rows):
  half = dataclasses.replace(
    agent, model=dataclasses.replace(agent.model, dtype="bfloat16")
  )
  # A step of 1e-5 would vanish in a bfloat16 weight of 0.1.
  new, opt_state, (metrics,) = _update(params, half, rows, tx=optax.adamw(1e-5))
  assert {x.dtype for x in jax.tree.leaves(new)} == {jnp.dtype("float32")}
  changed = [
    float(jnp.mean(a != b))
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(params))
    if a.ndim > 2
  ]
  assert min(changed) > 0.9
  assert float(metrics["logp_gap_max"]) < 0.1


@pytest.mark.parametrize("name", ["multi_conv_dapo", "grpo", "dr_grpo"])
def test_the_step_is_the_gradient_of_the_mean(
  params, agent, rows, monkeypatch, name
):
  """Over all rows: sum of numerators / sum of denominators.

  Whatever the loss divides by, and though rows without advantage are not read.
  """
  adv = lambda part: jnp.where(jnp.abs(part.adv) > 0.4, part.adv, 0.0)
  some = [dataclasses.replace(part, adv=adv(part)) for part in rows]

  def loss(params):
    total = []
    for part in some:
      logp, entropy = rows_lib.logp_and_entropy(params, agent.model, part)
      mean, _ = losses.OBJECTIVES[name](
        logp, logp, None, part.adv, part.mask, _LOSS, entropy
      )
      total.append(mean)
    return (total[0] + total[1]).value()

  read = []
  accumulate = learner.accumulate

  def counted(sums, params, part, index, *args, **kwargs):
    read.extend(np.asarray(part.adv)[index[index >= 0]])
    return accumulate(sums, params, part, index, *args, **kwargs)

  monkeypatch.setattr(learner, "accumulate", counted)
  objective = learner.Objective(name=name, loss=_LOSS)
  tx = optax.sgd(1.0)
  new, _, (metrics,) = _update(params, agent, some, tx=tx, objective=objective)
  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  _assert_close(new, jax.tree.map(lambda p, g: p - g, params, grads))
  np.testing.assert_allclose(metrics["loss"], value, atol=1e-5)
  np.testing.assert_allclose(
    metrics["grad_norm"], optax.tree.norm(grads), rtol=1e-4
  )
  live = [x for part in some for x in np.asarray(part.adv)[_index(part)] if x]
  assert sorted(read) == pytest.approx(sorted(live))
  total = sum(len(_index(part)) for part in some)
  assert metrics["skipped"] == pytest.approx(1 - len(live) / total)
  # With a KL term they have a gradient.
  read.clear()
  with_kl = dataclasses.replace(_LOSS, kl_coef=0.1)
  objective = learner.Objective(name=name, loss=with_kl)
  _update(params, agent, some, ref=params, tx=tx, objective=objective)
  assert len(read) == total


@pytest.mark.parametrize("entropy_coef", [0.0, 0.1])
def test_rows_without_advantage_are_not_scored(
  params, agent, rows, monkeypatch, entropy_coef
):
  """Nor by the policy of before later minibatches, unless all are read."""
  half = lambda part: jnp.arange(len(part.adv)) % 2 * 1.0
  some = [dataclasses.replace(part, adv=half(part)) for part in rows]
  scored, score = [], learner.score

  def counted(logp, params, part, index, **kwargs):
    scored.extend(np.asarray(part.adv)[index[index >= 0]])
    return score(logp, params, part, index, **kwargs)

  monkeypatch.setattr(learner, "score", counted)
  loss = losses.LossConfig(kl_coef=0.0, entropy_coef=entropy_coef)
  objective = learner.Objective(loss=loss)
  _update(
    params, agent, some, objective=objective, minibatches=2, micro_batch=4
  )
  assert set(scored) == ({0.0, 1.0} if entropy_coef else {1.0})
  # Those of the first minibatch are the policy's own.
  assert sum(scored) < sum(np.asarray(x.adv)[_index(x)].sum() for x in some)


def test_a_minibatch_without_any_advantage_is_still_a_step(params, agent, rows):
  """Momentum goes on, as it would if the rows had been read."""
  none = [
    dataclasses.replace(part, adv=jnp.zeros_like(part.adv)) for part in rows
  ]
  tx = optax.sgd(1.0, momentum=0.5)
  before, opt_state, _ = _update(params, agent, rows, tx=tx)
  new, _, (metrics,) = _update(before, agent, none, tx=tx, opt_state=opt_state)
  assert set(metrics) == {"loss", "grad_norm", "finite", "skipped"}
  assert metrics["skipped"] == 1 and metrics["finite"]
  assert metrics["grad_norm"] == 0
  # Half of the first step again.
  first = jax.tree.map(lambda a, b: a - b, before, params)
  want = jax.tree.map(lambda a, step: a + step / 2, before, first)
  _assert_close(new, want)
  assert max(np.abs(x).max() for x in jax.tree.leaves(first)) > 1e-3


def test_rows_are_cut_to_their_length(params, agent, rows):
  """As many programs as widths, the same step, and less padding."""
  found = [
    # One row at a time: else the last of a width is filled up with others.
    _update(params, agent, rows, tx=optax.sgd(1.0), widths=n, micro_batch=1)
    for n in (1, 3)
  ]
  (one, _, (first,)), (three, _, (second,)) = found
  _assert_close(one, three)
  np.testing.assert_allclose(first["loss"], second["loss"], atol=1e-5)
  assert 0 < second["padding"] < first["padding"] < 1
