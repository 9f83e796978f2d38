"""What both stores share; and banks and writers to try a store with."""

import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from memjax import store

_ROOT = pathlib.Path(__file__).resolve().parent.parent

# Imports the stores alone: jax would take longer than the test.
_CHILD = """
import json, pathlib, random, sys, time, types
package = types.ModuleType("memjax")
package.__path__ = [sys.argv[1]]
sys.modules["memjax"] = package
import numpy as np
from memjax import sqlite_store
from memjax import store

def say(*words):
  print(*words, flush=True)

# The bank after session n depends on the one before and on n only.
def step(entries, n, next_id):
  rng = np.random.default_rng(n)
  bank = {e.id: e for e in entries}
  log = []
  for i in range(20):
    vector = rng.standard_normal(64).astype(np.float32)
    bank[next_id + i] = store.Entry(
      next_id + i, f"text {n} {i}", (n, i), n, n, f"s{n % 3}", vector)
    log.append({"op": "add", "id": next_id + i, "n": n})
  for i in list(bank)[: 10 if n else 0]:
    del bank[i]
    log.append({"op": "delete", "id": i, "n": n})
  for i in list(bank)[:5]:
    import dataclasses
    bank[i] = dataclasses.replace(bank[i], text=bank[i].text + "!", updated=n)
    log.append({"op": "update", "id": i, "n": n})
  return list(bank.values()), log
"""


def step(entries, n, next_id):
  """(entries, log) after session n, as a child has them."""
  space = {"__name__": "step", "np": np, "store": store}
  source = _CHILD[_CHILD.index("def step") :]
  exec(source, space)
  return space["step"](entries, n, next_id)


def spawn(source, *arguments, **options):
  """A process that runs the source, with the arguments in sys.argv[2:]."""
  return subprocess.Popen(
    [sys.executable, "-c", _CHILD + textwrap.dedent(source)]
    + [str(_ROOT / "memjax"), *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    **options,
  )


def entry(number, text="a", embedding=(1.0, 0.0), **fields):
  made = store.Entry(number, text, (1, 2), 0, 0, "kim", embedding)
  return dataclasses.replace(made, **fields)


def commit(bank, key, entries, log=(), **options):
  with bank.writer(1.0):
    bank.commit(key, entries, log, **options)


def assert_bank_is(bank, n):
  """The bank is exactly that of the sessions 0 to n - 1."""
  entries, logs, next_id = [], [], 0
  for i in range(n):
    entries, log = step(entries, i, next_id)
    next_id = max(next_id, *(e.id + 1 for e in entries))
    logs += [(f"session {i}", row) for row in log]
  assert bank.sessions() == [f"session {i}" for i in range(n)]
  assert bank.entries() == entries
  assert bank.log() == logs
  assert bank.next_id() == next_id


_WRITE_FOREVER = """
say("ready")
n = len(bank.sessions())
while True:
  with bank.writer(10):
    entries, log = step(bank.entries(), n, bank.next_id())
    say("begin", n)
    bank.commit(f"session {n}", entries, log)
    say("done", n)
  n += 1
"""


def kill_at_random(path, make, opening, kills, commit_s, check):
  """Kills a writer again and again; returns how many died in a commit.

  Every other time soon after a commit began, else at any moment. `opening` is
  the source that opens the writer's `bank`, `make` opens it here.
  """
  rng, inside, last = random.Random(0), 0, -1
  for kill in range(kills):
    child = spawn(opening + _WRITE_FOREVER, path)
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    early = ""
    if kill % 2:
      for _ in range(2 * rng.randrange(4) + 1):  # begin, done, ..., begin
        early += child.stdout.readline()
      time.sleep(rng.uniform(0.0, commit_s))
    else:
      time.sleep(rng.uniform(0.0, 20 * commit_s))
    os.kill(child.pid, signal.SIGKILL)
    # Not communicate(): it misses lines that readline() has buffered.
    out, error = early + child.stdout.read(), child.stderr.read()
    child.wait()
    assert child.returncode == -signal.SIGKILL, error
    lines = [line.split() for line in out.splitlines()]
    done = [int(x[1]) for x in lines if x[0] == "done" and len(x) == 2]
    begun = [int(x[1]) for x in lines if x[0] == "begin" and len(x) == 2]
    last = max([last, *done])
    bank = make(path)
    n = len(bank.sessions())
    # Nothing that was acknowledged is lost; the session that was being
    # written when the process died is there whole, or not at all.
    assert last + 1 <= n <= max([last, *begun]) + 1
    inside += begun[-1:] != done[-1:]
    check(bank, n)
    bank.close()
    last = n - 1
  assert last > 0  # sessions were committed in between
  return inside


def random_bank(E, D, seed=0):
  rng = np.random.default_rng(seed)
  return [
    store.Entry(
      2 * i,
      f"{i}",
      (i,),
      created=i % 7,
      updated=i % 11,
      source=f"s{i % 3}",
      embedding=rng.standard_normal(D) * rng.uniform(0.1, 10),
    )
    for i in range(E)
  ]


@pytest.mark.parametrize(
  "field",
  [
    {"id": 4},
    {"text": "b"},
    {"ids": (1, 3)},
    {"created": 5},
    {"updated": 5},
    {"source": "lee"},
    {"embedding": np.float32([1.0, 1e-30])},
    {"embedding": None},
  ],
)
def test_entries_differ_in_every_field(field):
  assert entry(3) == entry(3)
  assert hash(entry(3)) == hash(entry(3))
  assert dataclasses.replace(entry(3), **field) != entry(3)


def test_nearest_is_not_fooled_by_rounding():
  """400 rows a few float32 steps apart, ordered as float64 has them."""
  rng = np.random.default_rng(0)
  base = rng.standard_normal(64)
  rows = base + 3e-7 * rng.standard_normal((400, 64))
  unit_ED = store.normalise(rows, range(400))
  mask_E = rng.random(400) < 0.9
  for query in store.normalise(base + rng.standard_normal((20, 64)), range(20)):
    score_E = unit_ED.astype(np.float64) @ query.astype(np.float64)
    score_E = np.where(mask_E, score_E.astype(np.float32), -2.0)
    want_K = np.lexsort((np.arange(400), -score_E))[:30]
    rows_QK, score_QK = store.nearest(unit_ED, query[None], 30, mask_E)
    assert rows_QK[0].tolist() == want_K.tolist()
    assert np.array_equal(score_QK[0], score_E[want_K])


def test_difference():
  same, old, gone = entry(2), entry(4), entry(5)
  known = {e.id: e.digest for e in (same, old, gone)}
  changed, new = entry(4, "b"), entry(9)
  got = store.difference([new, same, changed], known, last_id=7)
  assert got == ([new, changed], [5], 9)
  assert store.difference([], known, 7) == ([], [2, 4, 5], 7)
  assert store.difference([], {}, -1) == ([], [], -1)


@pytest.mark.parametrize(
  "entries, match",
  [
    ([entry(7)], "entry 7 is new, .* take 8 or more"),
    ([entry(8), entry(9), entry(8)], "entry 8 stands twice"),
    ([entry(2), entry(8, embedding=(1.0, np.nan))], "entry 8 .* length nan"),
    ([entry(8, embedding=(0.0, 0.0))], "entry 8 .* length 0"),
    ([entry(8, embedding=(np.inf, 0.0))], "entry 8 .* length inf"),
    ([entry(2), entry(8, embedding=(1, 0, 0))], r"entry 8 .*expected \(2,\)"),
    ([entry(8, embedding=((1.0, 0.0),))], "entry 8 .* expected one dimension"),
  ],
)
def test_difference_refuses(entries, match):
  with pytest.raises(ValueError, match=match):
    store.difference(entries, {2: entry(2).digest}, last_id=7)
  with pytest.raises(ValueError, match="entry -1: an id is 0 or more"):
    store.difference([entry(-1)], {}, last_id=-2)


def test_check_meta():
  meta = {"policy": "a", "stop": (1, 2)}
  texts = store.check_meta({}, meta, "x.db")
  assert texts == {"policy": '"a"', "stop": "[1, 2]"}
  assert store.check_meta(texts, meta, "x.db") == texts
  for other, match in (
    ({**meta, "policy": "b"}, 'x.db was made with policy = "a", .* has "b"'),
    ({**meta, "n": 1}, "n = nothing, this run has 1"),
    ({"policy": "a"}, r"stop = \[1, 2\], this run has nothing"),
  ):
    with pytest.raises(ValueError, match=match):
      store.check_meta(texts, other, "x.db")


def test_check_query():
  query_QD = store.check_query([3, 4], 1, 2)
  np.testing.assert_allclose(query_QD, [[0.6, 0.8]], rtol=1e-7)
  assert query_QD.dtype == np.float32
  for query, k, match in (
    (np.ones(3), 1, r"\(3,\), expected \[D\] or \[Q, D\] with D = 2"),
    (np.ones((1, 1, 2)), 1, "shape"),
    (np.array([np.nan, 1.0]), 1, "query 0 .* length nan"),
    (np.array([[1.0, 1.0], [0.0, 0.0]]), 1, "query 1 .* length 0"),
    (np.ones(2), 0, "k is 0"),
  ):
    with pytest.raises(ValueError, match=match):
      store.check_query(query, k, 2)


_HOLD = """
with store.exclusive(pathlib.Path(sys.argv[2]), 1):
  say("held")
  time.sleep(float(sys.argv[3]))
  pathlib.Path(sys.argv[2] + ".done").touch()
"""


def test_the_second_waits_for_the_lock(tmp_path):
  path = tmp_path / "x.lock"
  child = spawn(_HOLD, path, 0.4)
  assert child.stdout.readline() == "held\n"
  assert not (tmp_path / "x.lock.done").exists()
  with store.exclusive(path, 20.0):
    assert (tmp_path / "x.lock.done").exists()
  child.communicate()


def test_the_second_is_refused_and_kill_9_frees_the_lock(tmp_path):
  path = tmp_path / "x.lock"
  child = spawn(_HOLD, path, 60)
  assert child.stdout.readline() == "held\n"
  start = time.monotonic()
  with pytest.raises(ValueError, match=rf"x\.lock.*{child.pid}\b"):
    with store.exclusive(path, 0.3):
      pass
  assert 0.3 <= time.monotonic() - start < 5
  os.kill(child.pid, signal.SIGKILL)
  child.communicate()
  with store.exclusive(path, 1.0):
    assert path.read_text().strip() == str(os.getpid())
  with pytest.raises(ValueError, match="cannot lock .*none"):
    with store.exclusive(tmp_path / "none" / "x.lock", 1.0):
      pass
