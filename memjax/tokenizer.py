"""Text to ids and back, through a Hugging Face tokenizer directory.

Only the host uses it: when data are loaded, when templates are compiled, and
when an answer is handed to a verifier or a person.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import tokenizers
import transformers

END = "<end>"
PAD = "<pad>"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
  """A transformers tokenizer, reduced to what memjax asks of it.

  Attributes:
    backend: the transformers tokenizer.
    pad_id: fills the space after a row's end.
    stop_ids: a response ends with the first of these.
    think_ids: (opening, closing) id of a reasoning block, or None.
  """

  backend: Any
  pad_id: int
  stop_ids: tuple[int, ...]
  think_ids: tuple[int, int] | None

  @property
  def vocab_size(self) -> int:
    """One more than the largest id."""
    return len(self.backend)

  def encode(self, text: str) -> list[int]:
    """Ids of a text; no special tokens are added."""
    return self.encode_batch([text])[0]

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text; no special tokens are added.

    Raises:
      ValueError: a word-level vocabulary lacks a word.
    """
    if not texts:
      return []
    try:
      return self.backend(
        list(texts), add_special_tokens=False, return_attention_mask=False
      )["input_ids"]
    except Exception as error:
      vocabulary = self.backend.get_vocab()
      for text in texts:
        for word in text.split():
          if "UNK" in str(error) and word not in vocabulary:
            raise ValueError(
              f"the word {word!r} is not in the tokenizer's vocabulary, and it "
              "has no token for unknown words: use a tokenizer for free text"
            ) from error
      raise

  def decode(self, ids: Sequence[int]) -> str:
    """Text of the ids, special tokens left out."""
    return self.backend.decode(list(ids), skip_special_tokens=True)

  @functools.cached_property
  def pieces(self) -> list[str]:
    """The text of every id, as it stands inside a longer text.

    Where a tokenizer parts tokens by white space, each piece begins with it.
    """
    size = self.vocab_size
    alone = self.backend.batch_decode([[i] for i in range(size)])
    gap = " " if self.parts_words else ""
    return [gap + text for text in alone]

  @functools.cached_property
  def parts_words(self) -> bool:
    """True of a word-level tokenizer: decoding puts a space between tokens."""
    special = set(self.backend.all_special_ids)
    i = next(i for i in range(self.vocab_size) if i not in special)
    return " " in self.backend.decode([i, i]).strip()

  def chat(self, text: str, thinking: bool) -> str:
    """The text as one user message, up to where the assistant begins.

    A tokenizer without a chat template gives the text back as it is.
    """
    if not self.backend.chat_template:
      return text
    return self.backend.apply_chat_template(
      [{"role": "user", "content": text}],
      tokenize=False,
      add_generation_prompt=True,
      enable_thinking=thinking,
    )

  def save(self, path: str | pathlib.Path) -> None:
    """Writes the tokenizer's files into a directory."""
    self.backend.save_pretrained(str(path))


def load(path: str | pathlib.Path) -> Tokenizer:
  """Reads a tokenizer directory.

  Raises:
    ValueError: if there is no tokenizer, or no token that ends a response.
  """
  path = pathlib.Path(path)
  if not (path / "tokenizer.json").exists():
    raise ValueError(
      f"{path} has no tokenizer.json: name a Hugging Face model or tokenizer "
      "directory in config.model.path or config.model.tokenizer"
    )
  return _wrap(transformers.AutoTokenizer.from_pretrained(str(path)), path)


def _wrap(backend: Any, source: Any) -> Tokenizer:
  if backend.eos_token_id is None:
    raise ValueError(f"the tokenizer of {source} names no eos_token")
  vocab = backend.get_vocab()
  pad = backend.pad_token_id
  stops = [backend.eos_token_id]
  # Qwen3 ends a turn with <|im_end|> and a document with <|endoftext|>.
  stops += [vocab[x] for x in ("<|im_end|>", "<|endoftext|>") if x in vocab]
  think = (vocab.get("<think>"), vocab.get("</think>"))
  return Tokenizer(
    backend,
    backend.eos_token_id if pad is None else pad,
    tuple(sorted(set(stops))),
    None if None in think else think,
  )


def from_words(words: Sequence[str]) -> Tokenizer:
  """A word-level tokenizer: one id per word, words parted by white space.

  An unknown word is an error, not an <unk>.
  """
  vocab = {PAD: 0, END: 1}
  for word in words:
    if word in vocab:
      raise ValueError(f"the word {word!r} stands twice in the vocabulary")
    vocab[word] = len(vocab)
  model = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(vocab, unk_token="<no such word>")
  )
  model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  backend = transformers.PreTrainedTokenizerFast(
    tokenizer_object=model, pad_token=PAD, eos_token=END
  )
  return _wrap(backend, "these words")


def train_bpe(
  texts: Sequence[str], vocab_size: int, special: Sequence[str] = ()
) -> Tokenizer:
  """A byte-level pair encoding of given texts, as large models use, but small.

  Args:
    texts: to count pairs in.
    vocab_size: of the result.
    special: words that stay one token wherever they stand.
  """
  model = tokenizers.Tokenizer(tokenizers.models.BPE())
  model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  model.decoder = tokenizers.decoders.ByteLevel()
  model.train_from_iterator(
    texts,
    tokenizers.trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=[PAD, END],
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
      show_progress=False,
    ),
  )
  model.add_tokens(list(special))
  backend = transformers.PreTrainedTokenizerFast(
    tokenizer_object=model, pad_token=PAD, eos_token=END
  )
  return _wrap(backend, "these texts")
