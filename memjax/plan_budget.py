"""Whether a run fits: what is held in each phase, what fits, what to change.

A phase's total is what is held all the while, and the temporaries of its
program. What is held is counted from shapes; temporaries come from a meter,
the compiler or the formulas.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping

import jax

from memjax import agents
from memjax import build
from memjax import optimizer
from memjax import plan_analytic
from memjax import plan_devices
from memjax import plan_shapes
from memjax import rows as rows_lib
from memjax import tokens as token_lib

PHASES = (plan_shapes.ROLLOUT, plan_shapes.GRADIENT, plan_shapes.STEP)
# What decides how many rows there are at once.
SETTINGS = {
  plan_shapes.ROLLOUT: "rollout.group_size",
  plan_shapes.GRADIENT: "train.micro_batch",
}

# Bytes of temporaries of (program, rows): rows of a micro-batch, or the group
# size of a rollout.
Meter = Callable[[str, int], float]


@dataclasses.dataclass(frozen=True)
class Phase:
  """Bytes of one phase on one device, by purpose.

  Attributes:
    held: all the while.
    temporary: of the program.
    parts: what the temporaries are, by formula.
  """

  held: Mapping[str, float]
  temporary: float
  parts: Mapping[str, float]

  @property
  def total(self) -> float:
    """Of both."""
    return sum(self.held.values()) + self.temporary


@dataclasses.dataclass(frozen=True)
class Plan:
  """A run on a device.

  Attributes:
    run: what is planned.
    shapes: of the run.
    work: of an iteration.
    mesh: of devices.
    meter: of temporaries.
  """

  run: build.Run
  shapes: plan_shapes.Shapes
  work: plan_analytic.Work
  mesh: plan_devices.Mesh
  meter: Meter

  def held(self, phase: str, group_size: int) -> dict[str, float]:
    """Bytes that stay throughout a phase, by purpose."""
    shapes, run = self.shapes, self.run
    size, share = plan_shapes.size, 1 / self.mesh.shards
    narrow = run.model.dtype != "float32"
    found = {
      "masters" if narrow else "parameters": share * size(shapes.state.params)
    }
    # Moments that live on the host come to the device for the step alone.
    away = run.config.train.get("moments_on_host", False)
    if phase == plan_shapes.STEP or not away:
      found["moments"] = share * size(shapes.state.opt_state)
    if shapes.state.reranker is not None:
      found["reranker"] = share * size(shapes.state.reranker)
    if shapes.base is not None:
      name = "model without adapters" if run.adapters else "reference"
      found[name] = share * size(shapes.base)
    # What rollouts read is a copy where it is of another dtype, and of unrolled
    # layers in any case; of the base there is one.
    apart = not shapes.agent.model.scan_layers
    frozen = shapes.policies.frozen
    if frozen is not None and run.shares_base:
      found["frozen"] = share * apart * size(frozen["layers"])
    elif frozen is not None:
      found["frozen"] = share * size(frozen)
    if shapes.policies.embedder is not None:
      found["embedder"] = share * size(shapes.policies.embedder)
    if phase != plan_shapes.ROLLOUT:
      found["gradients"] = share * size(shapes.state.params)
    else:
      found["policy that samples"] = share * self._sampling()
    # An iteration's rows, and until its metrics are read the last one's. They
    # are whole on each device.
    times = 2 * group_size / run.collect.group_size
    found["rows"] = times * size(shapes.rows)
    return found

  def _sampling(self) -> int:
    """Bytes of the policy, as rollouts read it, that nothing else holds."""
    run, size = self.run, plan_shapes.size
    policy, base = self.shapes.policies.policy, self.shapes.base
    apart = not self.shapes.agent.model.scan_layers
    if run.adapters:
      split = apart and not run.shares_base
      return size(policy) - size(base) + split * size(base["layers"])
    if run.model.dtype == "float32":
      return apart * size(policy["layers"])
    return size(policy)

  def phase(self, name: str, rows: int | None = None) -> Phase:
    """A phase, with the config's own rows or others."""
    group = self.run.collect.group_size
    if name == plan_shapes.ROLLOUT:
      rows = group = rows or group
    rows = rows or self.work.micro_batch
    return Phase(
      self.held(name, group),
      self.meter(name, rows),
      self.parts(name, rows),
    )

  def parts(self, name: str, rows: int) -> dict[str, float]:
    """Temporaries by formula."""
    return parts(self.work, name, rows, self.run, self.mesh)


def describe_work(
  run: build.Run, shapes: plan_shapes.Shapes
) -> plan_analytic.Work:
  """What an iteration computes, from the shapes of its segments."""
  B = shapes.task.chunks.length.shape[1]
  episode, calls = shapes.episode, []
  for op, segment in {**episode.turns, **episode.asked}.items():
    rows = segment.active.shape[-1]
    at_once = B if op in shapes.agent.one_by_one else rows
    tokens = segment.response.tokens.ids.shape[-1]
    times = segment.active.size // at_once
    if op in episode.turns and agents.first_is_shared(shapes.agent):
      first = jax.eval_shape(
        lambda x: token_lib.grouped(
          jax.tree.map(lambda x: x[0], x), shapes.agent.group
        ),
        segment.prompt,
      )
      calls.append(_call(op, at_once, 1, first, tokens))
      times -= 1
    if times:
      calls.append(_call(op, at_once, times, segment.prompt, tokens))
  train, kl = run.config.train, bool(run.config.objective.kl_coef)
  # Later minibatches need the log-probabilities of the behaviour policy.
  later = (train.minibatches - 1) / train.minibatches
  old = later if run.config.objective.old_logp == "trainer" else 0
  trained = tuple(
    _call(
      name.removesuffix(rows_lib.FIRST),
      len(x.weight),
      1,
      x.prompt,
      x.response.ids.shape[1],
    )
    for name, x in shapes.rows.items()
  )
  return plan_analytic.Work(
    run.model,
    tuple(calls),
    run.collect.questions // run.collect.wave_questions,
    trained,
    run.agent.turn_ops[0],
    train.micro_batch,
    train.minibatches,
    kl + old,
    sum(x.size for x in jax.tree.leaves(shapes.state.params)),
  )


def _call(
  op: str,
  rows: int,
  times: int,
  prompt: token_lib.Tokens | token_lib.Grouped,
  response: int,
) -> plan_analytic.Call:
  """A call from the shapes of its prompts."""
  shared, own = plan_shapes.lengths(prompt)
  group = prompt.group if shared else 1
  return plan_analytic.Call(op, rows, times, own, response, shared, group)


def parts(
  work: plan_analytic.Work,
  name: str,
  rows: int,
  run: build.Run,
  mesh: plan_devices.Mesh,
) -> dict[str, float]:
  """Temporaries of a phase by formula; on several devices, on each.

  What tensor divides of activations is not left out: an upper bound.
  """
  cfg = work.model
  if name == plan_shapes.STEP:
    return plan_analytic.step(work.params, mesh.shards)
  if name == plan_shapes.GRADIENT:
    part = work.longest
    pack = rows_lib.pack(part.group, rows)
    count = math.ceil(rows // pack * pack / mesh.rows)
    part = dataclasses.replace(part, rows=count, group=min(pack, count))
    whole = run.adapters is None
    found = plan_analytic.gradient(cfg, part, mesh.shards, whole)
  else:
    scale = rows / run.collect.group_size / mesh.rows
    found = max(
      (
        plan_analytic.rollout(
          run.agent.model,
          dataclasses.replace(call, rows=math.ceil(call.rows * scale)),
          in_parts=mesh.size == 1,
        )
        for call in work.calls
      ),
      key=lambda found: sum(found.values()),
    )
  if mesh.fsdp > 1:
    found["gathered layer"] = plan_analytic.gathered(cfg)
  return found


def formula(
  work: plan_analytic.Work, run: build.Run, mesh: plan_devices.Mesh
) -> Meter:
  """A meter that needs no compiler."""
  return lambda name, rows: sum(parts(work, name, rows, run, mesh).values())


def largest(
  total: Callable[[int], float], at: int, least: int, most: int, budget: float
) -> int:
  """The most rows whose total is within a budget; 0 if the least is not.

  Bytes grow with rows by equal steps, nearly: two points give a guess, which
  is then tried, thrice at most: at some sizes XLA works otherwise.
  """
  known = {n: total(n) for n in {at, least if at > least else 2 * least}}
  for _ in range(3):
    (a, low), (b, high) = sorted(known.items())[-2:]
    slope = max((high - low) / (b - a), 1.0)
    guess = min(math.floor(b + (budget - high) / slope), most)
    if guess < least or guess in known:
      break
    known[guess] = total(guess)
  return max((n for n, x in known.items() if x <= budget), default=0)


def changes(
  plan: Plan, name: str, excess: float, most: Mapping[str, int]
) -> dict[str, float]:
  """Single settings that save memory in a phase, and how many bytes.

  Args:
    plan: of the run.
    name: of the phase.
    excess: bytes over the budget.
    most: the largest group size (ROLLOUT) and micro-batch (GRADIENT) that fit.
  """
  run, work, config = plan.run, plan.work, plan.run.config
  now, found = plan.phase(name), {}
  own = {
    plan_shapes.ROLLOUT: run.collect.group_size,
    plan_shapes.GRADIENT: work.micro_batch,
    plan_shapes.STEP: 0,
  }[name]

  def other(work: plan_analytic.Work) -> float:
    """What other work saves by formula, in proportion to what was measured."""
    new = sum(parts(work, name, own, run, plan.mesh).values())
    return now.temporary * (1 - new / sum(now.parts.values()))

  if 0 < (fewer := most.get(name, 0)) < own:
    found[f"{SETTINGS[name]}={fewer}"] = (
      now.total - plan.phase(name, fewer).total
    )
  if run.collect.wave_questions > 1:
    share = 1 / run.collect.wave_questions
    calls = tuple(
      dataclasses.replace(call, rows=math.ceil(call.rows * share))
      for call in work.calls
    )
    found["rollout.wave_questions=1"] = other(
      dataclasses.replace(work, calls=calls)
    )
  if work.model.remat != "full":
    model = dataclasses.replace(work.model, remat="full")
    found["model.remat=full"] = other(dataclasses.replace(work, model=model))
  size = config.agent.chunk_tokens
  for chunk in (size // 2, size // 4, size // 8):
    saved = other(work.shorter(size - chunk))
    if saved >= excess:
      found[f"agent.chunk_tokens={chunk}"] = saved
      break
  else:
    found[f"agent.chunk_tokens={chunk}"] = saved
  found["objective.kl_coef=0"] = now.held.get("reference", 0.0)
  found |= _other_moments(plan, name)
  return {key: saved for key, saved in found.items() if saved > 0}


def _other_moments(plan: Plan, name: str) -> dict[str, float]:
  """Other ways to hold moments, and how many bytes a phase's held ones lose."""
  train = plan.run.config.train
  moments = plan.phase(name).held.get("moments", 0.0)
  found = {}
  if train.optimizer == "adamw" and train.moments == "float32" and moments:
    other = train.copy_and_resolve_references()
    with other.unlocked():
      other.moments = "int8"
    tx = optimizer.make(other)
    state = jax.eval_shape(tx.init, plan.shapes.state.params)
    share = plan_shapes.size(state) / plan.mesh.shards
    found["train.moments=int8"] = moments - share
  if not train.moments_on_host and name != plan_shapes.STEP:
    found["train.moments_on_host=True"] = moments
  return found
