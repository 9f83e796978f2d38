"""Retrieval: which entries of a bank a query is about. Exact, on the device.

    scores(query, bank) -> float32 [B, E]        what fits how well
    top(scores, bank, k) -> slots [B, K]         the best, ties by smaller id

Lexical scores count normalised words: token ids are mapped to words first, as
" Paris", "Paris" and "paris" are different ids. Embedding scores are cosines;
they come from a model, and nothing stands in for a model that is not there.

Dimension key: B rows, E entries, M tokens of an entry, T tokens of a query, D
embedding, K picked, U words of a token, S speakers.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np

from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib

_WORD = re.compile(r"[^\W_]+")
# Words of one token that are counted; further ones are not.
_WORDS_PER_TOKEN = 2


@dataclasses.dataclass(frozen=True)
class Lexicon:
  """Token ids to numbers of normalised words; hashable.

  Attributes:
    words: int32 [V + 1, U], -1 where a token has fewer; the last row is for
      ids beyond the vocabulary.
  """

  words: token_lib.Table


def make_lexicon(tokenizer: tokenizer_lib.Tokenizer) -> Lexicon:
  """Lower-cased runs of letters and digits of each token.

  A token without any, such as punctuation, counts nowhere; a word of several
  tokens counts as its pieces.
  """
  pieces = tokenizer.pieces
  special = set(tokenizer.backend.all_special_ids)
  table = np.full((len(pieces) + 1, _WORDS_PER_TOKEN), -1, np.int32)
  numbers: dict[str, int] = {}
  for i, piece in enumerate(pieces):
    if i in special:
      continue
    for u, word in enumerate(_WORD.findall(piece.lower())[:_WORDS_PER_TOKEN]):
      table[i, u] = numbers.setdefault(word, len(numbers))
  return Lexicon(token_lib.Table(table))


def _words(lexicon: Lexicon, tokens: token_lib.Tokens) -> jax.Array:
  """int32 [..., T * U], -1 where there is none."""
  words = jnp.where(tokens.mask[..., None], lexicon.words[tokens.ids], -1)
  *leading, T, U = words.shape
  return words.reshape(*leading, T * U)


def bm25(
  lexicon: Lexicon,
  query: token_lib.Tokens,
  bank: bank_lib.Bank,
  k1: float = 1.2,
  b: float = 0.75,
) -> jax.Array:
  """Okapi BM25 of each entry, float32 [B, E].

    score(q, e) = sum over words w of q of
      log(1 + (n - df + .5) / (df + .5)) tf (k1 + 1) /
      (tf + k1 (1 - b + b |e| / mean |e|))

  n and df are counted in the bank itself. Source: Robertson and Zaragoza, The
  Probabilistic Relevance Framework (2009), with Lucene's idf, which is never
  negative. The query's words are scanned, so that no array is larger than the
  bank.
  """
  entry_BEW = jnp.where(bank.valid[..., None], _words(lexicon, bank.text), -1)
  length_BE = (entry_BEW >= 0).sum(-1).astype(jnp.float32)
  count_B = jnp.maximum(bank.valid.sum(-1), 1).astype(jnp.float32)
  mean_B = jnp.maximum(length_BE.sum(-1) / count_B, 1e-6)
  norm_BE = k1 * (1 - b + b * length_BE / mean_B[:, None])

  def add(score_BE, word_B):
    hit_BEW = (entry_BEW == word_B[:, None, None]) & (
      word_B[:, None, None] >= 0
    )
    tf_BE = hit_BEW.sum(-1).astype(jnp.float32)
    df_B = (tf_BE > 0).sum(-1).astype(jnp.float32)
    idf_B = jnp.log1p((count_B - df_B + 0.5) / (df_B + 0.5))
    gain_BE = tf_BE * (k1 + 1) / jnp.maximum(tf_BE + norm_BE, 1e-6)
    return score_BE + idf_B[:, None] * gain_BE, None

  query_QB = _words(lexicon, query).T
  score_BE, _ = jax.lax.scan(add, jnp.zeros_like(length_BE), query_QB)
  return score_BE


def embed(
  params: qwen3.Params, cfg: qwen3.Config, text: token_lib.Tokens, end_id: int
) -> jax.Array:
  """Unit vectors of texts [R, T] by a Qwen3, float32 [R, D].

  The end token is put behind each text and the last hidden state taken, as
  Qwen3-Embedding does (2506.05176, sec. 2). An empty text has a zero vector: it
  is in no bank.
  """
  rows = token_lib.concat(
    [text, token_lib.constant([end_id], text.length.shape[0])]
  )
  last, _ = qwen3.read(params, cfg, rows.ids, rows.length)
  last = last.astype(jnp.float32)
  unit = last / jnp.maximum(jnp.linalg.norm(last, axis=-1, keepdims=True), 1e-9)
  return jnp.where(text.length[:, None] > 0, unit, 0.0)


def cosine(query_BD: jax.Array, bank: bank_lib.Bank) -> jax.Array:
  """Cosine of each entry's unit vector to the query's, float32 [B, E]."""
  return jnp.einsum(
    "bd,bed->be",
    query_BD,
    bank.embedding,
    preferred_element_type=jnp.float32,
  )


def recency(bank: bank_lib.Bank) -> jax.Array:
  """The later changed, the higher; of one session, the later added."""
  span = bank.next_id.max() + 1
  return (bank.updated * span + bank.id).astype(jnp.float32)


def top(
  score_BE: jax.Array, bank: bank_lib.Bank, k: int, least: float = -jnp.inf
) -> jax.Array:
  """Slots of the best entries, best first, -1 where there are fewer.

  Args:
    score_BE: scores; free slots are never picked.
    bank: for validity, and for the ids that break ties.
    k: K.
    least: entries must score more than this.

  Returns:
    int32 [B, K].
  """
  able = bank.valid & (score_BE > least)
  score = jnp.where(able, score_BE, -jnp.inf)
  order = jnp.lexsort((bank.id, -score, ~able), axis=-1)[:, :k]
  slot = jnp.where(jnp.take_along_axis(able, order, 1), order, -1)
  short = k - slot.shape[1]
  return jnp.pad(slot, ((0, 0), (0, max(short, 0))), constant_values=-1)


def halves(
  lexicon: Lexicon,
  score_BE: jax.Array,
  bank: bank_lib.Bank,
  speakers: token_lib.Tokens,
  k: int,
) -> jax.Array:
  """K / S slots for each speaker: the best entries that name them.

  The first speakers get what is left over. A row without speakers has the best
  K of all entries.

  Memory-R1 retrieves the best 30 of each participant (2508.19828, sec. 3.2). An
  entry that names several counts for each, and is listed once.

  Args:
    lexicon: of the tokenizer.
    score_BE: scores.
    bank: B banks.
    speakers: names, ids [B, S, T] and length [B, S].
    k: K, in all.

  Returns:
    int32 [B, K] slots, speaker by speaker, -1 behind the last.
  """
  S = speakers.length.shape[1]
  entry_BEW = _words(lexicon, bank.text)
  name_BSW = _words(lexicon, speakers)
  taken = jnp.zeros_like(bank.valid)
  slots = []
  for s in range(S):
    name_BW = name_BSW[:, s]
    has = (entry_BEW[:, :, :, None] == name_BW[:, None, None, :]).any(2)
    named = (has | (name_BW < 0)[:, None, :]).all(-1)
    named &= (name_BW >= 0).any(-1)[:, None] & ~taken
    share = k // S + (s < k % S)
    part = top(jnp.where(named, score_BE, -jnp.inf), bank, share)
    slots.append(part)
    hit = part[:, :, None] == jnp.arange(taken.shape[1])[None, None]
    taken |= hit.any(1)
  slot = jnp.concatenate(slots, axis=1)
  alone = (name_BSW < 0).all((1, 2))
  slot = jnp.where(alone[:, None], top(score_BE, bank, k), slot)
  # Places without an entry last, so that numbers in a prompt have no gaps.
  return jnp.take_along_axis(slot, jnp.argsort(slot < 0, axis=1), axis=1)
