"""What all rows of the benchmark compute: model, prompts, texts, numbers.

The tiny Qwen3 has random weights, written by transformers; every word is one
token, and no token ends a response, so that all rows read and write the same
number of tokens whatever they sample.
"""

import dataclasses
import pathlib
import zlib

import numpy as np

from memjax import prompts
from memjax import tokenizer as tokenizer_lib

MODEL = {
  "vocab_size": 512,
  "hidden_size": 256,
  "num_hidden_layers": 6,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 64,
  "intermediate_size": 768,
  "tie_word_embeddings": True,
  "max_position_embeddings": 4096,
  # Larger than usual, or a tied model repeats the token that it has read.
  "initializer_range": 0.06,
}
GROUP = 16
CHUNKS, CHUNK, MEMORY, ANSWER = 6, 512, 64, 64
PROMPT, NEW = 256, 128  # tokens of decoding and update alone
UPDATE_ROWS = 32
LEARNING_RATE, KL, CLIP, GRAD_CLIP = 5e-6, 1e-3, 0.2, 1.0
_WORDS = [f"w{i}" for i in range(512 - 2 - len(prompts.STYLE_WORDS))]


def make_model(folder: pathlib.Path) -> None:
  """Writes the model and its tokenizer as a Hugging Face directory."""
  import torch  # the rows of jax never load it
  import transformers

  torch.manual_seed(0)
  cfg = transformers.Qwen3Config(**MODEL, rope_theta=1e6)
  transformers.Qwen3ForCausalLM(cfg).save_pretrained(folder)
  tokenizer_lib.from_words((*prompts.STYLE_WORDS, *_WORDS)).save(folder)


@dataclasses.dataclass(frozen=True)
class Rows:
  """UPDATE_ROWS rows of the loss; groups of 16 have the same prompt.

  Attributes:
    prompt: [R, PROMPT].
    response: [R, NEW].
    adv: [R].
  """

  prompt: np.ndarray
  response: np.ndarray
  adv: np.ndarray


def rows() -> Rows:
  """The same in every process."""
  rng = np.random.default_rng(0)
  prompt = rng.integers(0, 512, (UPDATE_ROWS // GROUP, PROMPT))
  return Rows(
    prompt.repeat(GROUP, 0).astype(np.int32),
    rng.integers(0, 512, (UPDATE_ROWS, NEW)).astype(np.int32),
    rng.normal(size=UPDATE_ROWS).astype(np.float32),
  )


def text(seed: int) -> tuple[str, str]:
  """A question, and a text of CHUNKS chunks."""
  rng = np.random.default_rng([1, seed])
  pick = lambda n: " ".join(rng.choice(_WORDS, n))
  return pick(4), pick(CHUNKS * CHUNK)


def reward(answer: str) -> float:
  """0 or 1, as good as by chance: what is learnt is of no interest here."""
  return float(zlib.crc32(answer.encode()) % 2)
