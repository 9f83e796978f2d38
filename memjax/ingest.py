"""A bank that lasts: conversations read into a file, questions asked of it.

A session is read as in training, turn by turn on the device, and written to
disk in one transaction. A process that is killed loses the session it was at,
and nothing else; the same command again goes on behind the last one.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memjax import agents
from memjax import bank_agent
from memjax import build
from memjax import conversation as conversation_lib
from memjax import lance_store
from memjax import minilm
from memjax import prompts
from memjax import sqlite_store
from memjax import store as store_lib
from memjax import tasks
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import bank as bank_lib


def check_agent(run: build.Run) -> None:
  """Refuses agents that keep no bank, or more than a store has columns for.

  Raises:
    ValueError: the config's agent is another.
  """
  if not isinstance(run.agent, bank_agent.BankAgent):
    raise ValueError(
      f"config.agent.name={run.config.agent.name!r} keeps no bank: take a "
      "config of the agent 'memory_r1' or 'memory_rmm'"
    )
  if run.agent.turn_tokens:
    raise ValueError(
      f"config.agent.kept_tokens={run.agent.turn_tokens}: a bank on disk holds "
      "texts, not the turns beside them: set 0"
    )


def open_store(
  path: str | os.PathLike,
) -> sqlite_store.SqliteStore | lance_store.LanceStore:
  """LanceDB for a name that ends with .lance or is a URI, otherwise SQLite.

  Raises:
    ValueError: LanceDB is not installed, or the place is not a bank.
  """
  if str(path).endswith(".lance") or "://" in str(path):
    return lance_store.LanceStore(path)
  return sqlite_store.SqliteStore(path)


def _encoder(run: build.Run) -> minilm.Encoder | None:
  """The sentence encoder that finds entries for questions, if there is one."""
  path = run.config.agent.encoder
  if not path:
    return None
  if run.agent.retriever.embedder:
    raise ValueError(
      f"config.agent.encoder={path} and config.agent.embedder="
      f"{run.config.agent.embedder} of config.agent.retriever="
      f"{run.config.agent.retriever!r} would both embed the entries: choose "
      "one of them"
    )
  return minilm.load(path)


def _embed(
  encoder: minilm.Encoder | None,
  before: Sequence[store_lib.Entry],
  after: Sequence[store_lib.Entry],
) -> list[store_lib.Entry]:
  """The entries with the encoder's embeddings; what is known is kept."""
  if encoder is None:
    return list(after)
  known = {(e.id, e.text): e.embedding for e in before}
  new = [e for e in after if (e.id, e.text) not in known]
  vectors = minilm.encode(encoder, [e.text for e in new]) if new else ()
  known |= {(e.id, e.text): v for e, v in zip(new, vectors)}
  return [dataclasses.replace(e, embedding=known[e.id, e.text]) for e in after]


def _meta(run: build.Run, policies: agents.Policies) -> dict[str, Any]:
  """What must not change while a bank lives."""
  pieces = json.dumps(run.tokenizer.pieces).encode()
  trained = {}
  if run.trainer and run.trainer.tunes == "encoder":
    # Each checkpoint embeds otherwise.
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(policies.embedder):
      digest.update(np.asarray(leaf).tobytes())
    trained["trained_embedder"] = digest.hexdigest()
  return trained | {
    "tokenizer": hashlib.sha256(pieces).hexdigest(),
    "entries": run.agent.entries,
    "entry_tokens": run.agent.entry_tokens,
    "retriever": run.agent.retriever.first,
    "embedder": run.config.agent.embedder,
    "encoder": run.config.agent.encoder,
  }


def to_bank(
  run: build.Run, entries: Sequence[store_lib.Entry], next_id: int
) -> bank_lib.Bank:
  """The entries of a store as a bank of one row."""
  E, M = run.agent.entries, run.agent.entry_tokens
  if len(entries) > E:
    raise ValueError(f"{len(entries)} entries do not fit a bank of {E}")
  bank = jax.tree.map(
    np.array, bank_lib.init(1, E, M, run.agent.retriever.width)
  )
  for slot, entry in enumerate(entries):
    bank.text.ids[0, slot, : len(entry.ids)] = entry.ids
    bank.text.length[0, slot] = len(entry.ids)
    bank.valid[0, slot] = True
    bank.id[0, slot] = entry.id
    bank.created[0, slot] = entry.created
    bank.updated[0, slot] = entry.updated
    bank.source[0, slot] = int(entry.source)
    if bank.embedding.shape[2]:
      bank.embedding[0, slot] = entry.embedding
  bank.next_id[0] = next_id
  return bank


def from_bank(run: build.Run, bank: bank_lib.Bank) -> list[store_lib.Entry]:
  """The entries of the first row, in the order of their ids."""
  bank = jax.device_get(bank)
  slots = np.flatnonzero(bank.valid[0])
  found = []
  for slot in sorted(slots, key=lambda slot: bank.id[0, slot]):
    ids = bank.text.ids[0, slot, : bank.text.length[0, slot]].tolist()
    has = bank.embedding.shape[2] > 0
    found.append(
      store_lib.Entry(
        bank.id[0, slot],
        run.tokenizer.decode(ids).strip(),
        ids,
        bank.created[0, slot],
        bank.updated[0, slot],
        str(bank.source[0, slot]),
        bank.embedding[0, slot] if has else None,
      )
    )
  return found


def ingest(
  run: build.Run,
  policies: agents.Policies,
  path: str | os.PathLike,
  conversation: str | os.PathLike,
  *,
  timeout_s: float = 60.0,
  temperature: float = 0.0,
  on_session: Callable[[str, list[dict[str, Any]]], None] | None = None,
) -> int:
  """Reads the sessions of a conversation that a bank does not know yet.

  Args:
    run: the agent.
    policies: its parameters.
    path: of the bank; made if there is none.
    conversation: file of messages, as `conversation.read_sessions` takes it.
    timeout_s: how long to wait for another writer.
    temperature: of sampling; 0 is greedy.
    on_session: called with (session, what was changed) after each commit.

  Returns:
    How many sessions were read.

  Raises:
    ValueError: the agent keeps no bank; a session was read before with another
      text; another process holds the bank; the bank is another agent's.
  """
  check_agent(run)
  sessions = conversation_lib.read_sessions(conversation, _newline(run))
  encoder, store = _encoder(run), open_store(path)
  name = pathlib.Path(conversation).stem
  count = 0
  with store.writer(timeout_s):
    store.claim(_meta(run, policies))
    known = {
      row["session"]: row["digest"]
      for _, row in store.log()
      if row["op"] == "session"
    }
    for session, stamp, text in sessions:
      key = f"{name}/{session}"
      digest = hashlib.sha256(f"{stamp}\n{text}".encode()).hexdigest()
      if key in known:
        if known[key] != digest:
          raise ValueError(
            f"{path} has read session {key} with another text: give messages "
            "that came later a session of their own"
          )
        continue
      number = len(store.sessions())
      before = store.entries()
      bank = to_bank(run, before, store.next_id())
      bank, calls = _read_session(
        run, policies, bank, key, number, stamp, text, temperature
      )
      after = _embed(encoder, before, from_bank(run, bank))
      rows = _changes(before, after)
      head = {"op": "session", "session": key, "digest": digest, **calls}
      store.commit(key, after, [head, *rows], next_id=int(bank.next_id[0]))
      count += 1
      if on_session:
        on_session(key, rows)
  return count


def _read_session(
  run, policies, bank, key, number, stamp, text, temperature
) -> tuple[bank_lib.Bank, dict[str, int]]:
  """The bank after a session, and how many calls were malformed."""
  agent = dataclasses.replace(run.agent, questions=1)
  example = example_lib.Example(
    int(hashlib.sha256(key.encode()).hexdigest()[:7], 16),
    _newline(run),  # not looked at: the bank serves any question
    (text,),
    (),
    stamps=(stamp,) if stamp else (),
  )
  task = tasks.make_task([example], run.tokenizer, agent)
  key_B = agents.row_keys(jax.random.key(run.config.seed), task)
  calls = {"calls": 0, "malformed": 0}
  for c in range(task.chunks.length.shape[0]):
    turn = tasks.turn_at(task, c)
    turn = dataclasses.replace(turn, session=np.array([number], np.int32))
    bank, segments = agents.read_jit(
      policies, agent, bank, turn, key_B, temperature
    )
    for segment in segments.values():
      calls["calls"] += int(segment.active.sum())
      calls["malformed"] += int(segment.malformed.sum())
  return bank, calls


def _newline(run: build.Run) -> str:
  return prompts.BANK_STYLES[run.config.agent.style]["newline"]


def _changes(
  before: Sequence[store_lib.Entry], after: Sequence[store_lib.Entry]
) -> list[dict[str, Any]]:
  """What a session did to the bank, one row for each entry."""
  old = {entry.id: entry.text for entry in before}
  new = {entry.id: entry.text for entry in after}
  rows = []
  for i in sorted(old.keys() | new.keys()):
    if i not in old:
      rows.append({"op": "add", "id": i, "text": new[i]})
    elif i not in new:
      rows.append({"op": "delete", "id": i, "old": old[i]})
    elif old[i] != new[i]:
      rows.append({"op": "update", "id": i, "old": old[i], "text": new[i]})
  return rows


@dataclasses.dataclass(frozen=True)
class Answer:
  """What `ask` found.

  Attributes:
    text: the answer.
    used: the entries that the policy says it used.
    listed: the entries that it was shown, best first.
  """

  text: str
  used: list[store_lib.Entry]
  listed: list[store_lib.Entry]


def ask(
  run: build.Run,
  policies: agents.Policies,
  path: str | os.PathLike,
  question: str,
  *,
  temperature: float = 0.0,
) -> Answer:
  """Answers a question from a bank on disk; writers are not waited for.

  Raises:
    ValueError: there is no such bank, it is another agent's, or the question is
      empty or too long.
  """
  check_agent(run)
  if "://" not in str(path) and not pathlib.Path(path).exists():
    raise ValueError(f"--bank={path}: no such file; make it with --mode=ingest")
  store = open_store(path)
  store_lib.check_meta(
    {k: json.dumps(v, sort_keys=True) for k, v in store.describe().items()},
    _meta(run, policies),
    path,
  )
  entries, agent = store.entries(), dataclasses.replace(run.agent, questions=1)
  encoder = _encoder(run)
  if encoder is not None and entries:
    # The store has the search; the agent is shown what it found, in that order.
    vector = minilm.encode(encoder, [question])[0]
    ids, _ = store.search(vector, agent.retriever.fetched)
    by_id = {entry.id: entry for entry in entries}
    entries = [by_id[i] for i in ids.tolist()]
    given = dataclasses.replace(agent.retriever, first="given", reranks=False)
    agent = dataclasses.replace(agent, retriever=given)
  bank = to_bank(run, entries, store.next_id())
  example = example_lib.Example(
    zlib.crc32(question.encode()) & 0x7FFFFFFF, question, "", ()
  )
  task = tasks.make_task([example], run.tokenizer, agent)
  key_N = agents.row_keys(jax.random.key(run.config.seed), task)
  segment = agents.answer_jit(
    policies, agent, bank, task.query, key_N, temperature
  )["answer"]
  by_id = {entry.id: entry for entry in entries}
  listed, used = np.asarray(segment.listed[0]), np.asarray(segment.used[0])
  return Answer(
    run.tokenizer.decode(token_lib.to_lists(segment.result)[0]).strip(),
    [by_id[i] for i in listed[used].tolist()],
    [by_id[i] for i in listed[listed >= 0].tolist()],
  )
