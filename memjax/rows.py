"""Segments as rows for the loss: forward pass, log-probabilities, entropy.

Dimension key: R rows, P prompt tokens, A response tokens.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from memjax import agents
from memjax import qwen3
from memjax import qwen3_head
from memjax import sharding
from memjax import tokens as token_lib

FIRST = "/first"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
  """What the loss reads of R segments.

  Attributes:
    prompt: [R, P]; rows of a group may share its beginning.
    response: [R, A].
    old_logp: float32 [R, A], the behaviour policy's.
    ref_logp: float32 [R, A], the KL reference's, or None.
    adv: float32 [R], of the trajectory that the row belongs to.
    weight: bool [R]; False rows count nowhere.
  """

  prompt: token_lib.Tokens | token_lib.Grouped
  response: token_lib.Tokens
  old_logp: jax.Array
  ref_logp: jax.Array | None
  adv: jax.Array
  weight: jax.Array

  @property
  def mask(self) -> jax.Array:
    """bool [R, A], the response tokens that count."""
    return self.response.mask & self.weight[:, None]

  @property
  def group(self) -> int:
    """Rows that share the beginning of their prompts."""
    shared, _ = token_lib.parts(self.prompt)
    return 1 if shared is None else self.prompt.group

  @property
  def width(self) -> jax.Array:
    """int [R], tokens of each row, without what it shares."""
    _, own = token_lib.parts(self.prompt)
    return own.length + self.response.length

  @property
  def capacity(self) -> int:
    """The most tokens of a row, without what it shares."""
    _, own = token_lib.parts(self.prompt)
    return own.capacity + self.response.capacity

  def pack(self, most: int) -> int:
    """Rows that are taken together, so that they share what they can.

    A group, or the largest equal parts of one that are not above `most`.
    """
    return pack(self.group, most)


def pack(group: int, most: int) -> int:
  """The largest equal part of a group that has at most so many rows."""
  return max(n for n in range(1, group + 1) if n <= most and not group % n)


def from_segment(segment: agents.Segment, adv: jax.Array) -> Rows:
  """Rows of one segment: adv [B]; those not active weigh nothing."""
  response = segment.response
  return Rows(
    segment.prompt, response.tokens, response.logp, None, adv, segment.active
  )


def from_turns(segment: agents.Segment, adv: jax.Array) -> Rows:
  """Rows of stacked segments [C, n * B, ...], flattened; adv [B] is repeated.

  The advantage is a trajectory's before it is spread over its n calls in each
  of C turns here.
  """
  flat = jax.tree.map(
    lambda x: x.reshape((-1,) + x.shape[2:]),
    segment,
  )
  return from_segment(flat, jnp.tile(adv, segment.active.size // adv.size))


def from_episode(
  agent: agents.Agent, episode: agents.Episode, adv: Mapping[str, jax.Array]
) -> dict[str, Rows]:
  """Rows of the operations that are trained, by name.

  Prompts of a first turn that groups read once have rows of their own, under
  the name of the operation with FIRST behind it.

  Args:
    agent: whose episode it is.
    episode: B trajectories.
    adv: of each operation, [B] or, of those of a question, [N].
  """
  found, shared = {}, agents.first_is_shared(agent)
  for op in agent.trained:
    if op in episode.asked:
      found[op] = from_segment(episode.asked[op], adv[op])
      continue
    segment = episode.turns[op]
    later = jax.tree.map(lambda x: x[int(shared) :], segment)
    if later.active.size:
      found[op] = from_turns(later, adv[op])
    if shared:
      first = jax.tree.map(lambda x: x[0], segment)
      prompt = token_lib.grouped(first.prompt, agent.group)
      first = dataclasses.replace(first, prompt=prompt)
      found[op + FIRST] = from_segment(first, adv[op])
  return found


def _map(
  own: Callable[..., jax.Array], shared: Callable[..., jax.Array], *rows: Rows
) -> Rows:
  """Applies `shared` to what groups share, `own` to all else, leaf by leaf."""
  firsts, rests = zip(*(token_lib.parts(x.prompt) for x in rows))
  bare = [dataclasses.replace(x, prompt=rest) for x, rest in zip(rows, rests)]
  found = jax.tree.map(own, *bare)
  if firsts[0] is None:
    return found
  prompt = token_lib.Grouped(jax.tree.map(shared, *firsts), found.prompt)
  return dataclasses.replace(found, prompt=prompt)


def take(rows: Rows, index_n: jax.Array, pack: int = 1) -> Rows:
  """Packs at index [n], n * pack rows; -1 gives rows that weigh nothing.

  Pack i is rows i * pack to (i + 1) * pack - 1; with `pack` a divisor of the
  group they share the beginning of one group.
  """
  start_n = jnp.maximum(index_n, 0) * pack
  row = (start_n[:, None] + jnp.arange(pack)[None, :]).reshape(-1)
  got = _map(lambda x: x[row], lambda x: x[start_n // rows.group], rows)
  there = jnp.repeat(index_n >= 0, pack)
  got = dataclasses.replace(got, weight=got.weight & there)
  return sharding.constrain_rows(got)


def logp_and_entropy(
  params: qwen3.Params,
  cfg: qwen3.Config,
  rows: Rows,
  temperature: float = 1.0,
  width: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each response token and the entropy there; [R, A].

  Only the hidden states that predict a response token are unembedded. What
  rows share is read once; its gradient is the sum of theirs.

  Args:
    params: of the model.
    cfg: the model.
    rows: what it reads.
    temperature: of sampling.
    width: tokens of the longest row, what is shared left out; None: not known.
  """
  shared, prompt = token_lib.parts(rows.prompt)
  text, response = token_lib.concat([prompt, rows.response]), rows.response.ids
  if width is not None:
    text, response = token_lib.truncate(text, width), response[:, :width]
  # The token before a place says what stands in it.
  wanted = jnp.maximum(prompt.length - 1, 0), response.shape[1]
  hidden = qwen3.forward(params, cfg, text.ids, shared, wanted)
  found = qwen3_head.token_logp(params, cfg, hidden, response, temperature)
  left = rows.response.capacity - response.shape[1]
  logp, entropy = (jnp.pad(x, ((0, 0), (0, left))) for x in found)
  return logp, entropy


def empty_like(rows: Rows, count: int) -> Rows:
  """`count` rows of the same shapes that weigh nothing."""
  empty = lambda n: lambda x: jnp.zeros((n, *x.shape[1:]), x.dtype)
  return _map(empty(count), empty(count // rows.group), rows)


@functools.partial(jax.jit, donate_argnames="into")
def put(into: Rows, rows: Rows, target_R: jax.Array) -> Rows:
  """Copies row i of rows to into[target_R[i]]; -1 copies nothing.

  The rows of a group stay together and in order.
  """
  G, R = rows.group, into.weight.shape[0]
  # An index behind the last row writes nowhere.
  target_R = jnp.where(target_R < 0, R, target_R)
  write = lambda target: lambda a, b: a.at[target].set(b, mode="drop")
  found = _map(write(target_R), write(target_R[::G] // G), into, rows)
  return sharding.replicate(found)
