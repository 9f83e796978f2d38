"""Every task: its bytes, and what readers and cheats score on it."""

import collections
import dataclasses
import json
import re

import numpy as np
import pytest
import scipy.special

from memjax.envs import example as example_lib
from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import frequency
from memjax.envs.suite import needles
from memjax.envs.suite import philox
from memjax.envs.suite import readers
from memjax.envs.suite import tasks
from memjax.envs.suite import tracking
from memjax.envs.suite import words

# "qa" needs a file: see suite_passages_test.
_TASKS = {name: task for name, task in tasks.TASKS.items() if name != "qa"}
# Single needles of all pairs of kinds are many and alike: three of them.
_SINGLE = set(needles.TASKS) - set(needles.PUBLISHED)
_SOME = ("niah_noise_uuid_word", "niah_essay_number_uuid")
_SOME += ("niah_needles_number_number",)
_NAMES = [x for x in _TASKS if x not in _SINGLE or x in _SOME]

# SHA-256 of examples 0 and 1 of 1,024 tokens, seed 0 (the first 12 digits). If
# one changes, so does the data set: say so in the changelog.
_HASHES = {
  "niah_single_1": "771e5d2c18ea",
  "niah_single_2": "60cae1eba026",
  "niah_single_3": "bdc4ea0871ba",
  "niah_multikey_1": "720802dccd08",
  "niah_multikey_2": "ea8c8db2720e",
  "niah_multikey_3": "76e82f099bf8",
  "niah_multivalue": "971e46697c25",
  "niah_multiquery": "82de49611cf2",
  "niah_noise_uuid_word": "2a8038b322d0",
  "niah_essay_number_uuid": "2363679b0d73",
  "niah_needles_number_number": "00f929e660e4",
  "vt": "00bb251111ae",
  "vt_chains": "966fec5ab4a4",
  "cwe": "5dddd335b602",
  "fwe": "c482662ee270",
  "babi_qa1": "265b00a37e81",
  "babi_qa2": "a8d7b699c115",
  "babi_qa3": "9fff6d822de6",
  "babi_qa4": "9a7a90bfe3a3",
  "babi_qa5": "abace0d6291d",
  "babi_qa6": "0738f5cfd643",
  "babi_qa7": "38e2f5a39805",
  "babi_qa8": "9a8be828a262",
  "babi_qa9": "6e8c7b629ed9",
  "babi_qa10": "f651a230327e",
  "mqar": "4eeddcd52196",
  "mqar_overwrite": "0857378a5aed",
  "hops_2": "fa19fb152d67",
  "hops_3": "caa6755aaf40",
  "hops_4": "26fe6e793afa",
  "relations": "909a20fe914e",
  "dialogues": "bc5a224e3e10",
}


def _made(name, count, length=0, seed=0, first=0):
  """Examples whose texts are made once."""
  task = _TASKS[name]
  found = [
    tasks.example(task, name, length or task.least, seed, "eval", first + i)
    for i in range(count)
  ]
  return [dataclasses.replace(x, context=x.context) for x in found]


@pytest.mark.parametrize("name", [*_HASHES])
def test_the_same_bytes_anywhere(name):
  assert example_lib.fingerprint(_made(name, 2, 1024))[:12] == _HASHES[name]


@pytest.mark.parametrize("name", _NAMES)
def test_nothing_is_drawn_from_numpy(name, monkeypatch):
  """Whose numbers may be others in another version."""

  def refuse(*args, **kwargs):
    raise AssertionError("numpy.random was asked")

  for method in np.random.__all__:
    monkeypatch.setattr(np.random, method, refuse)
  (example,) = _made(name, 1)
  assert example.context


@pytest.mark.parametrize("name", _NAMES)
def test_an_example_is_a_function_of_its_path(name):
  length = _TASKS[name].least
  make = lambda *path: tasks.example(_TASKS[name], name, *path)
  one = make(length, 0, "eval", 3)
  assert one == make(length, 0, "eval", 3)
  # Also where the text is made twice, or before anything else is asked for.
  assert one.context == one.context
  for path in (
    (length, 0, "eval", 4),
    (length, 0, "train", 3),
    (length, 1, "eval", 3),
    (2 * length, 0, "eval", 3),
  ):
    other = make(*path)
    assert (other.question, other.context) != (one.question, one.context)
  assert one.meta["task"] == name and one.meta["length"] == length
  for entry in one.meta["oracle"]:
    assert entry.endswith("\n") and entry.count("\n") == 1


def _scores(examples, answer):
  return np.array([readers.score(x, answer(x)) for x in examples])


def _check(name, count, slack):
  """Readers and cheats against chance; cheats also against blind picking.

  A gap is at most 2 points, or `slack` standard errors if that is more.
  """
  examples = _made(name, count)
  assert _scores(examples, readers.honest).mean() >= 0.99
  read = lambda x: readers.honest(x, readers.full_text(x))
  assert _scores(examples[:50], read).mean() >= 0.99
  chance = np.array([x.meta["chance"] for x in examples])
  error = lambda x: max(0.02, slack * x.std() / len(x) ** 0.5)
  gap = _scores(examples, readers.nothing) - chance
  assert abs(gap.mean()) <= error(gap)
  level = chance
  rules = _TASKS[name].cheats
  if cheats.LEVEL in rules:
    blind = _scores(examples, lambda x: readers.cheat(x, cheats.LEVEL))
    level = blind if blind.mean() > chance.mean() else chance
  for rule in rules:
    gap = _scores(examples, lambda x, r=rule: readers.cheat(x, r)) - level
    assert gap.mean() <= error(gap), (rule, gap.mean())


@pytest.mark.parametrize("name", _NAMES)
def test_only_who_reads_is_right(name):
  """n = 240, 3.5 standard errors (11 points at a half); see the slow test."""
  _check(name, 240, 3.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_only_who_reads_is_right_to_two_points(name):
  """n = 6,000: three standard errors are less than 2 points."""
  _check(name, 6000, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [x for x in _NAMES if x.startswith(("babi", "rel"))]
)
def test_questions_do_not_give_answers_away(name):
  """The most frequent answer to a question in one half, tried on the other."""
  examples = _made(name, 4000, first=10_000)
  seen = collections.defaultdict(collections.Counter)
  for x in examples[:2000]:
    seen[x.question][x.answers[0]] += 1
  answer = lambda x: (seen[x.question].most_common(1) or [("", 0)])[0][0]
  gap = _scores(examples[2000:], answer).mean()
  assert gap <= examples[0].meta["chance"] + 0.03


def test_published_settings():
  """Numbers of keys, values and queries, and what the haystack is."""
  for name, keys, values, asked in (
    ("niah_single_2", 1, 1, 1),
    ("niah_multikey_1", 4, 4, 1),
    ("niah_multivalue", 1, 4, 4),
    ("niah_multiquery", 4, 4, 4),
  ):
    for example in _made(name, 5, 1024):
      found = re.findall(r"numbers for (\S+) is: (\d{7})\.", example.context)
      assert len({key for key, _ in found}) == keys
      assert len({value for _, value in found}) == values == len(found)
      assert len(example.answers) == asked
  for name in ("niah_multikey_2", "niah_multikey_3"):
    (example,) = _made(name, 1, 4096)
    lines = example.context.splitlines()
    assert all(x.startswith("One of the special magic ") for x in lines)
    assert len({x.split(" ")[7] for x in lines}) == len(lines) > 50
  for name, chains in (("vt", 1), ("vt_chains", 4)):
    (example,) = _made(name, 1, 1024)
    assert len(re.findall(r"VAR \w+ = \d{5}\.", example.context)) == chains
    assert example.context.count("= VAR") == chains * tracking.HOPS
    assert len(example.answers) == 5


@pytest.mark.parametrize("length, often, seldom", [(2048, 6, 1), (8192, 30, 3)])
def test_common_words(length, often, seldom):
  (example,) = _made("cwe", 1, length)
  found = collections.Counter(re.findall(r"\. (\S+)", example.context))
  common = {word for word, count in found.items() if count == often}
  assert common == set(example.answers) and len(common) == 10
  assert set(found.values()) == {often, seldom}
  places = [int(x) for x in re.findall(r"(\d+)\.", example.context)]
  assert places == list(range(1, sum(found.values()) + 1))


def test_frequent_words():
  """Counts of the zeta distribution with exponent 2, as published."""
  ranks = np.arange(1, 200)
  for total in (10, 999, 54_321, 2_000_000):
    expected = (
      total / scipy.special.zeta(2) / ranks.astype(float) ** 2
    ).astype(int)
    assert (frequency.counts(total, ranks) == expected).all()
  (example,) = _made("fwe", 1, 8192)
  found = collections.Counter(example.context.split()[1:])
  ranked = found.most_common()
  assert ranked[0][0] == "..."
  assert tuple(word for word, _ in ranked[1:4]) == example.answers
  total = 1 + int(ranked[0][1] * scipy.special.zeta(2))
  expected = frequency.counts(total, np.arange(1, len(ranked) + 1))
  assert np.abs(np.array([x for _, x in ranked]) - expected).max() <= 1


def test_recall_overwrites():
  for example in _made("mqar_overwrite", 20, 1024):
    pairs = re.findall(r"(\S+-\S+) is (\w+)\.", example.context)
    asked = re.findall(r"[a-z]+-[a-z]+", example.question)
    for key, answer in zip(asked, example.answers, strict=True):
      values = [value for k, value in pairs if k == key]
      assert 2 <= len(values) <= 4 and len(set(values)) == len(values)
      assert values[-1] == answer
    held = collections.Counter(key for key, _ in pairs)
    assert max(held.values()) <= 4 and len(held) < len(pairs)
  (example,) = _made("mqar", 1, 4096)
  keys = re.findall(r"(\S+-\S+) is", example.context)
  assert len(set(keys)) == len(keys) > 400


def test_graphs_are_one_to_one_and_ways_are_long():
  (example,) = _made("hops_4", 1, 8192)
  documents = example.context.split("\n\n")
  titles = [x.split("\n")[0].split(": ")[1] for x in documents]
  assert len(set(titles)) == len(titles)
  assert len(example.meta["oracle"]) == 4
  for kind in ("works for", "has its seat in", "lies on", "flows into"):
    facts = [x for x in documents if f" {kind} " in x]
    assert len(facts) > 10
  # No document has both the beginning and the end.
  start = re.search(r"engineer (\w+ \w+)", example.meta["oracle"][0])[1]
  assert not any(start in x and example.answers[0] in x for x in documents)
  counts = {example.context.count(x) for x in titles if "club" not in x}
  assert counts <= {2, 3}


@pytest.mark.parametrize("name", ["niah_essay_word_word", "hops_2", "babi_qa1"])
def test_what_answers_stands_anywhere(name):
  """The place of the needed sentence is even over the text."""
  places = []
  for x in _made(name, 300):
    line = x.meta["oracle"][-1].strip()
    places.append(x.context.index(line) / len(x.context))
  if name != "babi_qa1":  # whose last sentence is the last one of the story
    share = np.histogram(places, 4, (0, 1))[0] / len(places)
    assert np.abs(share - 0.25).max() < 0.1
  assert min(places) < 0.2 and max(places) > 0.8


def test_chance_is_a_probability_and_meta_is_plain():
  for name in _NAMES:
    (example,) = _made(name, 1)
    assert 0 <= example.meta["chance"] <= 0.5
    plain = {k: v for k, v in example.meta.items() if k != "world"}
    assert json.loads(json.dumps(plain)) is not None


def test_kinds_are_checked():
  with pytest.raises(ValueError, match="'colour': choose one of number, word"):
    words.draw(philox.Stream(0), "colour", 1)
  assert set(draft.HAYSTACKS) == {"noise", "essay", "needles"}
