"""What main can do beside training."""

import os
import pathlib
import sys
from typing import Any

import jax
import optax
from absl import logging

from memjax import agents
from memjax import build
from memjax import checkpoint
from memjax import controls as controls_lib
from memjax import evaluate as evaluate_lib
from memjax import hf
from memjax import hosts
from memjax import ingest as ingest_lib
from memjax import lora
from memjax import qwen3
from memjax import reader
from memjax import report
from memjax import reranker
from memjax import run_folder
from memjax import scores
from memjax import sharding
from memjax import supervised


def load(
  run: build.Run, workdir: str | os.PathLike, which: str
) -> tuple[agents.Policies, str]:
  """What samples as a workdir's "last" or "best" checkpoint, or "base".

  Returns:
    (parameters in the dtype that the model computes in, adapters beside the
    matrices; where they come from, for people).
  """
  found, source = _restore(run, workdir, which)
  if run.adapters or not found:
    parts = run.load_params(), found.get("policy")
  else:
    parts = found["policy"], None
  return run.policies(*parts, found.get("reranker")), source


def _restore(
  run: build.Run, workdir: str | os.PathLike, which: str
) -> tuple[dict[str, Any], str]:
  """(what was trained, nothing of "base", and where it comes from)."""
  if which == "base":
    return {}, run.config.model.path
  found, _ = checkpoint.restore_params(workdir, run.abstract_state(), which)
  source = f"{workdir}/{checkpoint.FOLDERS[which]}"
  if which == "best":
    # Its score there is too high: it is the best of several.
    source += " (chosen by questions of the first set)"
  return found, source


def evaluate(run: build.Run, workdir: str | os.PathLike, which: str) -> None:
  """Prints one policy's table; writes workdir/eval_<which>.json and a page."""
  if run.judged:
    logging.info("judge: %s", run.judged.checked.identity)
  policies, source = load(run, workdir, which)
  logging.info("%s", scores.plan(run.env.eval_sets()))
  found = evaluate_lib.suite(run, policies)
  controls, rules, by_control = controls_lib.evaluate_all(run, policies)
  side = "base" if which == "base" else "trained"
  groups = run.env.groups() if hasattr(run.env, "groups") else {}
  for cells in (found["sets"], found["verified"], *controls.values()):
    cells |= scores.averages(cells, groups)
  summary = {
    "config": f"{run.config.name}, {source}",
    "seed": run.config.seed,
    "metric": found["metric"],
    "data": run.config.data.to_dict(),
    side: found["sets"],
    "controls": controls,
    "breakdown": {which: found["breakdown"], **rules},
    "recall": {which: found["recall"]},
    "data_sha256": found["data_sha256"],
    "files": found["files"],
    "memory_gain": scores.memory_gains(
      found["scores"], by_control, found["documents"]
    ),
    "health": {which: found["health"]},
  }
  if len(run.config.published):
    summary["published"] = run.config.published.to_dict()
  if run.judged:
    summary["judge"] = run.judged.summary(
      {side: found["sets"], **controls},
      {side: found["verified"]},
      {side: found["scores"], **by_control},
    )
  if "x1" in found["sets"]:
    summary["train_chunks"] = run.config.agent.max_chunks
  if not hosts.first():
    return
  path = pathlib.Path(workdir) / f"eval_{which}.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  by_question = {x: found[x] for x in ("scores", "documents", "traces")}
  by_question["control_scores"] = by_control
  run_folder.write_json(path, {**summary, **by_question})
  side = "before" if which == "base" else "after"
  rollouts = [{**x, side: x["rollout"]} for x in found["traces"]]
  # The report of a run that was trained here stays.
  trained = (path.parent / "summary.json").exists()
  name = f"{path.stem}.html" if trained else "report.html"
  page = report.write_html(path.parent, summary, [], rollouts, name)
  report.print_table(summary)
  print(f"{path} holds the numbers and some rollouts, {page} shows them.")


def read(
  run: build.Run,
  workdir: str | os.PathLike,
  which: str,
  text: str | None,
  question: str | None,
) -> None:
  """Reads a text file; prints the memory after each chunk, and the answer.

  Raises:
    ValueError: no question, no such file, or it is not UTF-8 text.
  """
  if not text or not question:
    raise ValueError(
      "--mode=read needs --text=FILE (or - for stdin) and --question=..."
    )
  try:
    content = (
      sys.stdin.read()
      if text == "-"
      else pathlib.Path(text).read_text(encoding="utf-8")
    )
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"--text={text}: not readable as UTF-8 ({error})"
    ) from error
  policies, source = load(run, workdir, which)
  print(f"reading with {source}")
  answer, _ = reader.Reader(policies, run.agent, run.tokenizer).read(
    content,
    question,
    lambda chunk, count, memory: print(
      f"[chunk {chunk}/{count}] {memory}", flush=True
    ),
  )
  print(f"answer: {answer}")


def ingest(
  run: build.Run,
  workdir: str | os.PathLike,
  which: str,
  bank: str | None,
  conversation: str | None,
) -> None:
  """Reads a conversation into a bank on disk, session by session.

  Raises:
    ValueError: a flag is missing; or see `ingest.ingest`.
  """
  if not bank or not conversation:
    raise ValueError("--mode=ingest needs --bank=FILE and --conversation=FILE")
  ingest_lib.check_agent(run)
  policies, source = load(run, workdir, which)
  print(f"reading {conversation} into {bank} with {source}")

  def show(session, rows):
    print(f"[session {session}]", flush=True)
    for row in rows or [{"op": "nothing changed"}]:
      number = f" {row['id']}" if "id" in row else ""
      old = f" (was: {row['old']})" if "old" in row else ""
      print(f"  {row['op']}{number} {row.get('text', '')}{old}", flush=True)

  count = ingest_lib.ingest(run, policies, bank, conversation, on_session=show)
  print(f"{count} new sessions are in {bank}")


def ask(
  run: build.Run,
  workdir: str | os.PathLike,
  which: str,
  bank: str | None,
  question: str | None,
) -> None:
  """Answers a question from a bank on disk, with the entries it used.

  Raises:
    ValueError: a flag is missing; or see `ingest.ask`.
  """
  if not bank or not question:
    raise ValueError("--mode=ask needs --bank=FILE and --question=...")
  ingest_lib.check_agent(run)
  policies, _ = load(run, workdir, which)
  found = ingest_lib.ask(run, policies, bank, question)
  for entry in found.listed:
    mark = "*" if entry in found.used else " "
    print(f"{mark} [{entry.id}] {entry.text}")
  print(f"answer: {found.text}   (* entries it used)")


def export(
  run: build.Run, workdir: str | os.PathLike, which: str, out: str | None
) -> None:
  """Writes a Hugging Face directory that transformers loads.

  A trained reranker is written into it, a trained encoder beneath it.

  Raises:
    ValueError: no --out, or it holds something already.
  """
  if not out:
    raise ValueError("--mode=export needs --out=DIR")
  found, source = _restore(run, workdir, which)
  hf.save(out, run.model, _merged(run, found))
  run.tokenizer.save(out)
  trained = run.trainer and run.retrieval(found.get("reranker"))
  if run.trainer and run.trainer.tunes == "map":
    reranker.save(out, trained.reranker)
  elif run.trainer:
    embedder = pathlib.Path(out) / "embedder"
    hf.save(embedder, run.trainer.retriever.embedder, trained.embedder)
    run.tokenizer.save(embedder)
  print(f"{source} is now in {out}")
  if run.trainer:
    key = "reranker.path" if run.trainer.tunes == "map" else "agent.embedder"
    place = out if run.trainer.tunes == "map" else embedder
    print(f"what finds entries: --config.{key}={place}")


def _merged(run: build.Run, found: dict[str, Any]) -> qwen3.Params:
  """The policy in float32, in which adapters keep their smaller changes."""
  if not found:
    return run.load_masters()
  if not run.adapters:
    return found["policy"]
  return lora.merge(run.load_masters(), found["policy"], run.adapters)


def sft(run: build.Run, out: str | None) -> None:
  """Trains on config.sft.path and writes a Hugging Face directory.

  Raises:
    ValueError: no --out, no pairs, or a malformed one; a batch that the mesh
      does not divide.
    FloatingPointError: a loss was not finite.
  """
  cfg = run.config.sft
  if not out or not cfg.path:
    raise ValueError("--mode=sft needs --config.sft.path=JSONL and --out=DIR")
  if run.adapters:
    raise ValueError(
      f"config.lora.rank={run.adapters.rank} with --mode=sft: a warm start "
      "trains all parameters; leave it at 0, and train adapters of what it "
      "writes"
    )
  sharding.check_sizes(
    run.mesh, {"config.sft.batch_size": (cfg.batch_size, "batch")}
  )
  pairs = supervised.load_pairs(
    cfg.path, run.tokenizer, run.config.agent.thinking
  )
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, cfg.learning_rate, max(1, cfg.steps // 20), cfg.steps
  )
  params = supervised.fit(
    run.load_params(),
    run.model,
    [pairs],
    tx=optax.chain(
      optax.clip_by_global_norm(run.config.train.grad_clip),
      optax.adamw(schedule),
    ),
    steps=cfg.steps,
    batch_size=cfg.batch_size,
    seed=run.config.seed,
    on_step=lambda step, losses: print(
      f"step {step}/{cfg.steps}  loss {losses[0]:.4f} nats/token", flush=True
    ),
  )
  hf.save(out, run.model, jax.device_get(params))
  run.tokenizer.save(out)
  print(f"wrote {out}: name it as --config.model.path to train from it")
