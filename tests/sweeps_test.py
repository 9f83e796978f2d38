import pytest

from memjax import compare
from memjax import sweeps

_RATES = {"train.learning_rate": (1e-3, 1e-2, 3e-2)}


def test_grid_has_every_combination():
  arms = sweeps.grid({**_RATES, "objective.clip_high": (0.2, 0.28)})
  assert len(arms) == 6 and len({name for name, _ in arms}) == 6
  assert arms[1] == (
    "lr=0.001+clip_high=0.28",
    (("train.learning_rate", 1e-3), ("objective.clip_high", 0.28)),
  )


def test_zipped_goes_in_step():
  values = {"rollout.questions": (2, 4), "rollout.group_size": (8, 4)}
  names = [name for name, _ in sweeps.zipped(values)]
  assert names == ["questions=2+group_size=8", "questions=4+group_size=4"]
  with pytest.raises(ValueError, match="'a.x': 1, 'a.y': 2"):
    sweeps.zipped({"a.x": (1,), "a.y": (1, 2)})


def test_one_at_a_time_begins_with_the_config_itself():
  arms = sweeps.one_at_a_time({"train.b2": 0.9, "model.dtype": "bfloat16"})
  assert arms == (
    ("default", ()),
    ("b2=0.9", (("train.b2", 0.9),)),
    ("dtype=bfloat16", (("model.dtype", "bfloat16"),)),
  )


def test_names_are_names_of_folders():
  """No slash; no comma, at which --mode=compare parts them."""
  arms = sweeps.grid({"model.path": ("a/b", "c, d"), "agent.path": (("x",),)})
  assert [name for name, _ in arms] == [
    "model.path=a-b+agent.path=-x-",
    "model.path=c-d+agent.path=-x-",
  ]
  assert sweeps.grid({"agent.name": ("memory",)})[0][0] == "agent=memory"
  # A sign is not lost.
  (huge, _), (tiny, _) = sweeps.grid({"train.learning_rate": (1e38, 1e-38)})
  assert (huge, tiny) == ("lr=1e+38", "lr=1e-38")


@pytest.mark.parametrize("values", [(), "abc"])
def test_a_key_without_values_is_refused(values):
  with pytest.raises(ValueError, match="train.b2 with .* expected a sequence"):
    sweeps.grid({"train.b2": values})


def test_select(config):
  table = {"lr": sweeps.grid(_RATES), "b2": ()}
  assert sweeps.select(config, "", table) is config
  chosen = sweeps.select(config, "sweep=lr", table)
  assert chosen.arms == table["lr"] and chosen.seeds == sweeps.SEEDS
  assert compare.reference(chosen) == "lr=0.01"
  assert config.arms == ()
  config.seeds = (7,)
  assert sweeps.select(config, "sweep=lr", table).seeds == (7,)
  for wrong in ("sweep=rate", "lr", "sweep"):
    with pytest.raises(ValueError, match="choose :sweep=lr, :sweep=b2"):
      sweeps.select(config, wrong, table)


def test_from_flags(config):
  given = ["train.learning_rate=1e-3,1e-2", "train.schedule=constant,cosine"]
  chosen = sweeps.from_flags(config, given)
  assert len(chosen.arms) == 4
  assert chosen.arms[1][1] == (
    ("train.learning_rate", 1e-3),
    ("train.schedule", "cosine"),
  )
  assert compare.reference(chosen) == "lr=0.01+schedule=constant"
  with pytest.raises(ValueError, match="has arms already"):
    sweeps.from_flags(chosen, given)
  for wrong in (["train.b2"], ["train.b2="], ["a.b=1", "a.b=2"]):
    with pytest.raises(ValueError, match=f"--sweep={wrong[-1]}: expected"):
      sweeps.from_flags(config, wrong)


def test_the_config_itself_is_one_of_the_arms(config):
  config.train.learning_rate = 5e-3
  with pytest.raises(ValueError, match="with train.learning_rate=0.005"):
    compare.reference(
      sweeps.select(config, "sweep=x", {"x": sweeps.grid(_RATES)})
    )
  config.arms = (("a", ()), ("b", (("train.learning_rate", 5e-3),)))
  with pytest.raises(ValueError, match="a and b have the same settings"):
    compare.reference(config)
