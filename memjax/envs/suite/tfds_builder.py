"""The suite as a TensorFlow dataset, which needs no TensorFlow.

    from memjax.envs.suite import tfds_builder
    builder = tfds_builder.make("hops_3", 131072, data_dir="data")
    builder.download_and_prepare()
    source = builder.as_data_source(split="eval")
    example = tfds_builder.example(source[0])

A config has the name of a task and a length, hops_3_131072. Records lie in
array_record files, and strings come back as bytes: `example` decodes them. They
are those of `env.Suite` with the same seed. The task "qa" is not among them: it
needs a file.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from memjax.envs import example as example_lib
from memjax.envs.suite import tasks

# 4K to 4M tokens.
LENGTHS = tuple(4096 << i for i in range(11))


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
  """A task at a length.

  Attributes:
    task: its name.
    length: tokens of a text.
    seed: of everything.
    train: examples to train on.
    eval: held-out examples.
  """

  task: str = ""
  length: int = 0
  seed: int = 0
  train: int = 1000
  eval: int = 128


def config(task: str, length: int, **fields: int) -> Config:
  """The config of a task at a length; `fields` as in `Config`.

  Raises:
    ValueError: there is no such task, or it has no such length.
  """
  names = [name for name in tasks.TASKS if name != "qa"]
  if task not in names:
    raise ValueError(f"task={task!r}: choose one of {', '.join(names)}")
  tasks.check_length(task, length, "length")
  # Files are found by the name: other settings are other files.
  changed = [f"{key}{value}" for key, value in sorted(fields.items())]
  name = "_".join([task, str(length), *changed])
  return Config(name=name, task=task, length=length, **fields)


class MemjaxSuite(tfds.core.GeneratorBasedBuilder):
  """Generated long-context questions."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First one."}
  BUILDER_CONFIGS = [
    config(task, length)
    for task in tasks.TASKS
    if task != "qa"
    for length in LENGTHS
  ]

  # Nothing is downloaded. TFDS would look for checksums beside this file, with
  # a package (importlib_resources) that it does not require.
  url_infos = {}

  def _info(self) -> tfds.core.DatasetInfo:
    """The features; the metadata are JSON."""
    return tfds.core.DatasetInfo(
      builder=self,
      description=__doc__,
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Scalar(np.int64),
          "question": tfds.features.Text(),
          "context": tfds.features.Sequence(tfds.features.Text()),
          "answers": tfds.features.Sequence(tfds.features.Text()),
          "stamps": tfds.features.Sequence(tfds.features.Text()),
          "meta": tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    """Nothing is downloaded."""
    del dl_manager
    return {
      split: self._generate_examples(split, getattr(self.builder_config, split))
      for split in ("train", "eval")
    }

  def _generate_examples(
    self, split: str, count: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    """(key, features) of each example."""
    cfg = self.builder_config
    task = tasks.TASKS[cfg.task]
    for index in range(count):
      found = tasks.example(task, cfg.task, cfg.length, cfg.seed, split, index)
      yield index, features(found)


def make(
  task: str, length: int, data_dir: str | os.PathLike, **fields: int
) -> MemjaxSuite:
  """A builder that writes array_record files; `fields` as in `Config`."""
  return MemjaxSuite(
    config=config(task, length, **fields),
    data_dir=os.fspath(data_dir),
    file_format="array_record",
  )


def features(found: example_lib.Example) -> dict[str, Any]:
  """An example as a record."""
  return {
    "id": found.id,
    "question": found.question,
    "context": list(found.parts),
    "answers": list(found.answers),
    "stamps": list(found.stamps),
    "meta": json.dumps(found.meta, default=dataclasses.asdict),
  }


def example(record: Mapping[str, Any]) -> example_lib.Example:
  """A record as an example; a world in `meta` stays a dict."""
  texts = lambda name: tuple(x.decode() for x in record[name])
  context, stamps = texts("context"), texts("stamps")
  return example_lib.Example(
    int(record["id"]),
    record["question"].decode(),
    context if stamps else "".join(context),
    texts("answers"),
    json.loads(record["meta"]),
    stamps,
  )
