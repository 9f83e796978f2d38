"""An environment whose answers a model judges, and what goes with its scores.

An environment may bring prompts of its own: `judge_prompts`, {kind: prompt}, is
then what a published scorer asks, `judge_view(example)` gives (question as
the judge sees it, kind), `judge_name` is what such scores are called, and
`judge_cases`, {kind: (n, seed) -> cases}, are answers of which each prompt's
rules say which are right.

Before its first verdict counts, a judge is asked about generated answers whose
truth is known (`calibration`), with every prompt that it will judge by; one
that errs too often with one of them is refused. Its error rates, its name and
the hash of its prompts go with every score that it gives.
"""

import dataclasses
import functools
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import logging

from memjax import calibration
from memjax import correction
from memjax import judge as judge_lib
from memjax import rewards
from memjax.envs import example as example_lib

USES = ("reward", "metric")
_ERRORS = {
  "false_accept": ("accepts", "wrong"),
  "false_reject": ("rejects", "right"),
}


@dataclasses.dataclass(frozen=True)
class Judged:
  """An environment, with a judge in place of its reward, its metric, or both.

  Whatever is not here is the environment's own.

  Attributes:
    env: the environment.
    by: the judge.
    uses: which of USES it gives.
    examples: how many generated answers it is asked about first, of each
      prompt.
    seed: of these.
    limits: the highest rates of "false_accept" and "false_reject".
    allow_poor: use a judge that is beyond them.
  """

  env: Any
  by: judge_lib.Judge
  uses: tuple[str, ...]
  examples: int
  seed: int
  limits: Mapping[str, float]
  allow_poor: bool = False

  def __getattr__(self, name: str) -> Any:
    """What the environment has, so that its optional methods are seen."""
    if name.startswith("__") or name == "env":
      raise AttributeError(name)
    return getattr(self.env, name)

  @property
  def metric_name(self) -> str:
    """What a score is: "judge", or the metric of the environment."""
    if "metric" not in self.uses:
      return self.env.metric_name
    return self.env.judge_name if self._own_prompts else "judge"

  @property
  def _own_prompts(self) -> bool:
    """Whether the environment's prompts are used."""
    return len(self.by.prompts) > 1

  @functools.cached_property
  def rates(self) -> dict[str, dict[str, Any]]:
    """The judge's errors, {prompt: see `calibration.measure`}; "": general."""
    draws = {"": calibration.cases}
    if self._own_prompts:
      draws = {kind: self.env.judge_cases[kind] for kind in self._kinds}
    found = {
      kind: calibration.measure(self.by, self.examples, self.seed, draw)
      for kind, draw in draws.items()
    }
    logging.info("judge %s: %s", self.by.backend.name, found)
    return found

  @property
  def _kinds(self) -> list[str]:
    """The environment's prompts."""
    return sorted(set(self.by.prompts) - {""})

  @functools.cached_property
  def checked(self) -> judge_lib.Judge:
    """The judge, once it is known how often it errs.

    Raises:
      ValueError: more often than is allowed.
      JudgeError: it cannot be asked.
    """
    for kind, rates in self.rates.items():
      for name, limit in self.limits.items():
        rate, (does, which) = rates[name], _ERRORS[name]
        if rate["rate"] > limit and not self.allow_poor:
          item = rates["examples"][name]
          by = f", by the prompt {kind!r}," if kind else ""
          raise ValueError(
            f"the judge {self.by.backend.name}{by} {does} {_rate(rate)} of "
            f"{rate['n']} {which} answers, such as {item['given']!r} for "
            f"{item['answers'][0]!r} to {item['question']!r}, and "
            f"config.judge.max_{name}={limit:g}: take another model or prompt, "
            "or use it all the same with config.judge.allow_poor=True"
          )
    return self.by

  def rewards(
    self, examples: Sequence[example_lib.Example], texts: Sequence[str]
  ) -> list[float]:
    """The training rewards of answers, one to each example."""
    if "reward" in self.uses:
      return self._verdicts(examples, texts)
    return [self.env.reward(*pair) for pair in zip(examples, texts)]

  def metrics(
    self, examples: Sequence[example_lib.Example], texts: Sequence[str]
  ) -> list[float]:
    """The evaluation metrics of answers, one to each example."""
    if "metric" in self.uses:
      return self._verdicts(examples, texts)
    return [self.env.metric(*pair) for pair in zip(examples, texts)]

  def reward(self, example: example_lib.Example, text: str) -> float:
    """The training reward of an answer."""
    return self.rewards([example], [text])[0]

  def metric(self, example: example_lib.Example, text: str) -> float:
    """The evaluation metric of an answer."""
    return self.metrics([example], [text])[0]

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """Which parts of the table an answer counts in, and with what score."""
    # The environment's own method, with our metric.
    return type(self.env).label(self, example, text)

  def _view(self, example: example_lib.Example) -> tuple[str, str]:
    """(the question as the judge sees it, which of its prompts it takes)."""
    view = getattr(self.env, "judge_view", lambda x: (x.question, ""))
    question, kind = view(example)
    return question, kind if self._own_prompts else ""

  def _verdicts(
    self, examples: Sequence[example_lib.Example], texts: Sequence[str]
  ) -> list[float]:
    wants_all = getattr(self.env, "wants_all", lambda x: False)
    items = []
    for example, text in zip(examples, texts, strict=True):
      question, kind = self._view(example)
      given = rewards.extract_answer(text)
      answers = example.answers
      if wants_all(example):  # one answer, and not several that are accepted
        answers = (", ".join(answers),)
      items.append(judge_lib.Item(question, answers, given, kind))
    return [float(right) for right in self.checked.verdicts(items)]

  def summary(
    self,
    cells: Mapping[str, Mapping[str, Any]],
    verified: Mapping[str, Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, Sequence[float]]],
  ) -> dict[str, Any]:
    """What a run's summary says of its judge; plain JSON.

    Args:
      cells: the run's accuracies, {side: {set: cell}}.
      verified: of the same answers by the environment's metric, likewise.
      scores: of each question, {side: {set: scores}}; means of sets have none.

    Returns:
      {"name", "settings", "prompt_sha256", "served": names by which models
      signed, "uses", "limits", "rates", "costs": of this process, "verifier":
      name of the environment's metric, and, where the metric is judged,
      "verified" and "corrected": as cells, None where that is not defined}.
      Where the environment's prompts are asked there are "prompts", too, the
      rates are {prompt: rates}, and of means of sets nothing is corrected.
    """
    found = {
      **self.checked.identity,
      "served": sorted(self.by.served),
      "uses": list(self.uses),
      "limits": dict(self.limits),
      "rates": self.rates if self._own_prompts else self.rates[""],
      "costs": self.by.costs(),
      "verifier": self.env.metric_name,
    }
    if self._own_prompts:
      found["prompts"] = self._kinds
    if "metric" not in self.uses:
      return found
    corrected = {}
    for side, of_side in cells.items():
      corrected[side] = {}
      for name, cell in of_side.items():
        if not self._own_prompts:
          right = correction.corrected(cell, self.rates[""])
        elif name in scores[side]:
          parts = self._parts(name, scores[side][name])
          right = correction.pooled(cell, parts, self.rates)
        else:
          continue
        corrected[side][name] = right
    return {**found, "verified": verified, "corrected": corrected}

  def _parts(
    self, name: str, score_N: Sequence[float]
  ) -> dict[str, dict[str, Any]]:
    """{prompt: {"accuracy", "n"}} of the questions of a set."""
    by_kind: dict[str, list[float]] = {}
    for example, score in zip(self.env.eval_sets()[name], score_N, strict=True):
      by_kind.setdefault(self._view(example)[1], []).append(score)
    return {
      kind: {"accuracy": sum(x) / len(x), "n": len(x)}
      for kind, x in by_kind.items()
    }


def describe(judge: Mapping[str, Any]) -> str:
  """The judge and its errors in a line, from `Judged.summary`."""
  prompts = judge.get("prompts")
  errors = (
    ", ".join(
      f"by {kind!r} {_errors(judge['rates'][kind], judge['limits'])}"
      for kind in prompts
    )
    if prompts
    else _errors(judge["rates"], judge["limits"])
  )
  return (
    f"{' and '.join(judge['uses'])} by the judge {judge['name']}, "
    f"prompt{'s' if prompts else ''} {judge['prompt_sha256'][:12]}, which "
    f"{errors}"
  )


def _errors(
  rates: Mapping[str, Mapping[str, Any]], limits: Mapping[str, float]
) -> str:
  """How often a judge errs with a prompt."""
  errors = " and ".join(
    f"{does} {_rate(rates[name])} of {rates[name]['n']} {which} answers"
    for name, (does, which) in _ERRORS.items()
  )
  beyond = [
    name.replace("_", " ")
    for name, limit in limits.items()
    if rates[name]["rate"] > limit
  ]
  return errors + (
    f" (beyond the limit: {', '.join(beyond)})" if beyond else ""
  )


def _rate(rate: Mapping[str, float]) -> str:
  return f"{rate['rate']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"
