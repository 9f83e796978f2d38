"""The RMM agent: compiled rollouts equal a plain account of what was written.

The model is random but leans towards the grammar: what follows a word depends
on the word's class first, so every kind of line and of slip turns up.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import lines_host
import memory_r1_test as r1
import numpy as np
import pytest

from memjax import agents
from memjax import memory_rmm
from memjax import qwen3
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax.envs import demos
from memjax.envs import homes
from memjax.memory import answer as answer_lib
from memjax.memory import lines
from memjax.memory import retrieve
from memjax.memory import topics as topics_lib

# Turns of a session, tokens of each, topics, tokens of a summary, of turns.
_P, _L, _F, _M, _V = 3, 3, 2, 2, 6
# Those of the other agent that changes a bank; so are contexts and questions.
_ENTRIES, _CANDIDATES, _RETRIEVED = r1._ENTRIES, r1._CANDIDATES, r1._RETRIEVED
_QUESTIONS, _SAMPLES = r1._QUESTIONS, r1._SAMPLES
_B = 2 * _SAMPLES

_TOKENIZER = tokenizer_lib.from_words(demos.words())
_MODEL = dataclasses.replace(r1._MODEL, vocab_size=_TOKENIZER.vocab_size)
_END, _KEY = r1._END, r1._KEY
_same, _row = r1._same, r1._row


def _follows(facts, cities):
  """What a model likes to write: word -> words that may follow, and weights."""
  numbers = ["1", "2", "3"]
  return [
    (["<topics>"], {"NOTE": 12, "NONE": 1}),
    (["<merge>"], {"ADD": 60, "MERGE": 1}),
    ([f"{name}?" for name in homes.NAMES], {"USE": 1}),
    (["NOTE", "MERGE", "USE"], {"1": 20, "2": 4, "3": 1}),
    (numbers, {"2": 1, ":": 20, facts[0]: 1, facts[4]: 3, "<nl>": 1}),
    ([":"], dict.fromkeys(facts, 1)),
    (facts, {facts[1]: 1, facts[5]: 1, "<nl>": 9}),
    (["NONE", "ADD"], {"<nl>": 1, _END: 1}),
    (["<nl>"], {"NOTE": 4, "MERGE": 1, cities[0]: 1, _END: 4}),
    (cities, {_END: 1}),
  ]


@functools.cache
def _policy():
  """Random weights with a leaning towards `_follows`."""
  names, cities = ("ada", "bob", "cat"), homes.CITIES[:3]
  facts = [f"{name}={city}" for name in names for city in cities] + ["ada!"]
  shapes = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), _MODEL))
  rng = np.random.default_rng(0)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      np.ones(x.shape, np.float32)
      if "scale" in str(path[-1]) or "final_norm" in str(path[-1])
      else rng.normal(0, 0.2, x.shape).astype(np.float32)
    ),
    shapes,
  )
  ids = _TOKENIZER.backend.convert_tokens_to_ids
  for kind, (words, after) in enumerate(_follows(facts, cities)):
    params["embed"][ids(words), kind] = 8.0
    # About 8 nats more than others; a nat is worth 0.21 here.
    for word, weight in after.items():
      params["head"][kind, ids(word)] += 1.8 + 0.21 * np.log(weight)
  return agents.Policies(jax.tree.map(jnp.asarray, params))


def _agent(**changes) -> memory_rmm.MemoryRMMAgent:
  agent = memory_rmm.MemoryRMMAgent(
    model=_MODEL,
    topics=topics_lib.make(_TOKENIZER, "words", _CANDIDATES, _P, _L, _F, _M),
    respond=answer_lib.make(_TOKENIZER, "words", _RETRIEVED),
    retriever=dataclasses.replace(
      r1._agent().retriever, lexicon=retrieve.make_lexicon(_TOKENIZER)
    ),
    entries=_ENTRIES,
    text_tokens=_M,
    turn_tokens=_V,
    full="refuse",
    chunk_tokens=12,
    question_tokens=1,
    stamp_tokens=1,
    extract_tokens=12,
    update_tokens=6,
    answer_tokens=4,
    stamp_text="{stamp}",
    stop_ids=_TOKENIZER.stop_ids,
    think_ids=None,
    trained=("extract", "update", "answer"),
    questions=_QUESTIONS,
  )
  return dataclasses.replace(agent, **changes)


# Speakers of both contexts, and what is unlike `_agent`. The first three share
# a compiled program; "one" and "mixed" leave places of speakers empty.
_NAMED = (("ada?", "bob?"), ("bob?", "cat?"))
_SETTINGS = {
  "both": (_NAMED, {}),
  "one": ((("ada?",), _NAMED[1]), {}),
  "mixed": (((), _NAMED[1]), {}),
  # No speakers, entries without turns, and the oldest give way.
  "bare": (((), ()), {"turn_tokens": 0, "full": "evict"}),
}

# Held beforehand in the second context: the bank is full.
_PRIOR = (*r1._PRIOR, "s8 bob!")


def _task(speakers, second=r1._SHORT, prior=_PRIOR) -> tasks.Task:
  """Two contexts, two questions about each; the second has a bank already."""
  examples = [
    dataclasses.replace(x, meta={"speakers": speakers[n // _QUESTIONS]})
    for n, x in enumerate(r1._examples(second, prior))
  ]
  task = tasks.make_task(examples, _TOKENIZER, _agent())
  return tasks.repeat(task, _SAMPLES, _QUESTIONS)


@functools.cache
def _run(setting):
  """(agent, task, episode) of a setting."""
  speakers, changes = _SETTINGS[setting]
  agent, task = _agent(**changes), _task(speakers)
  found = agents.rollout_jit(_policy(), agent, task, _KEY, 1.0)
  return agent, task, jax.device_get(found)


def _said(tokens, *index) -> str:
  """One row as text, special tokens left in."""
  row = _row(tokens, *index)
  return _TOKENIZER.backend.decode(row.ids[: int(row.length)])


def _written(segment, *index):
  """(words without the end token, truncated) of a response."""
  words = _said(segment.response.tokens, *index).split()
  ended = bool(words) and words[-1] == _END
  assert _END not in words[:-1]
  truncated = bool(segment.response.truncated[index])
  return words[: len(words) - ended], truncated


class _Account(r1._Account):
  """The same for this agent's lines, with turns (lines of words) by id."""

  def __init__(self, agent):
    super().__init__(agent.full)
    self.parser = lines_host.make_parser(_TOKENIZER, "<nl>")
    self.turns, self.room = {}, agent.turn_tokens
    self.merged = self.dropped = 0

  def add(self, text, time, turns=()):
    before = self.next_id
    super().add(text, time)
    if self.next_id > before:
      self.turns[before] = self.kept(turns)

  def kept(self, turns):
    """The latest lines that fit; of a single one its end."""
    turns = list(turns)
    while len(turns) > 1 and sum(map(len, turns)) > self.room:
      self.dropped += 1
      del turns[0]
    cut = [line[max(len(line) - self.room, 0) :] for line in turns]
    return [line for line in cut if line]

  def relevant(self, k, speakers):
    """Ids for an answer: each speaker has a share of the places."""
    if not speakers:
      return self.latest(k)
    found = []
    for s, speaker in enumerate(speakers):
      name = demos.words_of(speaker)
      about = [
        i
        for i in self.latest(_ENTRIES)
        if name <= demos.words_of(self.entries[i][0]) and i not in found
      ]
      found += about[: k // 2 + (s < k % 2)]  # a batch has room for two
    return found

  def told(self, ids):
    """Entries as an answer sees them, with their turns."""
    rows = []
    for n, i in enumerate(ids, 1):
      rows += [str(n), self.entries[i][0], "<nl>", *sum(self.turns[i], [])]
    return " ".join(rows) or "<none>"

  def notes(self, words, cut, turns):
    """([(summary, cited turns)] by place, malformed) of an extraction."""
    pieces = [" " + word for word in words]
    found = self.parser.notes(pieces, cut, len(turns))
    notes = []
    for line, sources in found[:_F]:
      good = line.error == lines.OK and line.verb == lines.NOTE
      text = words[line.start : line.stop][:_M] if good else []
      notes.append((text, [turns[n - 1] + ["<nl>"] for n in sorted(sources)]))
    wrong = not found or len(found) > _F or any(x.error for x, _ in found)
    notes += [([], [])] * (_F - len(notes))
    return notes, wrong, {("note", line.error) for line, _ in found}

  def act(self, words, cut, listed, summary, said, stamp, time):
    """(malformed, verb, error) of one topic's action, which is done."""
    pieces = [" " + word for word in words]
    found = self.parser.merge(pieces, cut, len(listed))
    if not found:
      return True, None, None
    line = found[0]
    if line.error == lines.OK and line.verb == lines.ADD:
      self.add(" ".join([stamp, *summary]), time, said)
    elif line.error == lines.OK:
      i = listed[line.number - 1]
      created, before = self.entries[i][1], self.turns[i]
      text = " ".join([stamp, *words[line.start : line.stop][:_M]])
      self.merged += bool(before)
      self.entries[i] = (text, created, time)
      self.turns[i] = self.kept(before + said)
    return bool(line.error) or len(found) > 1, line.verb, line.error

  def held(self):
    """As `_held` has it."""
    turns = {i: " ".join(sum(self.turns[i], [])) for i in self.entries}
    return {i: (*entry, turns[i]) for i, entry in self.entries.items()}


def _held(state):
  """{id: (text, created, updated, turns)} of one row's bank."""
  entry = lambda e: (
    _said(state.text, e),
    *(int(x[e]) for x in (state.created, state.updated)),
    _said(state.turns, e),
  )
  return {int(state.id[e]): entry(e) for e in np.flatnonzero(state.valid)}


def _session(text):
  """The turns of a chunk: words, without the line's end."""
  turns = [turn.split() for turn in text.split("<nl>")]
  return [turn[:_L] for turn in turns if turn][:_P]


def _reflect(account, task, episode, c, b, speakers, S):
  """One session of one trajectory, checked against the account."""
  extract, update = (episode.turns[op] for op in ("extract", "update"))
  turns, seen = _session(_said(task.chunks, c, b)), set()
  stamp = f"s{(time := int(task.session[c, b])) + 1}"
  shown = "".join(f"{n} {' '.join(x)} <nl> " for n, x in enumerate(turns, 1))
  for s in range(S):
    asked = (speakers or ("<all>",))[s : s + 1] if turns else ()
    row, topics = s * _B + b, [([], [])] * _F
    assert extract.active[c, row] == bool(asked)
    wrong = False
    if asked:
      expected = f"<turns> {stamp} {shown}<of> {asked[0]} <topics>"
      assert _said(extract.prompt, c, row) == expected
      topics, wrong, kinds = account.notes(*_written(extract, c, row), turns)
      seen |= kinds
    assert extract.malformed[c, row] == wrong
    for f, (summary, said) in enumerate(topics):
      row, wrong = (s * _F + f) * _B + b, False
      assert update.active[c, row] == bool(summary)
      if summary:
        listed = account.latest(_CANDIDATES)
        told = f"<new> {' '.join(summary)} <merge>"
        expected = f"<memory> {account.shown(listed)} {told}"
        assert _said(update.prompt, c, row) == expected
        words, cut = _written(update, c, row)
        wrong, *kind = account.act(
          words, cut, listed, summary, said, stamp, time
        )
        seen.add(tuple(kind))
        assert update.counts["size"][c, row] == len(account.entries)
      assert update.malformed[c, row] == wrong
  state = _row(episode.states, c, b)
  assert _held(state) == account.held()
  assert int(state.next_id) == account.next_id
  return seen


def _check_answers(account, task, episode, b, speakers):
  """Both questions of a trajectory, checked against the account."""
  ids = account.relevant(_RETRIEVED, speakers)
  for n in range(b * _QUESTIONS, (b + 1) * _QUESTIONS):
    asked, answer = _said(task.query.question, n), episode.answer
    shown = account.told(ids)
    assert _said(answer.prompt, n) == f"<memory> {shown} <answer> {asked}"
    words, cut = _written(answer, n)
    pieces = [" " + word for word in words]
    used, where, wrong = account.parser.use(pieces, cut, len(ids))
    assert _said(answer.result, n).split() == words[where]
    assert answer.malformed[n] == (wrong or not words[where])
    places = range(_RETRIEVED)
    assert answer.listed[n].tolist() == [*ids, -1, -1, -1][:_RETRIEVED]
    assert answer.used[n].tolist() == [k + 1 in used for k in places]


@pytest.mark.parametrize("setting", _SETTINGS)
def test_the_bank_is_what_the_responses_say(setting):
  agent, task, episode = _run(setting)
  accounts, seen = [], set()
  S = max(task.query.speakers.length.shape[1], 1)
  for b in range(_B):
    account = _Account(agent)
    speakers = _SETTINGS[setting][0][b // _SAMPLES]
    for text in _PRIOR if b >= _SAMPLES else ():
      account.add(text, 0)
    for c in range(len(r1._LONG)):
      seen |= _reflect(account, task, episode, c, b, speakers, S)
    _check_answers(account, task, episode, b, speakers)
    accounts.append(account)
  # Otherwise the test says little.
  total = lambda name: sum(getattr(x, name) for x in accounts)
  kinds = {(lines.ADD, lines.OK), (lines.MERGE, lines.OK), ("note", lines.OK)}
  assert kinds < seen and len(seen) > 6, seen
  assert not agent.turn_tokens or total("merged") * total("dropped") > 0
  assert (total("refused") > 0) == (agent.full == "refuse")
  assert (total("evicted") > 0) == (agent.full == "evict")
  assert episode.turns["update"].counts["full"].sum() == total("refused")


def test_a_rollout_equals_the_host_loop():
  agent, task, episode = _run("both")
  key_N = agents.row_keys(_KEY, task)
  state = agent.init(_policy(), task)
  for c in range(len(r1._LONG)):
    turn = tasks.turn_at(task, c, _QUESTIONS)
    state, segments = agents.read_jit(
      _policy(), agent, state, turn, key_N[::_QUESTIONS], 1.0
    )
    _same(_row(episode.states, c), state)
    for op, segment in segments.items():
      there = _row(episode.turns[op], c)
      _same(there.response.tokens, segment.response.tokens)
      _same(there.malformed, segment.malformed)
      _same(there.counts, segment.counts)
  asked = jax.tree.map(lambda x: jnp.repeat(x, _QUESTIONS, axis=0), state)
  answer = agents.answer_jit(_policy(), agent, asked, task.query, key_N, 1.0)
  _same(episode.answer.response.tokens, answer["answer"].response.tokens)
  _same(episode.answer.result, answer["answer"].result)


def _mine(tree):
  """What is the first context's: rows are stacked call by call."""

  def mine(x):
    calls = x.shape[1] // _B
    return x.reshape(len(x), calls, _B, *x.shape[2:])[:, :, :_SAMPLES]

  return jax.tree.map(mine, tree)


def test_rows_do_not_see_each_other():
  agent, _, one = _run("both")
  speakers = (_NAMED[0], ("eve?",))
  task = _task(speakers, r1._OTHER, ("s9 eve=bern", "s8 fay=lima", "s8 eve!"))
  two = agents.rollout_jit(_policy(), agent, task, _KEY, 1.0)
  _same(_mine(one.states), _mine(two.states))
  for op in ("extract", "update"):
    _same(*(_mine(x.turns[op].response.tokens) for x in (one, two)))
  answers = [x.answer.response.tokens.ids for x in (one, two)]
  _same(*(x[: _SAMPLES * _QUESTIONS] for x in answers))
  theirs = [x.states.text.ids[-1, _SAMPLES:] for x in (one, two)]
  assert (theirs[0] != theirs[1]).any()


def test_who_names_nobody_is_read_whatever_others_name():
  """The first context as in a batch in which nobody has speakers."""
  one, two = (_run(x)[2].turns["extract"] for x in ("bare", "mixed"))
  alone, first = _mine(one.response.tokens), _mine(two.response.tokens)
  _same(alone.ids[:, 0], first.ids[:, 0])
  assert _mine(two.active)[:, 0].all() and not _mine(two.active)[:, 1].any()


def test_no_session_no_change():
  _, task, episode = _run("both")
  idle = task.chunks.length == 0
  assert idle[1:, _SAMPLES:].all() and not idle[:, :_SAMPLES].any()
  for c, b in np.argwhere(idle):
    _same(_row(episode.states, c, b), _row(episode.states, c - 1, b))
    for segment in episode.turns.values():
      rows = slice(b, None, _B)
      assert not segment.active[c, rows].any()
      assert not segment.malformed[c, rows].any()
      assert not segment.response.tokens.length[c, rows].any()
