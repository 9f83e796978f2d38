import dataclasses

import numpy as np
import pytest

from memjax import prompts
from memjax import tokens as token_lib
from memjax.memory import recurrent

# Ids of a made-up vocabulary: end, <think>, </think>; words are 10 and more.
_END, _OPEN, _CLOSE = 1, 2, 3


@pytest.fixture(scope="module")
def op():
  return recurrent.Recurrent(
    update=prompts.Template(((50,), "question", (51,), "memory", "chunk")),
    answer=prompts.Template(((60,), "question", "memory")),
    empty_memory=(90, 91),
    stop_ids=(_END,),
    think_ids=(_OPEN, _CLOSE),
    capacity=3,
  )


def _rows(*rows, capacity=6):
  return token_lib.from_lists(rows, capacity)


@pytest.mark.parametrize(
  "response, memory, malformed",
  [
    ([10, 11, _END], [10, 11], False),
    ([10, 11], [10, 11], False),  # cut at the limit: no end is invented
    ([_END], [], False),  # an empty memory is legal
    ([], [], False),
    ([10, 11, 12, 13, _END], [10, 11, 12], False),  # cut to the capacity
    ([_OPEN, 20, _CLOSE, 10, _END], [10], False),  # reasoning is dropped
    ([20, _CLOSE, 10], [10], False),  # the prompt opened the block
    ([_OPEN, 20, 21, 22], [77], True),  # left open: the old memory stays
    ([10, _OPEN, 20], [77], True),
    ([_OPEN, _CLOSE, _OPEN, 20], [77], True),
    ([_OPEN, 20, _CLOSE, _END], [], False),
  ],
)
def test_rules_of_parsing(op, response, memory, malformed):
  old = token_lib.from_lists([[77]], op.capacity)
  new, bad = recurrent.parse_update(op, old, _rows(response))
  assert token_lib.to_lists(new) == [memory]
  assert bool(bad[0]) == malformed
  assert new.capacity == op.capacity


def test_rules_hold_row_by_row(op):
  old = token_lib.from_lists([[77], [78]], op.capacity)
  new, bad = recurrent.parse_update(op, old, _rows([_OPEN, 9], [10, _END]))
  assert token_lib.to_lists(new) == [[77], [10]]
  np.testing.assert_array_equal(bad, [True, False])


def test_an_end_inside_a_response_is_text(op):
  op = dataclasses.replace(op, stop_ids=(_END, 5))
  body, _ = recurrent.strip_response(op, _rows([10, _END, 11, 5]))
  assert token_lib.to_lists(body) == [[10, _END, 11]]


def test_without_reasoning_tokens_nothing_is_malformed(op):
  op = dataclasses.replace(op, think_ids=None)
  body, bad = recurrent.strip_response(op, _rows([_OPEN, 9, _END]))
  assert token_lib.to_lists(body) == [[_OPEN, 9]]
  assert not bad.any()


def test_prompts(op):
  memory = token_lib.from_lists([[10, 11], []], op.capacity)
  question = token_lib.from_lists([[30], [31]], 2)
  chunk = token_lib.from_lists([[40, 41], [42]], 2)
  update = recurrent.build_update(op, question, memory, chunk)
  assert token_lib.to_lists(update) == [
    [50, 30, 51, 10, 11, 40, 41],
    [50, 31, 51, 90, 91, 42],  # words stand for the empty memory
  ]
  answer = recurrent.build_answer(op, question, memory)
  assert token_lib.to_lists(answer) == [[60, 30, 10, 11], [60, 31, 90, 91]]


def test_words_for_nothing_may_be_longer_than_a_memory(op):
  op = dataclasses.replace(op, empty_memory=(90, 91, 92, 93, 94))
  answer = recurrent.build_answer(
    op, _rows([30], capacity=1), recurrent.init_memory(op, 1)
  )
  assert token_lib.to_lists(answer) == [[60, 30, 90, 91, 92, 93, 94]]


def test_an_unknown_style_is_refused(tokenizer):
  with pytest.raises(ValueError, match="'haiku'.*text, .*words"):
    recurrent.make_recurrent(tokenizer, "haiku", 3)
