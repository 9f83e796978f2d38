"""The grammar of a tokenizer: what its tokens are, and what it must have."""

import dataclasses

import numpy as np
import pytest

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import grammar as grammar_lib
from memjax.memory import lines


def _words() -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.from_words(["ADD", "<nl>", "a", ":", "3:", "3", "1234"])


def test_classes_of_words():
  grammar = lines.make_grammar(_words(), "<nl>")
  ids = lambda bit: np.flatnonzero(grammar.classes.array & bit).tolist()
  # Two special tokens come first.
  assert ids(grammar_lib.NEWLINE) == [3]
  assert ids(grammar_lib.COLON) == [5]
  assert ids(grammar_lib.NUMBER) == [7] and grammar.value.array[7] == 3
  assert grammar.verbs == ((lines.ADD, (2,)),) and not grammar.joined


def test_classes_of_the_real_tokenizer(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  grammar = lines.make_grammar(tokenizer)
  assert (grammar.classes.array & grammar_lib.NEWLINE > 0).sum() == 2178
  assert (grammar.classes.array & grammar_lib.NUMBER > 0).sum() == 10
  colons = np.flatnonzero(grammar.classes.array & grammar_lib.COLON)
  pieces = {tokenizer.pieces[i] for i in colons}
  assert {":", " :", ":\n"} <= pieces and {x.strip() for x in pieces} == {":"}


def test_a_vocabulary_without_lines_is_refused():
  with pytest.raises(ValueError, match="no token with"):
    lines.make_grammar(tokenizer_lib.from_words(["a", "1"]))


def test_tables_compare_by_content():
  grammar = lines.make_grammar(_words(), "<nl>")
  same = lines.make_grammar(_words(), "<nl>")
  assert grammar == same and hash(grammar) == hash(same)
  other = dataclasses.replace(
    grammar, value=token_lib.Table(grammar.value.array + 1)
  )
  assert grammar != other
