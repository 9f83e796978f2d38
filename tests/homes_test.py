from memjax.envs import homes


def test_settle_by_hand():
  held = ["ada=bern", "bob@ada"]
  assert homes.settle(held, ["ada=bern", "cat~tea", "eve!"]) == held
  assert homes.settle(held, ["ada=rome"]) == ["bob@ada", "ada=rome"]
  assert homes.settle(held, ["bob!", "cat=oslo"]) == [
    "ada=bern",
    "cat=oslo",
  ]
  # Doubles are removed, and gossip that is held stays.
  held = ["ada=bern", "ada~tea", "ada=rome"]
  assert homes.settle(held, ["ada=rome"]) == ["ada~tea", "ada=rome"]
  assert homes.settle(held, ["ada!"]) == ["ada~tea"]


def test_home_by_hand():
  held = ["ada=bern", "bob@ada", "cat@dan", "eve@fay", "fay@eve", "ada~tea"]
  names = ("ada", "bob", "cat", "dan", "eve")
  assert [homes.home(held, name) for name in names] == [
    "bern",
    "bern",
    "unknown",
    "unknown",
    "unknown",
  ]


def test_chain_by_hand():
  held = ["ada~tea", "ada=bern", "bob@ada", "bob~golf", "cat@dan", "eve@fay"]
  held += ["fay@eve"]
  names = ("ada", "bob", "cat", "dan", "eve")
  assert [homes.chain(held, name) for name in names] == [
    ["ada=bern"],
    ["bob@ada", "ada=bern"],
    ["cat@dan"],
    [],
    ["eve@fay", "fay@eve"],  # a circle ends
  ]
