"""The RMM agent: compiled rollouts equal a plain account of what was written.

The model is random but leans towards the grammar: what follows a word depends
on the word's class first, so every kind of line and of slip turns up.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import memory_rmm
from memjax import qwen3
from memjax import retriever as retriever_lib
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax.envs import demos
from memjax.envs import example as example_lib
from memjax.envs import homes
from memjax.memory import answer as answer_lib
from memjax.memory import lines
from memjax.memory import lines_host
from memjax.memory import retrieve
from memjax.memory import select as select_lib
from memjax.memory import topics as topics_lib

# Turns of a session, tokens of each, topics, tokens of a summary, of turns.
_P, _L, _F, _M, _V = 3, 3, 2, 2, 6
_ENTRIES, _CANDIDATES, _RETRIEVED = 3, 2, 3
_QUESTIONS, _SAMPLES = 2, 8
_B = 2 * _SAMPLES

_TOKENIZER = tokenizer_lib.from_words(demos.words())
_MODEL = qwen3.Config(
  vocab_size=_TOKENIZER.vocab_size,
  width=32,
  num_layers=1,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_dim=32,
  rope_theta=100.0,
  tied_embeddings=False,
  scan_layers=False,
)
_END = "<end>"


def _follows(facts, cities):
  """What a model likes to write: word -> words that may follow."""
  numbers = ["1", "2", "3"]
  return [
    (["<topics>"], ["NOTE", "NOTE", "NONE"]),
    (["<merge>"], ["ADD", "MERGE"]),
    ([f"{name}?" for name in homes.NAMES], ["USE"]),
    (["NOTE", "MERGE", "USE"], numbers),
    (numbers, [*numbers, ":", ":", *facts[:3], "<nl>"]),
    ([":"], facts),
    (facts, [*facts[:2], "<nl>", "<nl>", "<nl>"]),
    (["NONE", "ADD"], ["<nl>", _END]),
    (["<nl>"], ["NOTE", "MERGE", *cities, _END, _END]),
    (cities, [_END]),
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
    # About 7 nats more than others; a word that is named again is likelier.
    for word in dict.fromkeys(after):
      params["head"][kind, ids(word)] += 1.5 + 0.15 * (after.count(word) - 1)
  return agents.Policies(jax.tree.map(jnp.asarray, params))


def _retriever(fetched) -> retriever_lib.Retriever:
  lexicon = retrieve.make_lexicon(_TOKENIZER)
  return retriever_lib.Retriever(
    "recency", lexicon, None, 1, _CANDIDATES, fetched, fetched
  )


def _agent(**changes) -> memory_rmm.MemoryRMMAgent:
  agent = memory_rmm.MemoryRMMAgent(
    model=_MODEL,
    topics=topics_lib.make(_TOKENIZER, "words", _CANDIDATES, _P, _L, _F, _M),
    respond=answer_lib.make(_TOKENIZER, "words", _RETRIEVED),
    retriever=_retriever(_RETRIEVED),
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


# Speakers of both contexts, and what is unlike `_agent`.
_BOTH = (("ada?", "bob?"), ("bob?", "cat?"))
_SETTINGS = {
  "nobody": (((), ()), {}),
  "both": (_BOTH, {}),
  "mixed": ((_BOTH[0], ()), {}),
  "one": ((("ada?",), _BOTH[1]), {}),
  # Entries without turns, the oldest give way, the policy chooses from three.
  "bare": (
    ((), ()),
    {
      "turn_tokens": 0,
      "full": "evict",
      "select": select_lib.make(_TOKENIZER, "words", 3, 2),
      "retriever": dataclasses.replace(_retriever(3), retrieved=2),
      "respond": answer_lib.make(_TOKENIZER, "words", 2),
      "select_tokens": 6,
    },
  ),
}

_LONG = (
  "A: ada=bern <nl> <nl> B: the bob=lima of <nl> ada=rome",
  "A: ada=rome <nl> B: to <nl> of bob! <nl> in it <nl>",
  "A: ada! <nl>",
)
_SHORT = ("A: bob@ada is <nl> B: a",)
_OTHER = ("A: eve=oslo in <nl> it <nl>",)
_PRIOR = ("s9 cat=bern", "s8 ada=lima")


def _task(speakers, second=_SHORT, prior=_PRIOR) -> tasks.Task:
  """Two contexts, two questions about each; the second has a bank already."""
  asked = (("ada?", "bob?"), ("bob?", "cat?"))
  contexts = ((_LONG, ()), (second, prior))
  examples = [
    example_lib.Example(
      10 * b + n,
      question,
      parts,
      ("bern",),
      meta={"speakers": speakers[b]},
      stamps=tuple(f"s{k + 1}" for k in range(len(parts))),
      bank=bank,
    )
    for b, (parts, bank) in enumerate(contexts)
    for n, question in enumerate(asked[b])
  ]
  task = tasks.make_task(examples, _TOKENIZER, _agent())
  return tasks.repeat(task, _SAMPLES, _QUESTIONS)


_KEY = jax.random.key(7)


@functools.cache
def _run(setting):
  """(agent, task, episode) of a setting."""
  speakers, changes = _SETTINGS[setting]
  agent, task = _agent(**changes), _task(speakers)
  found = agents.rollout_jit(_policy(), agent, task, _KEY, 1.0)
  return agent, task, jax.device_get(found)


def _same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _row(tree, *index):
  return jax.tree.map(lambda x: x[index], tree)


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


def _pieces(words):
  return [" " + word for word in words]


class _Account:
  """One trajectory in plain Python: a dict, and lines_host for the grammar.

  An entry is (text, created, updated, turns); turns are lines of words.
  """

  def __init__(self, agent):
    self.full, self.room = agent.full, agent.turn_tokens
    self.entries, self.next_id = {}, 0
    self.refused = self.evicted = self.merged = self.dropped = 0
    self.parser = lines_host.make_parser(_TOKENIZER, "<nl>")

  def add(self, text, time, turns=()):
    if len(self.entries) == _ENTRIES:
      if self.full == "refuse":
        self.refused += 1
        return
      self.evicted += 1
      old = min(self.entries, key=lambda i: (self.entries[i][2], i))
      del self.entries[old]
    self.entries[self.next_id] = (text, time, time, self.kept(turns))
    self.next_id += 1

  def kept(self, turns):
    """The latest lines that fit; of a single one its end."""
    turns = list(turns)
    while len(turns) > 1 and sum(map(len, turns)) > self.room:
      self.dropped += 1
      del turns[0]
    cut = [line[max(len(line) - self.room, 0) :] for line in turns]
    return [line for line in cut if line]

  def latest(self, k, names=()):
    """Ids of the entries that were changed last and name somebody."""
    order = lambda i: (-self.entries[i][2], -i)
    words = lambda i: demos.words_of(self.entries[i][0])
    named = [i for i in self.entries if set(names) <= words(i)]
    return sorted(named, key=order)[:k]

  def relevant(self, k, speakers):
    """Ids for an answer: each speaker has a share of the places."""
    if not speakers:
      return self.latest(k)
    found = []
    for s, speaker in enumerate(speakers):
      share = k // 2 + (s < k % 2)  # a batch has room for two
      about = self.latest(_ENTRIES, demos.words_of(speaker))
      found += [i for i in about if i not in found][:share]
    return found

  def shown(self, ids, with_turns=False):
    rows = []
    for n, i in enumerate(ids, 1):
      rows += [str(n), self.entries[i][0], "<nl>"]
      rows += sum(self.entries[i][3], []) if with_turns else []
    return " ".join(rows) or "<none>"

  def notes(self, words, cut, turns):
    """([(summary, cited turns)] by place, malformed) of an extraction."""
    found = self.parser.notes(_pieces(words), cut, len(turns))
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
    found = self.parser.merge(_pieces(words), cut, len(listed))
    if not found:
      return True, None, None
    line = found[0]
    if line.error == lines.OK and line.verb == lines.ADD:
      self.add(" ".join([stamp, *summary]), time, said)
    elif line.error == lines.OK:
      i = listed[line.number - 1]
      _, created, _, before = self.entries[i]
      text = " ".join([stamp, *words[line.start : line.stop][:_M]])
      self.merged += bool(before)
      self.entries[i] = (text, created, time, self.kept(before + said))
    return bool(line.error) or len(found) > 1, line.verb, line.error

  def held(self):
    """As `_held` has it."""
    return {
      i: (*entry[:3], " ".join(sum(entry[3], [])))
      for i, entry in self.entries.items()
    }


def _held(state):
  """{id: (text, created, updated, turns)} of one row's bank."""
  return {
    int(state.id[e]): (
      _said(state.text, e),
      int(state.created[e]),
      int(state.updated[e]),
      _said(state.turns, e),
    )
    for e in np.flatnonzero(state.valid)
  }


def _session(text):
  """The turns of a chunk: words, without the line's end."""
  turns = [turn.split() for turn in text.split("<nl>")]
  return [turn[:_L] for turn in turns if turn][:_P]


def _reflect(account, task, episode, c, b, speakers, S):
  """One session of one trajectory, checked against the account."""
  extract, update = (episode.turns[op] for op in ("extract", "update"))
  turns, seen = _session(_said(task.chunks, c, b)), set()
  time = int(task.session[c, b])
  stamp = f"s{time + 1}"
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


def _check_answers(account, agent, task, episode, b, speakers):
  """Both questions of a trajectory, checked against the account."""
  fetched = account.relevant(agent.retriever.fetched, speakers)
  for n in range(b * _QUESTIONS, (b + 1) * _QUESTIONS):
    asked, ids = _said(task.query.question, n), fetched
    if agent.select:
      choice = episode.asked["select"]
      expected = f"<memory> {account.shown(ids)} <select> {asked}"
      assert _said(choice.prompt, n) == expected
      words, cut = _written(choice, n)
      used, rest, wrong = account.parser.use(_pieces(words), cut, len(ids))
      wrong |= bool(words[rest]) or len(used) > agent.select.picked
      assert choice.malformed[n] == wrong
      ids = [ids[k - 1] for k in sorted(used)[: agent.select.picked]]
    shown = account.shown(ids, with_turns=True)
    answer = episode.answer
    assert _said(answer.prompt, n) == f"<memory> {shown} <answer> {asked}"
    words, cut = _written(answer, n)
    used, where, wrong = account.parser.use(_pieces(words), cut, len(ids))
    assert _said(answer.result, n).split() == words[where]
    assert answer.malformed[n] == (wrong or not words[where])
    M = agent.retriever.retrieved
    assert answer.listed[n].tolist() == ids + [-1] * (M - len(ids))
    assert answer.used[n].tolist() == [k + 1 in used for k in range(M)]


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
    for c in range(len(_LONG)):
      seen |= _reflect(account, task, episode, c, b, speakers, S)
    _check_answers(account, agent, task, episode, b, speakers)
    accounts.append(account)
  # Otherwise the test says little.
  total = lambda name: sum(getattr(x, name) for x in accounts)
  kinds = {(lines.ADD, lines.OK), (lines.MERGE, lines.OK), ("note", lines.OK)}
  assert kinds < seen and len(seen) > 6
  assert total("merged") > 0 or not agent.turn_tokens
  assert total("dropped") > 0
  assert (total("refused") > 0) == (agent.full == "refuse")
  assert (total("evicted") > 0) == (agent.full == "evict")
  assert episode.turns["update"].counts["full"].sum() == total("refused")


def test_a_rollout_equals_the_host_loop():
  agent, task, episode = _run("both")
  key_N = agents.row_keys(_KEY, task)
  state = agent.init(_policy(), task)
  for c in range(len(_LONG)):
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


def test_rows_do_not_see_each_other():
  agent, _, one = _run("both")
  speakers = (_BOTH[0], ("eve?",))
  task = _task(speakers, _OTHER, ("s9 eve=bern", "s8 fay=lima"))
  two = agents.rollout_jit(_policy(), agent, task, _KEY, 1.0)
  two = jax.device_get(two)
  first = lambda tree: jax.tree.map(lambda x: x[:, :_SAMPLES], tree)
  _same(first(one.states), first(two.states))
  for op in ("extract", "update"):
    a, b = one.turns[op].response, two.turns[op].response
    calls = lambda x: x.reshape(x.shape[0], -1, _B, *x.shape[2:])
    mine = lambda tree: jax.tree.map(lambda x: calls(x)[:, :, :_SAMPLES], tree)
    _same(mine(a.tokens), mine(b.tokens))
  assert (
    one.states.text.ids[-1, _SAMPLES:] != two.states.text.ids[-1, _SAMPLES:]
  ).any()
  a, b = one.answer.response.tokens, two.answer.response.tokens
  n = _SAMPLES * _QUESTIONS
  np.testing.assert_array_equal(a.ids[:n], b.ids[:n])


def test_speakers_of_others_change_nothing():
  """A row that names nobody reads as in a batch that names nobody."""
  (_, _, one), (_, _, two) = _run("nobody"), _run("mixed")
  rows = slice(_SAMPLES, 2 * _SAMPLES)
  a, b = (x.turns["extract"].response.tokens.ids[:, rows] for x in (one, two))
  np.testing.assert_array_equal(a, b)
  rows = lambda x: _row(
    x.turns["extract"].response.tokens, slice(None), slice(_SAMPLES, _B)
  )
  _same(rows(one), rows(two))


def test_samples_of_a_context_and_its_speakers_differ():
  ids = _run("both")[2].turns["extract"].response.tokens.ids[0]
  for s in range(2):
    rows = ids[s * _B :][:_SAMPLES]
    assert len({row.tobytes() for row in rows}) > 1
  assert (ids[:_SAMPLES] != ids[_B:][:_SAMPLES]).any(1).sum() > 1


@pytest.mark.parametrize("setting", ["nobody", "both"])
def test_no_session_no_change(setting):
  _, task, episode = _run(setting)
  idle = task.chunks.length == 0
  assert idle[1:, _SAMPLES:].all() and not idle[:, :_SAMPLES].any()
  for c, b in np.argwhere(idle):
    _same(_row(episode.states, c, b), _row(episode.states, c - 1, b))
    for segment in episode.turns.values():
      rows = slice(b, None, _B)
      assert not segment.active[c, rows].any()
      assert not segment.malformed[c, rows].any()
      assert not segment.response.tokens.length[c, rows].any()


def test_the_calls_of_a_turn_are_stacked():
  for setting, S in (("nobody", 1), ("both", 2)):
    turns = _run(setting)[2].turns
    assert turns["extract"].active.shape == (len(_LONG), S * _B)
    assert turns["update"].active.shape == (len(_LONG), S * _F * _B)


def test_turns_are_told_apart_from_texts():
  """A bank that is handed over has texts alone; what is shown leaves turns."""
  agent, _, episode = _run("nobody")
  state = _row(episode.states, -1)
  for b in range(_B):
    held, found = _held(_row(state, b)), agent.held(state, b)
    both = {i: f"{x[0]} {x[3]}".strip() for i, x in held.items()}
    assert {i: _TOKENIZER.decode(x) for i, x in found.items()} == both
    shown = [_TOKENIZER.decode(ids) for ids in agent.shown(state, b)]
    assert shown == [held[i][0] for i in sorted(held)]
