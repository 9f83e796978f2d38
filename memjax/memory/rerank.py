"""Reranking of retrieved memories: RMM's retrospective reflection, as maths.

    q' = q + W_q q,   m_i' = m_i + W_m m_i,   s_i = q' . m_i'
    draw  = the M largest of s_i / tau + g_i, in order, g_i ~ Gumbel(0, 1)
    P(draw) = prod_j exp(s_(j) / tau) / sum over i not yet taken exp(s_i / tau)
    R_i   = +1 if the answer cites memory i, -1 if not
    ascent on (R - b) log P(draw): one of READINGS

The paper prints log P of the picked set and defines it nowhere; `objective` has
two readings of it. Everything is a pure function of arrays; what asks the
model, and counts what it cites, is elsewhere.

Dimension key: N questions, K candidates, M picked, D embedding, C = D (output
of W). Everything is float32 (float64 stays float64, for tests).

Source: arXiv 2503.08026, "Retrospective Reflection".
"""

import dataclasses

import jax
import jax.numpy as jnp

Params = dict[str, jax.Array]

# What log P of the picked memories means.
READINGS = ("plackett_luce", "softmax")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Draw:
  """What was drawn for N questions, and all that its probability needs.

  Attributes:
    query: [N, D], of the questions.
    memory: [N, K, D], of the candidates; finite where there is none, too: 0
      times infinity would be NaN in the gradient of the weights.
    there: bool [N, K], the candidate exists.
    noise: float32 [N, K], Gumbel; zeros where none was added.
    picked: int32 [N, M], indices into K in the order of the draw, -1 behind
      the last where fewer than M candidates exist.
  """

  query: jax.Array
  memory: jax.Array
  there: jax.Array
  noise: jax.Array
  picked: jax.Array


def init(width: int) -> Params:
  """Zero weights "query" and "memory", float32 [D, D]: the retriever exactly.

  The paper does not say how it starts. From zero the first ranking is the
  retriever's, and both gradients are non-zero, because of the residual.
  """
  return {
    name: jnp.zeros((width, width), jnp.float32) for name in ("query", "memory")
  }


def scores(
  params: Params,
  query_ND: jax.Array,
  memory_NKD: jax.Array,
  plain_NK: jax.Array | None = None,
) -> jax.Array:
  """Computes s = q' . m' of each candidate, float32 [N, K].

    q' = q + W_q q,   m' = m + W_m m

  computed as q . m and what the weights add to it. That is 0 for zero weights:
  then the scores are the retriever's, bit by bit. With other weights they are
  no cosines, as the adapted vectors have any length.

  Args:
    params: "query" and "memory", [D, D]; W[c, d] takes input d to output c.
    query_ND: unit vectors of the questions.
    memory_NKD: unit vectors of the candidates.
    plain_NK: q . m where it is known: summed over other candidates, or in
      another program, it may be rounded otherwise. Default: computed here.

  Source: arXiv 2503.08026, "Retrospective Reflection"; its appendix calls the
  linear layer "an MLP with residual connection".
  """
  wide = jnp.promote_types(query_ND.dtype, jnp.float32)
  dot = lambda x_ND, y_NKD: jnp.einsum(
    "nd,nkd->nk", x_ND, y_NKD, preferred_element_type=wide
  )
  if plain_NK is None:
    plain_NK = dot(query_ND, memory_NKD)
  more_ND = jnp.einsum("cd,nd->nc", params["query"], query_ND)
  more_NKD = jnp.einsum("cd,nkd->nkc", params["memory"], memory_NKD)
  return plain_NK + dot(query_ND + more_ND, more_NKD) + dot(more_ND, memory_NKD)


def gumbel(key_N: jax.Array, K: int) -> jax.Array:
  """Standard Gumbel noise, float32 [N, K]; row n's comes from key n alone.

  The key is folded once more, as that of a call's first token is: keys of calls
  themselves are those of another call's tokens, and would give their noise.
  """
  one = lambda key: jax.random.gumbel(jax.random.fold_in(key, 0), (K,))
  return jax.vmap(one)(key_N)


def pick(
  score_NK: jax.Array,
  there_NK: jax.Array,
  noise_NK: jax.Array,
  tau: jax.Array | float,
  m: int,
) -> jax.Array:
  """Takes the M largest of s / tau + noise among the candidates that exist.

  The paper adds the noise to s and then divides by tau. That scales score and
  noise alike, and tau would not shape the draw. Here the noise is added to
  s / tau, so that the ordered draw is exactly Plackett-Luce with logits
  s / tau (Gumbel-top-k).

  Without noise this is the order of the scores. Of equal ones the smaller index
  comes first: candidates in the order of `retrieve.top` stay in it.

  Args:
    score_NK: from `scores`.
    there_NK: bool; the others are never picked, whatever stands in them.
    noise_NK: from `gumbel`, or zeros.
    tau: temperature, > 0, in units of score. The paper's is 0.5.
    m: M; may exceed K.

  Returns:
    int32 [N, M], best first, -1 behind where fewer exist.

  Source: arXiv 1903.06059 (Kool et al.), "The Gumbel-Top-k Trick"; T. Vieira,
  "Gumbel-max trick and weighted reservoir sampling" (2014).
  """
  noisy_NK = score_NK / tau + noise_NK
  # lexsort is stable, and puts those that do not exist behind all others.
  order_NM = jnp.lexsort((-noisy_NK, ~there_NK), axis=-1)[:, :m]
  able_NM = jnp.take_along_axis(there_NK, order_NM, axis=1)
  picked_NM = jnp.where(able_NM, order_NM, -1).astype(jnp.int32)
  short = m - picked_NM.shape[1]
  return jnp.pad(picked_NM, ((0, 0), (0, max(short, 0))), constant_values=-1)


def rewards(cited_NM: jax.Array, picked_NM: jax.Array) -> jax.Array:
  """+1 for a cited memory, -1 for another, 0 for no memory; float32 [N, M]."""
  reward_NM = jnp.where(cited_NM, 1.0, -1.0).astype(jnp.float32)
  return jnp.where(picked_NM >= 0, reward_NM, 0.0)


def _at(x_NK: jax.Array, picked_NM: jax.Array) -> jax.Array:
  """The picked of K, [N, M]; that of 0 where nothing was picked."""
  return jnp.take_along_axis(x_NK, jnp.maximum(picked_NM, 0), axis=1)


def log_prob(
  score_NK: jax.Array, draw: Draw, tau: jax.Array | float
) -> jax.Array:
  """Log-probability of the ordered draw under Plackett-Luce, float32 [N].

    log P = sum_j [ s_(j) / tau - logsumexp over i not yet taken of s_i / tau ]

  The scores are clean: the noise is what the probability is over. 0 for a row
  without candidates, with zero gradients.

  Worked example: exp(s / tau) of 1, 2, 5 and the draw third, second has
  P = 5/8 * 2/3 = 5/12.

  Args:
    score_NK: from `scores`, at the parameters that are asked about.
    draw: reads `there` and `picked`.
    tau: temperature, > 0.

  Source: R. Plackett, The analysis of permutations (1975); arXiv 1903.06059 for
  the draw.
  """
  live_NM = draw.picked >= 0
  # A finite stand-in where nothing is, so that no gradient is 0 * inf.
  logit_NK = jnp.where(draw.there, score_NK, 0.0) / tau
  index_K = jnp.arange(logit_NK.shape[1])
  hit_NMK = draw.picked[:, :, None] == index_K[None, None]
  taken_NMK = jnp.cumsum(hit_NMK, axis=1) > hit_NMK  # before this pick
  left_NMK = draw.there[:, None] & ~taken_NMK
  # Behind the last pick nothing may be left, and logsumexp of nothing has a NaN
  # on its way back; the term does not count.
  left_NMK |= ~live_NM[:, :, None]
  rest_NM = jax.nn.logsumexp(
    jnp.where(left_NMK, logit_NK[:, None], -jnp.inf), axis=-1
  )
  term_NM = _at(logit_NK, draw.picked) - rest_NM
  return jnp.where(live_NM, term_NM, 0.0).sum(1)


def objective(
  score_NK: jax.Array,
  draw: Draw,
  reward_NM: jax.Array,
  tau: jax.Array | float,
  baseline: jax.Array | float,
  reading: str,
) -> jax.Array:
  """Computes what REINFORCE maximises, for each question: float32 [N].

  "plackett_luce", with log P from `log_prob` and n <= M memories picked:

    (1/n sum_j R_j - b) log P(draw)

  Its gradient is an unbiased estimate of that of the expected mean reward, for
  rewards that depend on the draw in any way and for any b that does not, if the
  noise was Gumbel and the scores are those that were drawn from.

  "softmax", with p over all candidates that exist, of the noisy scores:

    sum_j (R_j - b) log p_j,   p = softmax(s / tau + noise)

  This is what the paper computes, but for where the noise is added (see
  `pick`), and it rewards each memory for itself, as its figure does. It is not
  the probability of the set, and its gradient is biased: p is taken at the very
  noise that chose the picks. With equal rewards R, where nothing is to be
  learned, it still drifts, in proportion to R - b.

  Worked example: softmax weights 1/8, 2/8, 5/8, the draw third, second with
  R = 1, -1, b = 0.5: log(5/8) / 2 - 3/2 log(2/8) = 1.844. With the noise zero
  "plackett_luce" gives (0 - 1/2) log(5/12) = 0.438.

  Args:
    score_NK: from `scores`; the gradient goes through it alone.
    draw: what was drawn.
    reward_NM: from `rewards`; anything where nothing was picked.
    tau: temperature of the draw, > 0.
    baseline: b, one number. The paper's is 0.5.
    reading: one of READINGS; static.

  Returns:
    One value per question; 0, with zero gradients, where no candidate exists.

  Raises:
    ValueError: an unknown reading, or rewards not shaped like the picks.

  Source: arXiv 2503.08026, "Retrospective Reflection"; R. Williams, Simple
  statistical gradient-following algorithms (1992).
  """
  if reading not in READINGS:
    raise ValueError(
      f"reading is {reading!r}; expected one of {', '.join(READINGS)}."
    )
  if reward_NM.shape != draw.picked.shape:
    raise ValueError(
      f"reward_NM has shape {reward_NM.shape}; expected that of the picks,"
      f" {draw.picked.shape}. Reward the picks, not the candidates."
    )
  live_NM = draw.picked >= 0
  reward_NM = jnp.where(live_NM, jax.lax.stop_gradient(reward_NM), 0.0)
  if reading == "plackett_luce":
    mean_N = reward_NM.sum(1) / jnp.maximum(live_NM.sum(1), 1)
    return (mean_N - baseline) * log_prob(score_NK, draw, tau)
  noisy_NK = jnp.where(draw.there, score_NK / tau + draw.noise, -jnp.inf)
  # A row without candidates: any numbers, none of which count.
  noisy_NK = jnp.where(draw.there.any(1, keepdims=True), noisy_NK, 0.0)
  logp_NM = _at(jax.nn.log_softmax(noisy_NK), draw.picked)
  logp_NM = jnp.where(live_NM, logp_NM, 0.0)
  return ((reward_NM - baseline) * logp_NM).sum(1)
