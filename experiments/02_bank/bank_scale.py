"""How a bank scales: exact search in SQLite's store against LanceDB.

  python experiments/02_bank/bank_scale.py --sizes=1000,10000,100000 \
    --out=bank_scale.json

Entries are unit vectors of 384 numbers around centres that are drawn on the
sphere, 100 entries to a centre: neighbours mean something, as they do not among
independent random vectors. Queries are drawn around the same centres and stand
in no bank. Recall@10 counts an approximate hit if its cosine is no lower than
the tenth exact one. Latency is of one query at a time by the store's `search`,
after five that do not count; build is the index, load the first search after
opening (SQLite's store reads its matrix). Commit is the sum of the sessions
that write the entries, each with at most 10^5 new ones: a store copies what is
new, and such copies of 10^6 entries take several times their size. A session is
compared with all that is there already, so the sum is not linear in E.
Of each size every store runs in a process of its own, so that its peak memory
is its own; it includes the script's copy of the vectors and the entries, in
bytes 1,536 E and about 1,000 E.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

WIDTH = 384
PER_CENTRE = 100
NOISE = 0.8  # length of the noise beside the centre's 1: cosine about .6
K = 10
WARM = 5
COMMIT = 100_000  # new entries of a session

# One row each: (name, settings of the index, settings of the search).
LANCE = {
  "lance flat": (None, {}),
  "lance IVF_PQ": (
    {"kind": "IvfPq", "num_sub_vectors": 48},
    {"nprobes": 20, "refine_factor": 10},
  ),
  "lance IVF_PQ, no refine": (
    {"kind": "IvfPq", "num_sub_vectors": 48},
    {"nprobes": 20},
  ),
  "lance IVF_HNSW_SQ": (
    {"kind": "HnswSq", "num_partitions": 1},
    {"nprobes": 1, "refine_factor": 2},
  ),
}
STORES = ("sqlite exact", *LANCE)


def vectors(E: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Entries [E, D] and queries [Q, D], float32 unit vectors."""
  rng = np.random.default_rng(seed)
  normal = lambda n: rng.standard_normal((n, WIDTH), dtype=np.float32)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  centre_CD = unit(normal(max(E // PER_CENTRE, 1)))
  out_ED = np.empty((E + queries, WIDTH), np.float32)
  for start in range(0, E + queries, 10_000):  # a copy of 1e6 is 1.5 GB
    part = out_ED[start : start + 10_000]
    centre = centre_CD[rng.integers(len(centre_CD), size=len(part))]
    part[...] = unit(centre + NOISE * normal(len(part)) / WIDTH**0.5)
  return out_ED[:E], out_ED[E:]


def exact_cosines(entry_ED: np.ndarray, query_QD: np.ndarray) -> np.ndarray:
  """The K largest cosines of each query, by a float32 product: [Q, K]."""
  best_QK = []
  for query_qD in np.array_split(query_QD, -(-len(query_QD) // 16)):
    score_qE = query_qD @ entry_ED.T
    top = np.partition(score_qE, -K, axis=1)[:, -K:]
    best_QK.append(np.sort(top, axis=1)[:, ::-1])
  return np.concatenate(best_QK)


def disk_bytes(folder: str) -> int:
  """What the files of a folder take."""
  files = pathlib.Path(folder).rglob("*")
  return sum(file.stat().st_size for file in files if file.is_file())


def timed(function, *args, **kwargs):
  """(seconds, result)."""
  start = time.perf_counter()
  result = function(*args, **kwargs)
  return time.perf_counter() - start, result


def commit_all(bank, entries: list) -> None:
  """Writes the entries, in sessions of at most COMMIT new ones."""
  for start in range(0, len(entries), COMMIT):
    known = entries[: start + COMMIT]  # the whole bank after the session
    log = [{"op": "add", "n": len(known) - start}]
    bank.commit(f"from {start}", known, log)


def measure(name: str, E: int, args: argparse.Namespace) -> dict:
  """One row of the table; the store lies in args.folder."""
  from memjax import lance_store
  from memjax import sqlite_store
  from memjax import store

  entry_ED, query_QD = vectors(E, args.queries + WARM, args.seed)
  path = f"{args.folder}/bank"
  index, search = LANCE.get(name, (None, {}))
  if index is not None:
    index = {**index, **json.loads(args.index)}
    search = {"exact": False, **search, **json.loads(args.search)}
  open_bank = sqlite_store.SqliteStore
  if name in LANCE:
    open_bank = lance_store.LanceStore
  bank = open_bank(path)
  entries = [
    store.Entry(i, f"entry {i}", (i,), 0, 0, f"s{i % 10}", entry_ED[i])
    for i in range(E)
  ]
  with bank.writer():
    commit_s, _ = timed(commit_all, bank, entries)
    del entries
    build_s = 0.0
    if index is not None:
      build_s, _ = timed(bank.build_index, **index)
  bank.close()
  bank = open_bank(path)
  load_s, _ = timed(bank.search, query_QD[0], K, **search)
  times, score_QK = [], []
  for q, query_D in enumerate(query_QD):
    seconds, (_, score_K) = timed(bank.search, query_D, K, **search)
    if q >= WARM:
      times.append(seconds)
      score_QK.append(score_K)
  where = store.Where(source="s3")
  filtered = [
    timed(bank.search, query_D, K, where, **search)[0]
    for query_D in query_QD[WARM:]
  ]
  # A float32 product orders equal entries by chance, a hit of 1e-6 less is one.
  tenth_Q = exact_cosines(entry_ED, query_QD[WARM:])[:, -1]
  hit_QK = np.stack(score_QK) >= tenth_Q[:, None] - 1e-6
  return {
    "store": name,
    "entries": E,
    "recall": float(hit_QK.mean()),
    "p50_ms": 1e3 * float(np.quantile(times, 0.5)),
    "p95_ms": 1e3 * float(np.quantile(times, 0.95)),
    "filtered_p50_ms": 1e3 * float(np.quantile(filtered, 0.5)),
    "queries": len(times),
    "commit_s": commit_s,
    "build_s": build_s,
    "load_s": load_s,
    "disk_mb": disk_bytes(args.folder) / 1e6,
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    "index": index,
    "search": search,
  }


def table(rows: list[dict]) -> str:
  """The rows as markdown."""
  lines = [
    "| entries | store | recall@10 | p50 ms | p95 ms | filtered p50 ms | n |"
    " commit s | index s | load s | disk MB | peak MB |",
    "|" + "---|" * 12,
  ]
  for row in rows:
    if "error" in row:
      lines.append(
        f"| {row['entries']:,} | {row['store']} | {row['error']} |" + " |" * 9
      )
      continue
    lines.append(
      "| {entries:,} | {store} | {recall:.3f} | {p50_ms:.2f} | {p95_ms:.2f} | "
      "{filtered_p50_ms:.2f} | {queries} | {commit_s:.2f} | {build_s:.2f} | "
      "{load_s:.2f} | {disk_mb:.1f} | {peak_mb:.0f} |".format(**row)
    )
  return "\n".join(lines)


def _run(name: str, E: int, args: argparse.Namespace) -> dict:
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    done = subprocess.run(
      [sys.executable, __file__, f"--one={name}", f"--sizes={E}"]
      + [f"--queries={args.queries}", f"--seed={args.seed}"]
      + [f"--folder={folder}", f"--index={args.index}"]
      + [f"--search={args.search}"],
      capture_output=True,
      text=True,
    )
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  lines = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
  return {"store": name, "entries": E, "error": lines[-1]}


def main() -> None:
  """Runs each store at each size, prints the table and writes JSON."""
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--sizes", default="1000,10000,100000")
  parser.add_argument("--stores", default=";".join(STORES))
  parser.add_argument(
    "--index", default="{}", help="JSON: settings of the index beside the row's"
  )
  parser.add_argument(
    "--search", default="{}", help="JSON: likewise of the search by an index"
  )
  parser.add_argument("--queries", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--folder", help="where the banks lie; default: /tmp")
  parser.add_argument("--out", help="JSON file of the rows")
  parser.add_argument("--one", help=argparse.SUPPRESS)
  args = parser.parse_args()
  sizes = [int(size) for size in args.sizes.split(",")]
  if args.one:
    print(json.dumps(measure(args.one, sizes[0], args)))
    return
  names = args.stores.split(";")
  if unknown := set(names) - set(STORES):
    raise SystemExit(f"--stores: {unknown} are unknown, choose of {STORES}")
  rows = []
  for E in sizes:
    for name in names:
      rows.append(_run(name, E, args))
      print(json.dumps(rows[-1]), flush=True)
      if args.out:
        report = {"cores": len(os.sched_getaffinity(0)), "rows": rows}
        pathlib.Path(args.out).write_text(json.dumps(report, indent=1))
  print(table(rows))


if __name__ == "__main__":
  main()
