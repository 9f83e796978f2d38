import json
import sys

import pytest

from memjax.envs import example as example_lib
from memjax.envs.suite import env as env_lib
from memjax.envs.suite import readers
from memjax.envs.suite import tfds_builder


@pytest.mark.parametrize(
  "task, length", [("niah_multikey_2", 1024), ("dialogues", 1024)]
)
def test_what_is_written_is_what_is_generated(tmp_path, task, length):
  """Built, read back, and the same as the environment's, to the byte."""
  before = "tensorflow" in sys.modules
  fields = {"seed": 3, "train": 3, "eval": 5}
  builder = tfds_builder.make(task, length, tmp_path, **fields)
  builder.download_and_prepare()
  assert [*tmp_path.rglob("*.array_record*")]
  env = env_lib.Suite(seed=3, tasks=(task,), lengths=(length,), eval_examples=5)
  for split, examples in (
    ("train", env.train_examples(0, 3)),
    ("eval", env.eval_sets()[f"{task}_{length}"]),
  ):
    source = builder.as_data_source(split=split)
    found = [tfds_builder.example(x) for x in source]
    # TFDS shuffles what it writes.
    found.sort(key=lambda x: x.id)
    assert example_lib.fingerprint(found) == example_lib.fingerprint(examples)
    for one, other in zip(found, examples, strict=True):
      assert one.meta["chance"] == other.meta["chance"]
      assert tuple(one.meta["oracle"]) == other.meta["oracle"]
      assert readers.score(one, readers.honest(one)) == 1
  assert ("tensorflow" in sys.modules) == before


def test_configs_have_names():
  names = [x.name for x in tfds_builder.MemjaxSuite.BUILDER_CONFIGS]
  assert len(names) == len(set(names))
  assert {"vt_4096", "babi_qa3_131072", "hops_4_4194304"} <= set(names)
  assert not any(x.startswith("qa") for x in names)
  # Files are found by the name.
  one, other = (tfds_builder.config("vt", 4096, seed=i).name for i in (1, 2))
  assert one != other and "vt_4096" not in (one, other)
  with pytest.raises(ValueError, match="task='qa': choose one of niah_single"):
    tfds_builder.config("qa", 4096)
  with pytest.raises(ValueError, match="length=7: expected 256 to.*for vt"):
    tfds_builder.config("vt", 7)


def test_records_are_plain():
  example = example_lib.Example(4, "q?", "text", ("a",), {"oracle": ("x\n",)})
  record = tfds_builder.features(example)
  assert json.loads(record["meta"]) == {"oracle": ["x\n"]}
  assert record["context"] == ["text"] and record["stamps"] == []
