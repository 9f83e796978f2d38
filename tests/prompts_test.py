import dataclasses

import pytest

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib


def test_a_template_is_literals_and_slots(tokenizer):
  template = prompts.compile_template(
    "<ask> {question} <write> {question}", tokenizer
  )
  (ask,) = tokenizer.encode("<ask>")
  (write,) = tokenizer.encode("<write>")
  assert template.pieces == ((ask,), "question", (write,), "question")
  assert template.literal_length() == 2


def test_fill_is_concatenation(tokenizer):
  template = prompts.compile_template("<ask> {question} <write>", tokenizer)
  rows = token_lib.from_lists([[7, 8], [9]], 2)
  filled = prompts.fill(template, question=rows)
  ask, write = template.pieces[0][0], template.pieces[2][0]
  assert token_lib.to_lists(filled) == [[ask, 7, 8, write], [ask, 9, write]]


def test_a_prompt_without_a_slot_is_refused(tokenizer):
  with pytest.raises(ValueError, match="no slot.*{question}"):
    prompts.compile_template("<ask>", tokenizer)


def test_braces_that_are_no_slot_are_text(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  template = prompts.compile_template(
    prompts.STYLES["text"]["answer"], tokenizer
  )
  text = "".join(
    f"<{piece}>" if isinstance(piece, str) else tokenizer.decode(piece)
    for piece in template.pieces
  )
  # Not the doubled braces that a second formatting would leave.
  assert "\\boxed{}" in text and "{{" not in text


@pytest.mark.parametrize("thinking", [False, True])
def test_the_real_chat_template(data_dir, thinking):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  template = prompts.compile_template(
    prompts.STYLES["text"]["update"], tokenizer, thinking
  )
  first, last = template.pieces[0], template.pieces[-1]
  text = tokenizer.backend.decode(first)
  assert text.startswith("<|im_start|>user\n")
  tail = tokenizer.backend.decode(last)
  assert ("<think>\n\n</think>" in tail) == (not thinking)
  # A template filled with ids reads as the chat template of the whole text.
  slots = {"question": "Who?", "memory": "None.", "chunk": "A text."}
  ids = []
  for piece in template.pieces:
    ids += tokenizer.encode(slots[piece]) if isinstance(piece, str) else piece
  whole = prompts.STYLES["text"]["update"].format(**slots)
  assert tokenizer.backend.decode(ids) == tokenizer.chat(whole, thinking)


def test_a_tokenizer_without_chat_template_takes_text_as_it_is(tokenizer):
  assert tokenizer.chat("<ask> kim?", thinking=True) == "<ask> kim?"
  bare = dataclasses.replace(tokenizer, pad_id=5)
  assert bare.pad_id == 5
