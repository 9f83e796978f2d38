"""The bank agent: compiled rollouts equal a plain account of what was written.

The model is random but leans towards the grammar: what follows a word depends
on the word's class first, so every kind of operation and of slip turns up.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import lines_host
import numpy as np
import pytest

from memjax import agents
from memjax import memory_r1
from memjax import qwen3
from memjax import retriever as retriever_lib
from memjax import sampling
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.envs import homes
from memjax.memory import answer as answer_lib
from memjax.memory import bank as bank_lib
from memjax.memory import extract as extract_lib
from memjax.memory import lines
from memjax.memory import retrieve
from memjax.memory import update as update_lib

_FACTS, _OPS, _M = 2, 3, 2
_ENTRIES, _CANDIDATES, _RETRIEVED = 3, 2, 3
_QUESTIONS, _SAMPLES = 2, 8

_TOKENIZER = tokenizer_lib.from_words(homes.vocabulary())
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
  verbs = ["ADD", "UPDATE", "DELETE", "NOOP"]
  numbers = ["1", "2", "3"]
  return [
    (["<write>"], [*facts, "NONE"]),
    (["<ops>"], verbs),
    ([f"{name}?" for name in homes.NAMES], ["USE"]),
    (["ADD"], facts),
    (["UPDATE", "DELETE", "USE"], numbers),
    (numbers, [*facts[:2], "<nl>"]),
    (facts, ["<nl>"]),
    (["NOOP", "NONE"], ["<nl>", _END]),
    (["<nl>"], [*verbs, *facts, *cities, _END]),
    (cities, [_END]),
  ]


def _params(seed, facts, cities):
  """Random weights with a leaning towards `_follows`."""
  shapes = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), _MODEL))
  rng = np.random.default_rng(seed)
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
    for word in dict.fromkeys(after):  # about 7 nats more than others
      params["head"][kind, ids(word)] += 1.5
  return jax.tree.map(jnp.asarray, params)


@functools.cache
def _policy():
  names, cities = ("ada", "bob", "cat"), homes.CITIES[:3]
  facts = [f"{name}={city}" for name in names for city in cities]
  return _params(0, [*facts, "ada!"], cities)


def _agent(**changes) -> memory_r1.MemoryR1Agent:
  agent = memory_r1.MemoryR1Agent(
    model=_MODEL,
    extract=extract_lib.make(_TOKENIZER, "words", _FACTS, _M),
    update=update_lib.make(_TOKENIZER, "words", _CANDIDATES, _OPS, _M),
    respond=answer_lib.make(_TOKENIZER, "words", _RETRIEVED),
    retriever=retriever_lib.Retriever(
      "recency",
      retrieve.make_lexicon(_TOKENIZER),
      None,
      1,
      _CANDIDATES,
      _RETRIEVED,
      _RETRIEVED,
    ),
    extractor="policy",
    updater="policy",
    entries=_ENTRIES,
    text_tokens=_M,
    full="refuse",
    chunk_tokens=6,
    question_tokens=1,
    stamp_tokens=1,
    extract_tokens=7,
    update_tokens=12,
    answer_tokens=4,
    stamp_text="{stamp}",
    stop_ids=_TOKENIZER.stop_ids,
    think_ids=None,
    trained=("extract", "update", "answer"),
    questions=_QUESTIONS,
  )
  return dataclasses.replace(agent, **changes)


_LONG = (
  "A: ada=bern <nl> B: the bob=lima of <nl>",  # two chunks
  "A: ada=rome <nl> B: to <nl>",
  "A: ada! <nl>",
)
_SHORT = ("A: bob@ada is <nl>",)
_OTHER = ("A: eve=oslo in <nl>",)
_PRIOR = ("s9 cat=bern", "s8 ada=lima")


def _examples(second=_SHORT, prior=_PRIOR):
  """Two contexts, two questions about each; the second has a bank already."""
  make = lambda i, asked, parts, bank: example_lib.Example(
    i,
    asked,
    parts,
    ("bern",),
    stamps=tuple(f"s{k + 1}" for k in range(len(parts))),
    bank=bank,
  )
  return [
    make(0, "ada?", _LONG, ()),
    make(1, "bob?", _LONG, ()),
    make(2, "bob?", second, prior),
    make(3, "cat?", second, prior),
  ]


def _task(examples=None) -> tasks.Task:
  task = tasks.make_task(examples or _examples(), _TOKENIZER, _agent())
  return tasks.repeat(task, _SAMPLES, _QUESTIONS)


_KEY = jax.random.key(7)


@functools.cache
def _episode() -> agents.Episode:
  policies = agents.Policies(_policy())
  found = agents.rollout_jit(policies, _agent(), _task(), _KEY, 1.0)
  return jax.device_get(found)


def _same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def _row(tree, *index):
  return jax.tree.map(lambda x: x[index], tree)


def _said(tokens, *index) -> str:
  """One row as text, special tokens left in."""
  row = _row(tokens, *index)
  return _TOKENIZER.backend.decode(row.ids[: int(row.length)])


class _Account:
  """One trajectory in plain Python: a dict, and lines_host for the grammar."""

  def __init__(self, full):
    self.full, self.entries, self.next_id = full, {}, 0
    self.refused = self.evicted = 0
    self.parser = lines_host.make_parser(_TOKENIZER, "<nl>")

  def add(self, text, time):
    if len(self.entries) == _ENTRIES:
      if self.full == "refuse":
        self.refused += 1
        return
      self.evicted += 1
      old = min(self.entries, key=lambda i: (self.entries[i][2], i))
      del self.entries[old]
    self.entries[self.next_id] = (text, time, time)
    self.next_id += 1

  def latest(self, k):
    """Ids of the entries that were changed last."""
    order = lambda i: (-self.entries[i][2], -i)
    return sorted(self.entries, key=order)[:k]

  def shown(self, ids):
    lines = [f"{n} {self.entries[i][0]} <nl>" for n, i in enumerate(ids, 1)]
    return " ".join(lines) or "<none>"

  def facts(self, words, truncated):
    pieces = [" " + word for word in words]
    return [
      " ".join(words[line.start : line.stop][:_M])
      for line in self.parser.texts(pieces, truncated)[:_FACTS]
      if line.error == lines.OK and line.verb == lines.ADD
    ]

  def operate(self, words, truncated, listed, stamp, time):
    pieces = [" " + word for word in words]
    found = self.parser.ops(pieces, truncated, len(listed))[:_OPS]
    for line in found:
      if line.error != lines.OK:
        continue
      text = " ".join([stamp, *words[line.start : line.stop][:_M]])
      if line.verb == lines.ADD:
        self.add(text, time)
      elif line.verb == lines.UPDATE:
        entry = self.entries.get(listed[line.number - 1])
        if entry:  # may have been evicted by a line before
          self.entries[listed[line.number - 1]] = (text, entry[1], time)
      elif line.verb == lines.DELETE:
        self.entries.pop(listed[line.number - 1], None)
    return found


def _written(segment, *index):
  """(words without the end token, truncated) of a response."""
  words = _said(segment.response.tokens, *index).split()
  ended = bool(words) and words[-1] == _END
  assert _END not in words[:-1]
  truncated = bool(segment.response.truncated[index])
  return words[: len(words) - ended], truncated


def _held(state):
  """{id: (text, created, updated)} of one row's bank."""
  return {
    int(state.id[e]): (
      _said(state.text, e),
      int(state.created[e]),
      int(state.updated[e]),
    )
    for e in np.flatnonzero(state.valid)
  }


def test_the_bank_is_what_the_responses_say():
  episode, task, seen, refused = _episode(), _task(), set(), 0
  C, B = task.chunks.length.shape
  for b in range(B):
    account = _Account("refuse")
    for text in _PRIOR if b >= _SAMPLES else ():
      account.add(text, 0)
    for c in range(C):
      extract, update = (episode.turns[op] for op in ("extract", "update"))
      active = task.chunks.length[c, b] > 0
      assert extract.active[c, b] == active
      facts = []
      if active:
        chunk = _said(task.chunks, c, b)
        assert _said(extract.prompt, c, b) == f"<chunk> {chunk} <write>"
        facts = account.facts(*_written(extract, c, b))
      assert update.active[c, b] == bool(facts)
      if facts:
        listed = account.latest(_CANDIDATES)
        told = " ".join(f"{fact} <nl>" for fact in facts)
        shown = account.shown(listed)
        expected = f"<memory> {shown} <facts> {told} <ops>"
        assert _said(update.prompt, c, b) == expected
        words, cut = _written(update, c, b)
        time = int(task.session[c, b])
        stamp = f"s{time + 1}"
        found = account.operate(words, cut, listed, stamp, time)
        seen |= {(x.verb, x.error) for x in found}
        assert update.malformed[c, b] == (
          not found
          or any(x.error for x in found)
          or bool(update.counts["left_out"][c, b])
        )
      state = _row(episode.states, c, b)
      assert _held(state) == account.entries
      assert int(state.next_id) == account.next_id
    refused += account.refused
    for n in range(b * _QUESTIONS, (b + 1) * _QUESTIONS):
      asked = _said(task.query.question, n)
      shown = account.shown(account.latest(_RETRIEVED))
      expected = f"<memory> {shown} <answer> {asked}"
      assert _said(episode.answer.prompt, n) == expected
      words, cut = _written(episode.answer, n)
      pieces = [" " + word for word in words]
      count = min(len(account.entries), _RETRIEVED)
      used, where, wrong = account.parser.use(pieces, cut, count)
      assert _said(episode.answer.result, n).split() == words[where]
      assert episode.answer.malformed[n] == (wrong or not words[where])
      ids = account.latest(_RETRIEVED)
      ids += [-1] * (_RETRIEVED - len(ids))
      assert episode.answer.listed[n].tolist() == ids
      places = [k + 1 in used for k in range(_RETRIEVED)]
      assert episode.answer.used[n].tolist() == places
  # Otherwise the test says little.
  assert {(x, lines.OK) for x in range(4)} < seen and len(seen) > 6
  assert refused > 0
  assert episode.turns["update"].counts["full"].sum() == refused


def test_a_rollout_equals_the_host_loop():
  """Two questions are asked of each state, and some banks are not empty."""
  policies, agent, task = agents.Policies(_policy()), _agent(), _task()
  episode = _episode()
  loop = agents.rollout_by_turns(policies, agent, task, _KEY, 1.0)
  _same(episode.states, loop.states)
  for name in ("turns", "asked"):
    segments = getattr(episode, name)
    assert segments.keys() == getattr(loop, name).keys()
    for op, segment in segments.items():
      there = getattr(loop, name)[op]
      _same(there.response.tokens, segment.response.tokens)
      _same(there.result, segment.result)
      _same(there.malformed, segment.malformed)
      _same(there.counts, segment.counts)


def test_rows_do_not_see_each_other():
  policies, agent, G = agents.Policies(_policy()), _agent(), _SAMPLES
  examples = _examples(_OTHER, ("s9 eve=bern", "s8 fay=lima"))
  one = _episode()
  two = jax.device_get(
    agents.rollout_jit(policies, agent, _task(examples), _KEY, 1.0)
  )
  first = lambda tree: jax.tree.map(lambda x: x[:, :G], tree)
  _same(first(one.states), first(two.states))
  for op in ("extract", "update"):
    a, b = one.turns[op].response, two.turns[op].response
    _same(first(a.tokens), first(b.tokens))
    assert (a.logp[0, G:] != b.logp[0, G:]).any(1).all()
  n = G * _QUESTIONS
  a, b = one.answer.response.tokens, two.answer.response.tokens
  np.testing.assert_array_equal(a.ids[:n], b.ids[:n])
  assert (one.states.text.ids[-1, G:] != two.states.text.ids[-1, G:]).any()


def test_samples_of_a_context_differ():
  ids = _episode().turns["update"].response.tokens.ids[0, :_SAMPLES]
  assert len({row.tobytes() for row in ids}) > 1


def test_questions_of_one_context_see_the_same_bank():
  episode, banks = _episode(), set()
  for b in range(2 * _SAMPLES):
    shown = {
      _said(episode.answer.prompt, n).split(" <answer> ")[0]
      for n in range(b * _QUESTIONS, (b + 1) * _QUESTIONS)
    }
    assert len(shown) == 1
    banks |= shown
  assert len(banks) > 2


def test_no_chunk_no_change():
  episode, task = _episode(), _task()
  idle = task.chunks.length == 0
  assert idle[1:, _SAMPLES:].all() and not idle[:, :_SAMPLES].any()
  for c, b in np.argwhere(idle):
    _same(_row(episode.states, c, b), _row(episode.states, c - 1, b))
    for segment in episode.turns.values():
      assert not segment.active[c, b] and not segment.malformed[c, b]
      assert segment.response.tokens.length[c, b] == 0


def test_a_bank_begins_with_the_entries_held_beforehand():
  agent, task = _agent(), _task()
  state = jax.device_get(agent.init(agents.Policies(None), task))
  for b in range(2 * _SAMPLES):
    held = {i: (text, 0, 0) for i, text in enumerate(_PRIOR)}
    assert _held(_row(state, b)) == (held if b >= _SAMPLES else {})
    shown = [_TOKENIZER.decode(ids) for ids in agent.shown(state, b)]
    assert shown == (list(_PRIOR) if b >= _SAMPLES else [])


def test_given_texts_are_the_bank():
  agent = _agent()
  texts = [["s1 ada=bern"], [], ["s1 bob!", "s2 cat=rome"]]
  ids = [_TOKENIZER.encode_batch(row) for row in texts]
  assert [
    agent.shown(agent.given(agents.Policies(None), ids), b) for b in range(3)
  ] == ids
  # Few long entries at the same budget.
  long = [[_TOKENIZER.encode("the of and to a in is it")], []]
  assert agent.shown(agent.given(agents.Policies(None), long), 0) == long[0]


def test_entries_that_do_not_fit_are_refused():
  examples = [dataclasses.replace(_examples()[0], bank=("s1 a",) * 4)]
  task = tasks.make_task(examples, _TOKENIZER, _agent(questions=1))
  with pytest.raises(ValueError, match="config.agent.entries"):
    _agent().init(agents.Policies(None), task)


@pytest.mark.parametrize(
  "trained",
  [("update",), ("extract", "answer"), ("answer",), ("extract", "update")],
)
def test_frozen_operations_use_the_frozen_parameters(trained, monkeypatch):
  asked, agent = [], _agent(trained=trained, questions=1)

  def decode(params, cfg, prompt, key_B, *, max_new_tokens, **kwargs):
    del cfg, key_B, kwargs
    asked.append((max_new_tokens, *params))
    B = prompt.length.shape[0]
    return sampling.Response(
      token_lib.empty(B, max_new_tokens),
      jnp.zeros((B, max_new_tokens)),
      jnp.zeros((B,), bool),
    )

  monkeypatch.setattr(sampling, "decode", decode)
  policies = agents.Policies({"policy": 1.0}, {"frozen": 1.0})
  task = tasks.make_task(_examples()[:1], _TOKENIZER, agent)
  run = functools.partial(agents.rollout, agent=agent)
  jax.eval_shape(run, policies, task=task, key=_KEY, temperature=1.0)
  # A scan is traced once, so each operation is asked for at least once.
  assert set(asked) == {
    (agent.limit(op), "policy" if op in trained else "frozen")
    for op in ("extract", "update", "answer")
  }


def test_without_frozen_parameters_all_use_the_policy():
  policies = agents.Policies(policy := {"a": 1})
  assert policies.of("answer", ("update",)) is policy
  policies = agents.Policies(policy, frozen := {"a": 2})
  assert policies.of("answer", ("update",)) is frozen
  assert policies.of("update", ("update",)) is policy


def _turn(text, stamp):
  row = lambda x, n: token_lib.from_lists([_TOKENIZER.encode(x)], n)
  return tasks.Turn(
    row("ada?", 1),
    row(text, 6),
    row(stamp, 1),
    np.array([3]),
    5,
    token_lib.from_nested([[]]),
  )


def test_lines_that_are_added_as_they_are_need_no_model():
  agent = _agent(extractor="turns", updater="append")
  assert agent.turn_ops == ()
  bank, segments = agents.read_jit(
    agents.Policies(None),
    agent,
    bank_lib.init(1, _ENTRIES, agent.entry_tokens),
    _turn("A: ada! <nl> B: of bob=lima", "s4"),
    jax.random.split(_KEY, 1),
    1.0,
  )
  assert segments == {}
  # Each line is cut at two tokens.
  bank = jax.device_get(bank)
  expected = {0: ("s4 A: ada!", 3, 3), 1: ("s4 B: of", 3, 3)}
  assert _held(_row(bank, 0)) == expected
  assert bank.source[0, :2].tolist() == [5, 5]


@pytest.mark.parametrize("full", bank_lib.FULL_RULES)
def test_a_full_bank(full):
  agent = _agent(extractor="turns", updater="append", full=full)
  account, task = _Account(full), _task()
  state = agent.init(agents.Policies(None), task)
  for text in _PRIOR:
    account.add(text, 0)
  turns = ["ada! <nl> bob!", "cat! <nl> eve!", "fay!"]
  for number, text in enumerate(turns):
    row = lambda x, n: token_lib.from_lists([_TOKENIZER.encode(x)] * 16, n)
    turn = tasks.Turn(
      row("ada?", 1),
      row(text, 6),
      row(f"s{number + 1}", 1),
      np.full(16, number),
      number,
      token_lib.from_nested([[]] * 16),
    )
    keys = jax.random.split(_KEY, 16)
    state, _ = agents.read_jit(
      agents.Policies(None), agent, state, turn, keys, 1.0
    )
    for word in text.replace("<nl>", "").split():
      account.add(f"s{number + 1} {word}", number)
    assert _held(_row(jax.device_get(state), -1)) == account.entries
  assert len(account.entries) == _ENTRIES
  assert (account.refused, account.evicted) == (
    (4, 0) if full == "refuse" else (0, 4)
  )


def test_each_half_can_do_without_a_model():
  assert _agent(extractor="turns").turn_ops == ("update",)
  assert _agent(updater="append").turn_ops == ("extract",)
  assert _agent().turn_ops == ("extract", "update")


def _bank(texts):
  ids = [_TOKENIZER.encode_batch(texts)]
  return _agent().given(agents.Policies(None), ids)


def _retriever(name="bm25", k=3, **changes):
  retriever = dataclasses.replace(
    _agent().retriever, first=name, candidates=k, fetched=k, retrieved=k
  )
  return dataclasses.replace(retriever, **changes)


def test_an_update_sees_entries_that_share_a_word():
  bank = _bank(["s1 ada=bern", "s2 bob=lima", "s1 cat=rome"])
  facts = token_lib.from_nested(
    [_TOKENIZER.encode_batch(["", "cat@bob", "cat!"])]
  )
  slot = _retriever().similar(agents.Policies(None), bank, facts)
  # One fact knows both, the other one cat alone; ada is in none.
  assert slot.tolist() == [[2, 1, -1]] or slot.tolist() == [[1, 2, -1]]
  nothing = token_lib.from_nested([_TOKENIZER.encode_batch(["eve!"])])
  slot = _retriever().similar(agents.Policies(None), bank, nothing)
  assert slot.tolist() == [[-1, -1, -1]]


def test_an_answer_sees_the_best_entries_whatever_they_share():
  bank = _bank(["s1 ada=bern", "s2 bob=lima", "s1 cat=rome"])
  none = token_lib.from_nested([[]])
  asked = token_lib.from_lists([_TOKENIZER.encode("cat?")], 1)
  query = tasks.Query(asked, none)
  slot, _ = _retriever().fetch(agents.Policies(None), bank, query)
  assert slot.tolist() == [[2, 0, 1]]


def test_speakers_share_the_places():
  bank = _bank(["s1 ada=bern", "s2 ada!", "s1 bob=bern"])
  names = token_lib.from_nested([_TOKENIZER.encode_batch(["ada?", "bob?"])])
  asked = token_lib.from_lists([_TOKENIZER.encode("bern")], 1)
  slot, _ = _retriever(k=2).fetch(
    agents.Policies(None), bank, tasks.Query(asked, names)
  )
  assert slot.tolist() == [[0, 2]]


def test_entries_carry_the_embedding_of_their_text():
  embedder = dataclasses.replace(_MODEL, width=16)
  shapes = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), embedder))
  rng = np.random.default_rng(3)
  draw = lambda x: jnp.asarray(rng.normal(0.3, 0.3, x.shape), x.dtype)
  params = jax.tree.map(draw, shapes)
  agent = _agent(
    extractor="turns",
    updater="append",
    retriever=_retriever("embedding", embedder=embedder),
  )
  policies = agents.Policies(None, embedder=params)
  empty = bank_lib.init(1, _ENTRIES, agent.entry_tokens, 16)
  bank, _ = agents.read_jit(
    policies,
    agent,
    empty,
    _turn("ada! of <nl> bob=lima", "s4"),
    jax.random.split(_KEY, 1),
    1.0,
  )
  texts = token_lib.from_lists(
    _TOKENIZER.encode_batch(["s4 ada! of", "s4 bob=lima"]), agent.entry_tokens
  )

  @jax.jit
  def look(policies, bank):
    expected = retrieve.embed(policies.embedder, embedder, texts, end_id=1)
    query = jax.tree.map(lambda x: x[1:], texts)
    score = agent.retriever.scores(policies, bank, query)
    facts = jax.tree.map(lambda x: x[None, 1:], texts)
    return expected, score, agent.retriever.similar(policies, bank, facts)

  expected, score, slot = look(policies, bank)
  np.testing.assert_allclose(bank.embedding[0, :2], expected, atol=1e-5)
  assert not bank.embedding[0, 2].any()
  assert float(score[0, 1]) == pytest.approx(1.0, abs=1e-5)
  assert slot.tolist() == [[1, 0, -1]]


def test_entries_are_found_by_embedding():
  """The bank holds the embedding of each entry as it stands, stamp included."""
  retriever = retriever_lib.Retriever(
    "embedding",
    retrieve.make_lexicon(_TOKENIZER),
    _MODEL,
    1,
    _CANDIDATES,
    _RETRIEVED,
    _RETRIEVED,
  )
  agent = _agent(retriever=retriever, extractor="turns", updater="append")
  policies = agents.Policies(_policy(), embedder=_policy())
  task = _task()
  key_N = agents.row_keys(_KEY, task)
  state = agent.init(policies, task)
  for c in range(2):
    turn = tasks.turn_at(task, c, _QUESTIONS)
    state, _ = agents.read_jit(
      policies, agent, state, turn, key_N[::_QUESTIONS], 0.0
    )
  valid = np.asarray(state.valid)
  assert valid.sum() > 4
  embed, fetch = jax.jit(retriever.embed), jax.jit(retriever.fetch)
  expected = embed(policies, state.text)
  np.testing.assert_allclose(state.embedding[valid], expected[valid], atol=1e-5)
  norms = np.linalg.norm(np.asarray(state.embedding), axis=-1)
  np.testing.assert_allclose(norms, valid, atol=1e-5)
  # An entry is closest to itself.
  rows = np.flatnonzero(valid[:, 0])
  query = jax.tree.map(lambda x: x[:, 0], state.text)
  slots, _ = fetch(
    policies,
    state,
    tasks.Query(query, token_lib.from_nested([[]] * len(valid))),
  )
  assert (np.asarray(slots)[rows, 0] == 0).all()
