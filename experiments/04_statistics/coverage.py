"""Which intervals keep their 95 %: the simulations behind memjax/stats.py.

  python experiments/04_statistics/coverage.py --part=means
  python experiments/04_statistics/coverage.py --part=differences
  python experiments/04_statistics/coverage.py --part=seeds
  python experiments/04_statistics/coverage.py --part=gains

Each prints the table of README.md that bears its name, in minutes on one core.
Scores of 0 and 1 are drawn so that the truth is known; a cell is
the share, in per cent, of repetitions whose interval holds it.

  means        questions of a document are right with a probability of its own,
               beta with mean p and intra-cluster correlation c (beta-binomial)
  differences  an answer is right where a normal variable is below the p
               quantile: the sum of parts of the document, of the document and
               the system, of the question, and of the answer
  seeds        as differences, with a part of the seed and the system more
  gains        as differences, of three systems

Dimension key: R repetitions, N questions, G documents, S seeds.
"""

import argparse
import itertools
import math
from collections.abc import Iterator

import numpy as np
import scipy.stats

from memjax import significance
from memjax import stats
from memjax import stats_seeds

# Questions of each test conversation of LoCoMo, as Memory-R1 divides it.
LOCOMO = (152, 199, 178, 123, 150, 191, 156, 158)
BOOTSTRAPS = 499


def documents_of(size_G: np.ndarray) -> np.ndarray:
  """The document of each question."""
  return np.repeat(np.arange(len(size_G)), size_G)


def bootstraps(
  right_RG: np.ndarray, size_G: np.ndarray, rng: np.random.Generator
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Percentile and studentised bootstrap of documents."""
  G = len(size_G)
  times_BG = rng.multinomial(G, np.full(G, 1 / G), BOOTSTRAPS).astype(float)
  n_B = times_BG @ size_G
  mean_RB = right_RG @ times_BG.T / n_B
  mean_R = right_RG.sum(axis=1) / size_G.sum()
  squares_RB = (
    right_RG**2 @ times_BG.T
    - 2 * mean_RB * ((right_RG * size_G) @ times_BG.T)
    + mean_RB**2 * (times_BG @ size_G**2)
  )
  error_RB = np.sqrt(np.maximum(squares_RB, 0) * G / (G - 1)) / n_B
  e_RG = right_RG - mean_R[:, None] * size_G
  error_R = np.sqrt((e_RG**2).sum(axis=1) * G / (G - 1)) / size_G.sum()
  with np.errstate(all="ignore"):
    t_RB = (mean_RB - mean_R[:, None]) / error_RB
  t_RB[~np.isfinite(t_RB)] = 0.0
  low_R, high_R = np.quantile(t_RB, [0.025, 0.975], axis=1)
  return {
    "percentile": tuple(np.quantile(mean_RB, [0.025, 0.975], axis=1)),
    "bootstrap-t": (mean_R - high_R * error_R, mean_R - low_R * error_R),
  }


def means(repetitions: int, rng: np.random.Generator) -> Iterator[list[str]]:
  """Coverage of the interval of one mean."""
  names = ("memjax", "Wilson, n", "t", "percentile", "bootstrap-t")
  shares = (0.02, 0.1, 0.5)
  head = ["documents", "questions each", "c"]
  head += [f"{name}: p = .02, .1, .5" for name in names]
  sizes = [(G, 1) for G in (50, 200, 2048)]
  sizes += [(12, 4), (50, 4), (512, 4), (10, 20), (50, 20), (102, 20)]
  sizes += [(10, 150), (8, LOCOMO)]
  yield head
  for G, each in sizes:
    size_G = np.broadcast_to(np.array(each), (G,))
    for c in (0.0,) if size_G.max() == 1 else (0.0, 0.05, 0.2, 0.8):
      kept = {name: [] for name in names}
      for p in shares:
        shape, scale = (repetitions, G), (1 - c) / c if c else 0.0
        chance = (
          rng.beta(p * scale, (1 - p) * scale, shape)
          if c
          else np.full(shape, p)
        )
        right_RG = rng.binomial(size_G, chance).astype(float)
        ends = one_mean(right_RG, size_G, rng)
        for name, (low, high) in ends.items():
          kept[name].append(100 * np.mean((low <= p) & (p <= high)))
      label = "LoCoMo" if isinstance(each, tuple) else str(each)
      cells = [" ".join(f"{x:.1f}" for x in kept[name]) for name in names]
      yield [str(G), label, f"{c:g}", *cells]


def one_mean(right_RG, size_G, rng) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Both ends of every interval, of each repetition."""
  document_N = documents_of(size_G)
  n, t = size_G.sum(), scipy.stats.t.ppf(0.975, len(size_G) - 1)
  found = {"memjax": [], "Wilson, n": [], "t": []}
  for right_G in right_RG.astype(int):
    score_N = np.concatenate(
      [np.arange(size) < right for size, right in zip(size_G, right_G)]
    ).astype(float)
    mean = stats.mean(score_N, document_N)
    found["memjax"].append((mean.low, mean.high))
    found["Wilson, n"].append(stats.wilson(right_G.sum(), n))
    documents = stats.documents(document_N, n)
    half = t * math.sqrt(documents.products(score_N, score_N)) / n
    found["t"].append((mean.value - half, mean.value + half))
  ends = {name: tuple(np.array(x).T) for name, x in found.items()}
  fewer = right_RG[:400]  # bootstraps cost more
  return ends | bootstraps(fewer, size_G, rng)


def answers(
  rng: np.random.Generator,
  p: list[list[float]],
  size_G: np.ndarray,
  seeds: int = 1,
  parts: tuple[float, float, float] = (0.1, 0.05, 0.4),
) -> np.ndarray:
  """Scores of systems [A, S, N] with probabilities p [A][S].

  parts: shares of the variance that documents, documents of a system and
  questions have; what is left is of each answer alone.
  """
  p_AS = np.asarray(p, float)
  document_N, N = documents_of(size_G), size_G.sum()
  doc, own, question = np.sqrt(parts)
  shape = (len(p_AS), seeds)
  z_ASN = (
    doc * rng.normal(size=len(size_G))[document_N]
    + own * rng.normal(size=(len(p_AS), 1, len(size_G)))[:, :, document_N]
    + question * rng.normal(size=N)
    + math.sqrt(1 - sum(parts)) * rng.normal(size=(*shape, N))
  )
  return (z_ASN < scipy.stats.norm.ppf(p_AS)[:, :, None]).astype(float)


def differences(
  repetitions: int, rng: np.random.Generator
) -> Iterator[list[str]]:
  """Coverage of paired differences, and how often none is called one."""
  cases = [(0.02, 0.0), (0.1, 0.0), (0.5, 0.0), (0.5, 0.1), (0.9, 0.05)]
  head = ["documents", "questions each", "document x system"]
  yield head + [f"p = {p:g}, true {effect:+g}" for p, effect in cases]
  for G, each, own in (
    (50, 1, 0.0),
    (200, 1, 0.0),
    (2048, 1, 0.0),
    (50, 4, 0.0),
    (50, 4, 0.1),
    (10, 20, 0.0),
    (10, 20, 0.1),
    (10, 150, 0.02),
    (8, LOCOMO, 0.02),
    (6, 30, 0.05),
  ):
    size_G = np.broadcast_to(np.array(each), (G,))
    document_N, cells = documents_of(size_G), []
    for p, effect in cases:
      kept = called = plain = 0
      for _ in range(repetitions):
        one, other = answers(
          rng, [[p + effect], [p]], size_G, parts=(0.1, own, 0.4)
        )[:, 0]
        found = stats.difference(one, other, document_N)
        kept += found.low <= effect <= found.high
        verdict = significance.verdict(found.low, found.high, found.p)
        called += verdict != "not told apart"
        plain += significance.mcnemar(one, other) <= 0.05
      cells.append(
        f"{100 * kept / repetitions:.1f} ({100 * called / repetitions:.1f}, "
        f"{100 * plain / repetitions:.1f})"
      )
    label = "LoCoMo" if isinstance(each, tuple) else str(each)
    yield [str(G), label, f"{own:g}", *cells]


def seeds(
  repetitions: int, rng: np.random.Generator, counts: tuple[int, ...]
) -> Iterator[list[str]]:
  """Coverage of differences over seeds and questions."""
  head = ["seeds", "documents", "questions each", "spread of seeds"]
  yield head + ["unpaired", "paired", "own questions", "seeds left out"]
  for S in counts:
    for G, each in ((200, 1), (10, 20), (50, 20)):
      size_G = np.full(G, each)
      document_N = documents_of(size_G)
      for spread in (0.0, 0.02, 0.05):
        kept = np.zeros(4)
        for _ in range(repetitions):
          p_AS = 0.6 + spread * rng.normal(size=(2, S))
          one, other = answers(rng, p_AS.clip(0.01, 0.99), size_G, S)
          found = [
            stats_seeds.difference(one, other, document_N, paired=paired)
            for paired in (False, True)
          ]
          own = [
            answers(rng, p_AS[:, [s]].clip(0.01, 0.99), size_G)[:, 0]
            for s in range(S)
          ]
          found.append(
            stats_seeds.nested_difference(
              [x[0] for x in own], [x[1] for x in own], [document_N] * S
            )
          )
          # As if these runs were all there is.
          found.append(
            stats.difference(one.mean(axis=0), other.mean(axis=0), document_N)
          )
          kept += [x.low <= 0 <= x.high for x in found]
        cells = [f"{100 * x / repetitions:.1f}" for x in kept]
        yield [str(S), str(G), str(each), f"{spread:g}", *cells]


def gains(repetitions: int, rng: np.random.Generator) -> Iterator[list[str]]:
  """Coverage of memory gain by Fieller's interval and by the delta method."""
  head = ["documents", "questions each", "none, system, oracle"]
  yield head + ["Fieller", "delta", "refused"]
  for G, each in ((50, 1), (200, 1), (1000, 1), (10, 20), (10, 150)):
    size_G = np.full(G, each)
    document_N = documents_of(size_G)
    for none, system, oracle in (
      (0.1, 0.6, 0.9),
      (0.3, 0.4, 0.5),
      (0.05, 0.5, 0.98),
    ):
      truth = (system - none) / (oracle - none)
      kept = delta = none_given = 0
      for _ in range(repetitions):
        three = answers(rng, [[system], [none], [oracle]], size_G)[:, 0]
        found, _ = stats.memory_gain(*three, document_N)
        if found is None:
          none_given += 1
          continue
        kept += found.low <= truth <= found.high
        a_N, b_N = three[0] - three[1], three[2] - three[1]
        documents = stats.documents(document_N, len(a_N))
        e_N = a_N - found.value * b_N
        half = stats.quantile(0.975, documents.df) * math.sqrt(
          documents.products(e_N, e_N)
        )
        delta += abs(found.value - truth) <= half / b_N.sum()
      given = max(1, repetitions - none_given)
      yield (
        [str(G), str(each), f"{none:g}, {system:g}, {oracle:g}"]
        + [f"{100 * x / given:.1f}" for x in (kept, delta)]
        + [f"{100 * none_given / repetitions:.1f}"]
      )


def main() -> None:
  """Runs one part."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parts = {
    "means": means,
    "differences": differences,
    "seeds": lambda *x: seeds(*x, tuple(map(int, args.counts.split(",")))),
    "gains": gains,
  }
  parser.add_argument("--part", choices=parts, required=True)
  parser.add_argument("--repetitions", type=int, default=2000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--counts", default="2,3,5,10", help="of seeds")
  args = parser.parse_args()
  rows = parts[args.part](args.repetitions, np.random.default_rng(args.seed))
  head = next(rows)
  for row in itertools.chain((head, ["---"] * len(head)), rows):
    print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
  main()
