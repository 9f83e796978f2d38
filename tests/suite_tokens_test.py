"""Committed counts against the real tokenizer; and what needs none."""

import re

import numpy as np
import pytest
import transformers

from memjax.envs import dialogues
from memjax.envs import relations
from memjax.envs.suite import babi_text
from memjax.envs.suite import draft
from memjax.envs.suite import filler
from memjax.envs.suite import philox
from memjax.envs.suite import tasks
from memjax.envs.suite import uuids
from memjax.envs.suite import words
from memjax.envs.suite import worlds

# "qa" counts with the tokenizer itself: see suite_passages_test.
_TASKS = {name: task for name, task in tasks.TASKS.items() if name != "qa"}


@pytest.fixture(scope="module")
def count(data_dir):
  """Tokens of a text, by the real tokenizer."""
  real = transformers.AutoTokenizer.from_pretrained(
    data_dir / "qwen3_tokenizer"
  )
  return lambda text: len(real.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("name", _TASKS)
def test_texts_have_the_tokens_that_they_say(count, name):
  """To the token; the limit is met to within a document or a few sentences."""
  for length, number in ((1024, 3), (5000, 1)):
    for i in range(number):
      stream = philox.Stream(4, name, length, "eval", i)
      text, tokens = _TASKS[name].draw(stream, length).render()
      parts = [text] if isinstance(text, str) else text
      assert sum(map(count, parts)) == tokens
      room = 110 if name.startswith("hops") else 100
      assert length - room * len(parts) < tokens <= length


def test_roots_and_uuids(count):
  assert len(set(words.ROOTS)) == 1024
  for form, write in (
    ("lower", " {}".format),
    ("joined", "-{}".format),
    ("title", lambda x: f" {x.title()}"),
    ("upper", lambda x: f" {x.upper()}"),
  ):
    found = "".join(str(count(write(root))) for root in words.ROOTS)
    assert found == "".join(words.ROOT_TOKENS[form])
  texts, tokens = uuids.draw(philox.Stream("uuid"), 500)
  assert [count(f" {x}") for x in texts] == tokens.tolist()


def test_all_other_words_cost_one(count):
  """Also at the beginning of a line, where sentences begin there."""
  sentences = filler.NOISE.split(". ")
  for part in filler.PARTS:
    sentences += part.split("|")
  used = set(re.findall(r"[A-Za-z]+", " ".join(sentences)))
  used |= {*babi_text.PEOPLE, *babi_text.PLACES, *babi_text.THINGS}
  assert {x for x in used if count(f" {x}") != 1} == set()
  first = {x.split()[0].strip(",") for x in filler.PARTS[0].split("|")}
  first |= {*babi_text.PEOPLE, "The", "One", "VAR", "Document", "List", "Text"}
  assert {x for x in first if count(x) != 1} == set()


def test_worlds(count):
  """All words of both worlds, behind a space."""
  for i in range(40):
    world = relations.Relations().example("eval", i)
    (talk,) = dialogues.Dialogues().examples("eval", i, 1)
    for text in (world.context, *talk.context):
      assert worlds.tokens(text) == count(f" {text}")


def test_uuids_are_of_version_4_and_all_different():
  texts, tokens = uuids.draw(philox.Stream("v4"), 3000)
  form = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-")
  assert all(form.match(x) and len(x) == 36 for x in texts)
  assert not any(re.search("[a-f]{4}", x) for x in texts)
  assert len(set(texts)) == 3000
  # Without a tokenizer: digits and marks alone cost one each.
  for text, tokens_of in list(zip(texts, tokens))[:200]:
    assert len(re.findall("[0-9]", text)) < tokens_of <= 37
  text = "7859848d-8104-4536-8f3b-585c8e10403c"
  row = np.zeros((1, 40), np.uint8)
  row[0, :37] = np.frombuffer(f" {text}".encode(), np.uint8)
  assert uuids._tokens(row).tolist() == [37]


def test_plain():
  assert words.plain("VAR KABAL = 12.") == 3 + 1 + 2 + 1
  assert words.plain("In most towns,") == 4
  assert words.digits(101)[[0, 8, 9, 98, 99, 100]].tolist() == [
    1,
    1,
    2,
    2,
    3,
    3,
  ]


def test_filler_fills_and_says_nothing():
  roots = set(words.ROOTS)
  for budget in (0, 5, 40, 1000, 30_000):
    texts, tokens = filler.essay(philox.Stream("f", budget), budget)
    assert sum(map(words.plain, texts)) == tokens <= budget
    assert budget - tokens < 40
    lines, tokens = filler.noise(budget)
    assert sum(map(words.plain, lines)) == tokens <= budget
    for text in (*texts, *lines):
      assert re.fullmatch(r"[A-Z][A-Za-z ,.]+\.", text)
      assert not set(re.findall(r"[a-z]+", text.lower())) & roots
  names = {*relations.NAMES, *relations.CITIES, *babi_text.THINGS}
  said = " ".join((filler.NOISE, *filler.PARTS)).lower()
  assert not set(re.findall(r"\w+", said)) & {x.lower() for x in names}
  # A part of a sentence is as often drawn as another.
  texts, _ = filler.sentences(philox.Stream("even"), 32_000)
  for part in filler.PARTS:
    shares = [sum(x in text for text in texts) for x in part.split("|")[:4]]
    assert 850 < min(shares) and max(shares) < 1150


def test_too_short_a_text_is_refused():
  with pytest.raises(ValueError, match="length=30: the facts alone have 40"):
    draft.hide(philox.Stream(0), ["Zed."], 40, 30, "noise")
  for name, length in (("cwe", 300), ("hops_2", 100), ("mqar", 20)):
    with pytest.raises(ValueError, match=f"length={length}"):
      _TASKS[name].draw(philox.Stream(0), length).render()
