"""What a comparison can find: sizes of samples, before anything is run.

With n questions about G documents, scores of 0 and 1, accuracy p of both
systems, correlation r between their answers to one question and c between the
differences of two questions about one document,

  variance of one question's difference   2 p (1 - p) (1 - r)   paired
                                          2 p (1 - p)           unpaired
  error^2 = variance / n * (1 + (n/G - 1) c)

and a t test on G - 1 degrees of freedom (2 G - 2 unpaired) finds a difference d
with the power of a noncentral t at d / error. Unpaired, n and G are those of
each system. A paired difference has to be 2/n larger: the exact test that finds
it counts whole questions, won and lost (found in simulation: without, the power
is .71 at n = 200 in place of .8, with it .78).

Worked example: 128 questions to each of two systems at 80 % accuracy: error
.05, and the smallest difference that is found four times in five is .14.
"""

import math

import scipy.optimize
import scipy.stats

from memjax import significance
from memjax import stats

# What is assumed of a run that has not been made. Half right is the worst case;
# answers of two systems to one question are seldom independent.
ACCURACY = 0.5
CORRELATION = 0.5
WITHIN = 0.05


def detectable(
  n: int,
  documents: int | None = None,
  *,
  paired: bool = True,
  accuracy: float = ACCURACY,
  correlation: float = CORRELATION,
  within: float = WITHIN,
  alpha: float = significance.ALPHA,
  power: float = stats.POWER,
) -> float:
  """The smallest true difference that is found with a given power.

  Args:
    n: questions.
    documents: they are about; None is one each.
    paired: whether both systems answer the same questions.
    accuracy: p of both.
    correlation: r; not used if unpaired.
    within: c.
    alpha: level of the two-sided test.
    power: chance to find it.

  Returns:
    A share in (0, 1]; infinite where no difference can be found. That is so of
    fewer than two documents, and, paired, of so few that flipping their signs
    (`significance.sign_flip`) cannot come to alpha.

  Raises:
    ValueError: more documents than questions, or a share that is none.
  """
  documents = n if documents is None else documents
  if not 1 <= documents <= n:
    raise ValueError(f"{documents} documents of {n} questions: expected 1 to n")
  for name, value in (
    ("accuracy", accuracy),
    ("alpha", alpha),
    ("power", power),
  ):
    if not 0 < value < 1:
      raise ValueError(f"{name}={value}: expected a share between 0 and 1")
  for name, value in (("correlation", correlation), ("within", within)):
    if not 0 <= value <= 1:
      raise ValueError(f"{name}={value}: expected 0 to 1")
  if documents < 2 or (paired and not significance.can_tell(documents, alpha)):
    return math.inf
  variance = 2 * accuracy * (1 - accuracy)
  df = 2 * documents - 2
  if paired:
    variance, df = variance * (1 - correlation), documents - 1
  error = math.sqrt(variance / n * (1 + (n / documents - 1) * within))
  found = error * _noncentrality(df, alpha, power) if error else 0.0
  found += 2 / n if paired else 0.0
  return found if found <= 1 else math.inf


def detectable_by_seeds(
  n: int,
  seeds: int,
  *,
  accuracy: float = ACCURACY,
  correlation: float = CORRELATION,
  alpha: float = significance.ALPHA,
  power: float = stats.POWER,
) -> float:
  """The smallest difference found between several seeds of two methods.

  A lower bound: as if seeds did not differ but in the n questions that each
  has. A t test of the seeds' differences on seeds - 1 degrees of freedom has

    error^2 = 2 p (1 - p) (1 - r) / (n seeds)

  Args:
    n: questions to each seed.
    seeds: of both methods, paired.
    accuracy: p of both.
    correlation: r, of two answers to a question.
    alpha: level of the two-sided test.
    power: chance to find it.

  Returns:
    A share in (0, 1]; infinite where no difference can be found.

  Raises:
    ValueError: fewer than two seeds.
  """
  if seeds < 2:
    raise ValueError(f"{seeds} seeds: expected at least two")
  variance = 2 * accuracy * (1 - accuracy) * (1 - correlation) / (n * seeds)
  found = math.sqrt(variance) * _noncentrality(seeds - 1, alpha, power)
  return found if found <= 1 else math.inf


def _noncentrality(df: float, alpha: float, power: float) -> float:
  """How many errors away a difference is found, on its own side of 0."""
  limit = stats.quantile(1 - alpha / 2, df)
  missing = lambda x: float(scipy.stats.nct.sf(limit, df, x)) - power
  return scipy.optimize.brentq(missing, 0.0, 2 * limit + 10)
