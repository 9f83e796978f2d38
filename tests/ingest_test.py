"""Banks that last: what was read survives, and is read once."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import minilm_test
import numpy as np
import pytest

from memjax import build
from memjax import hf
from memjax import ingest
from memjax import minilm
from memjax import qwen3
from memjax import sqlite_store
from memjax import tokenizer as tokenizer_lib
from memjax.envs import homes

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  """A random model that sometimes keeps to the grammar."""
  path = tmp_path_factory.mktemp("model")
  tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  cfg = qwen3.Config(320, 16, 1, 2, 1, 8, 32, scan_layers=False)
  hf.save(path, cfg, qwen3.init(jax.random.key(1), cfg))
  tokenizer.save(path)
  return path


def _config(model):
  # configs/ is no package.
  scope = {}
  exec((_ROOT / "configs/memory_r1_tiny.py").read_text(), scope)
  config = scope["get_config"]()
  config.model.path = str(model)
  # Every line is an entry: what is kept does not hang on a random model.
  config.agent.extractor = "turns"
  config.agent.updater = "append"
  config.agent.entry_tokens = 4
  config.agent.entries = 8
  config.agent.full = "evict"
  return config


@pytest.fixture(scope="module")
def run(model):
  return build.make(_config(model), needs_data=False)


@pytest.fixture(scope="module")
def policies(run):
  return run.policies(run.load_params())


def _write(path, sessions):
  messages = [
    {"role": "A:", "content": text, "timestamp": f"s{i + 1}", "session": i}
    for i, texts in enumerate(sessions)
    for text in texts
  ]
  # A speaker's colon is part of the word here.
  for message in messages:
    message["role"] = "A"
  path.write_text(json.dumps(messages))
  return path


def _sessions(count):
  return [[f"{homes.NAMES[i % 8]}=bern"] for i in range(count)]


def test_reads_once_and_asks(run, policies, tmp_path):
  file = _write(tmp_path / "talk.json", _sessions(3))
  bank = tmp_path / "bank.db"
  seen = []
  count = ingest.ingest(
    run, policies, bank, file, on_session=lambda *x: seen.append(x)
  )
  assert count == 3 and [name for name, _ in seen] == [
    "talk/0",
    "talk/1",
    "talk/2",
  ]
  # The line's end stays with it, and its session's stamp before it.
  texts = [e.text for e in sqlite_store.SqliteStore(bank).entries()]
  assert [text.split()[:3] for text in texts] == [
    ["s1", "A:", "ada=bern"],
    ["s2", "A:", "bob=bern"],
    ["s3", "A:", "cat=bern"],
  ]
  assert ingest.ingest(run, policies, bank, file) == 0
  found = ingest.ask(run, policies, bank, "bob?")
  assert found.listed[0].text.split()[2] == "bob=bern"
  assert {e.id for e in found.used} <= {e.id for e in found.listed}


def test_a_session_with_another_text_is_refused(run, policies, tmp_path):
  bank = tmp_path / "bank.db"
  file = _write(tmp_path / "talk.json", _sessions(2))
  ingest.ingest(run, policies, bank, file)
  before = sqlite_store.SqliteStore(bank).entries()
  _write(file, [["hal=rome"], ["bob=bern"]])
  with pytest.raises(ValueError, match="talk/0 with another text"):
    ingest.ingest(run, policies, bank, file)
  assert sqlite_store.SqliteStore(bank).entries() == before


def test_another_agent_is_refused(run, policies, model, tmp_path):
  bank = tmp_path / "bank.db"
  file = _write(tmp_path / "talk.json", _sessions(1))
  ingest.ingest(run, policies, bank, file)
  config = _config(model)
  config.agent.entries = 9
  other = build.make(config, needs_data=False)
  for call in (
    lambda: ingest.ingest(other, policies, bank, file),
    lambda: ingest.ask(other, policies, bank, "bob?"),
  ):
    with pytest.raises(ValueError, match="entries"):
      call()


def test_no_bank_to_ask(run, policies, tmp_path):
  with pytest.raises(ValueError, match="--mode=ingest"):
    ingest.ask(run, policies, tmp_path / "none.db", "bob?")


def test_ids_are_not_used_again(run, policies, tmp_path):
  """Ten additions to eight slots: the first two give way, for good."""
  bank = tmp_path / "bank.db"
  file = _write(tmp_path / "talk.json", _sessions(10))
  ingest.ingest(run, policies, bank, file)
  entries = sqlite_store.SqliteStore(bank).entries()
  assert [entry.id for entry in entries] == list(range(2, 10))
  _write(file, _sessions(11))
  assert ingest.ingest(run, policies, bank, file) == 1
  entries = sqlite_store.SqliteStore(bank).entries()
  assert [entry.id for entry in entries] == list(range(3, 11))


@pytest.mark.parametrize("name", ["bank.db", "bank.lance"])
def test_a_sentence_encoder_searches_the_store(model, tmp_path, name):
  if name.endswith(".lance"):
    pytest.importorskip("lancedb")
  config = _config(model)
  config.agent.encoder = str(minilm_test.save(tmp_path / "encoder"))
  config.agent.retrieved = 2
  run = build.make(config, needs_data=False)
  bank = tmp_path / name
  file = _write(tmp_path / "talk.json", _sessions(5))
  ingest.ingest(run, run.policies(run.load_params()), bank, file)
  entries = ingest.open_store(bank).entries()
  encoder = minilm.load(config.agent.encoder)
  vectors = minilm.encode(encoder, [entry.text for entry in entries])
  for entry, vector in zip(entries, vectors):
    np.testing.assert_allclose(entry.embedding, vector, atol=1e-6)
  found = ingest.ask(run, run.policies(run.load_params()), bank, "bob?")
  score = vectors @ minilm.encode(encoder, ["bob?"])[0]
  best = sorted(entries, key=lambda e: -score[entries.index(e)])[:2]
  assert [e.id for e in found.listed] == [e.id for e in best]
  # A bank without the encoder is another one.
  plain = build.make(_config(model), needs_data=False)
  with pytest.raises(ValueError, match="encoder"):
    ingest.ask(plain, plain.policies(run.load_params()), bank, "bob?")


def _command(model, bank, file):
  config = _config(model)
  keys = ("extractor", "updater", "entry_tokens", "entries", "full")
  return [
    sys.executable,
    "-m",
    "memjax.main",
    "--config=configs/memory_r1_tiny.py",
    f"--config.model.path={model}",
    *(f"--config.agent.{key}={config.agent[key]}" for key in keys),
    "--mode=ingest",
    "--checkpoint=base",
    f"--workdir={bank.parent}",
    f"--bank={bank}",
    f"--conversation={file}",
  ]


def test_killed_in_the_middle(run, policies, model, tmp_path):
  """kill -9 after some sessions; the next process goes on behind them."""
  file = _write(tmp_path / "talk.json", _sessions(30))
  whole = tmp_path / "whole.db"
  ingest.ingest(run, policies, whole, file)
  bank = tmp_path / "bank.db"
  env = {**os.environ, "PYTHONUNBUFFERED": "1"}
  process = subprocess.Popen(
    _command(model, bank, file),
    cwd=_ROOT,
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    text=True,
  )
  told = 0
  for line in process.stdout:
    told += line.startswith("[session")
    if told == 5:
      process.send_signal(signal.SIGKILL)
      break
  process.wait()
  survived = sqlite_store.SqliteStore(bank).sessions()
  assert 5 <= len(survived) < 30
  done = subprocess.run(
    _command(model, bank, file),
    cwd=_ROOT,
    env=env,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert f"{30 - len(survived)} new sessions" in done.stdout
  store = sqlite_store.SqliteStore(bank)
  assert store.entries() == sqlite_store.SqliteStore(whole).entries()
  store.integrity()
