"""A checkpoint as judge: a Hugging Face directory that memjax runs itself.

The prompt is the same as an endpoint's. Nothing is sampled: of the two replies
that would be a verdict, the likelier one is it,

  right if log p(reply CORRECT | prompt) > log p(reply WRONG | prompt),

both replies whole, as `judge.REPLIES` has them. So there is no malformed reply,
and no randomness. What a model would say if it could reason first is not seen.

Dimension key: B rows, two for each prompt; T tokens of prompt and reply, R
tokens of the longer reply.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax import attention
from memjax import hf
from memjax import judge
from memjax import judge_cache
from memjax import qwen3
from memjax import qwen3_head
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib

# Shorter prompts are padded to this many tokens: fewer shapes to compile.
_LEAST_TOKENS = 128


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Asks a checkpoint for verdicts.

  Attributes:
    path: Hugging Face directory of a Qwen3.
    dtype: of parameters and products.
    batch_size: prompts that are read at once.
    counts: of what was read.
  """

  path: str
  dtype: str = "bfloat16"
  batch_size: int = 4
  counts: judge.Counts = dataclasses.field(default_factory=judge.Counts)

  def __post_init__(self):
    """Refuses what is no Qwen3, or cannot spell the prompt."""
    hf.load_config(self.path)
    self._tokenizer.encode_batch([judge.PROMPT, *judge.REPLIES.values()])

  @functools.cached_property
  def name(self) -> str:
    """The directory's name and what its files hold, not where they are."""
    digest = hashlib.sha256()
    folder = pathlib.Path(self.path)
    for file in sorted(
      [
        *folder.glob("*.safetensors"),
        *(folder / x for x in ("config.json", "tokenizer.json")),
      ]
    ):
      with file.open("rb") as opened:
        digest.update(hashlib.file_digest(opened, "sha256").digest())
    return f"{folder.name}@{digest.hexdigest()[:16]}"

  @property
  def settings(self) -> Mapping[str, Any]:
    """What a verdict depends on beside model and prompt."""
    return {"method": "likelier reply", "dtype": self.dtype}

  @functools.cached_property
  def _tokenizer(self) -> tokenizer_lib.Tokenizer:
    return tokenizer_lib.load(self.path)

  @functools.cached_property
  def _model(self) -> tuple[qwen3.Config, qwen3.Params]:
    """Loaded when there is something to ask."""
    cfg, params = hf.load(self.path, dtype=self.dtype)
    kind = attention.resolve("auto", self.dtype)
    return dataclasses.replace(
      cfg, dtype=self.dtype, remat="none", attention=kind
    ), params

  def ask(
    self, prompts: Sequence[str]
  ) -> Iterator[tuple[int, judge_cache.Verdict]]:
    """Asks about all prompts, the longest first; see `judge.Backend`."""
    tokenizer = self._tokenizer
    ids = tokenizer.encode_batch(
      [tokenizer.chat(prompt, thinking=False) for prompt in prompts]
    )
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), self.batch_size):
      part = order[start : start + self.batch_size]
      logp_N2 = self._logp([ids[i] for i in part])
      for i, (right, wrong) in zip(part, logp_N2):
        self.counts.calls += 1
        self.counts.tokens_in += len(ids[i])
        yield (
          i,
          judge_cache.Verdict(
            bool(right > wrong),
            f"log p: CORRECT {right:.4f}, WRONG {wrong:.4f}",
            self.name,
            len(ids[i]),
          ),
        )

  def _logp(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Log-probability of both replies to each prompt, [N, 2] in nats."""
    cfg, params = self._model
    replies = self._tokenizer.encode_batch(list(judge.REPLIES.values()))
    # Rows that only fill the batch up repeat the last prompt.
    filled = [*prompts, *[prompts[-1]] * (self.batch_size - len(prompts))]
    longest = max(map(len, filled)) + max(map(len, replies))
    capacity = max(_LEAST_TOKENS, 1 << (longest - 1).bit_length())
    rows = token_lib.from_lists(
      [[*prompt, *reply] for prompt in filled for reply in replies], capacity
    )
    start_B = np.repeat([len(prompt) for prompt in filled], 2)
    logp_B = _reply_logp(
      params,
      cfg,
      rows,
      start_B.astype(np.int32),
      max_reply=max(map(len, replies)),
    )
    return np.asarray(logp_B, np.float64).reshape(-1, 2)[: len(prompts)]


@functools.partial(jax.jit, static_argnames=("cfg", "max_reply"))
def _reply_logp(
  params: qwen3.Params,
  cfg: qwen3.Config,
  rows: token_lib.Tokens,
  start_B: jax.Array,
  max_reply: int,
) -> jax.Array:
  """Sum of the log-probabilities of each row's tokens from start on; [B]."""
  place_BR = start_B[:, None] + jnp.arange(max_reply)[None, :]
  is_reply_BR = place_BR < rows.length[:, None]
  place_BR = jnp.minimum(place_BR, rows.capacity - 1)
  target_BR = jnp.take_along_axis(rows.ids, place_BR, axis=1)
  # The token before a place says what stands in it.
  wanted = start_B - 1, max_reply
  hidden_BRD = qwen3.forward(params, cfg, rows.ids, wanted=wanted)
  logp_BR, _ = qwen3_head.token_logp(params, cfg, hidden_BRD, target_BR)
  return jnp.where(is_reply_BR, logp_BR, 0.0).sum(1)
