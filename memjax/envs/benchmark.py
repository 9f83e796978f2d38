"""What published test sets share: one file, one set, nothing to train on."""

import collections
import dataclasses
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib
from memjax.envs import long_context


@dataclasses.dataclass(frozen=True)
class Benchmark(long_context.LongContext):
  """The environment of a file that is only evaluated on.

  Attributes:
    counts: what was put right when it was read.
  """

  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

  name = ""  # config.data.name

  @classmethod
  def of(
    cls,
    path: str,
    set_name: str,
    load: Callable[[str, collections.Counter[str]], list[example_lib.Example]],
    published: Collection[str],
    reward_name: str,
    metric_name: str,
  ) -> "Benchmark":
    """Loads a file.

    Args:
      path: the file.
      set_name: of its one held-out set.
      load: (path, counts) -> examples; adds to the counts.
      published: the SHA-256 of the files that papers' numbers are of.
      reward_name: key of `rewards.REWARDS`, for the rollouts of the report.
      metric_name: key of `rewards.METRICS`.

    Raises:
      ValueError: the file is malformed, or a name is unknown.
    """
    rewards.lookup(rewards.REWARDS, reward_name, "config.data.reward_name")
    rewards.lookup(rewards.METRICS, metric_name, "config.data.metric_name")
    counts: collections.Counter[str] = collections.Counter()
    examples = load(path, counts)
    return cls(
      (),
      {set_name: examples},
      0,  # nothing is drawn
      reward_name,
      metric_name,
      files_lib.digests(path, published=published),
      counts=dict(counts),
    )

  def train_examples(self, start: int, count: int) -> list[example_lib.Example]:
    """There is none.

    Raises:
      ValueError: always.
    """
    del start, count
    raise ValueError(
      f"config.data.name={self.name!r} is a test set: train on other data and "
      "evaluate on it with --mode=eval"
    )
