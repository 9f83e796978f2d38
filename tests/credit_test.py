"""Credit: advantages worked out by hand, and groups that never mix."""

import numpy as np
import pytest

from memjax import credit

# One context, two rollouts, two questions.
_OUTCOME = np.array([[[1.0, 0.0], [0.0, 0.0]]])
_FORMATS = {
  "extract": np.array([[0.5, 1.0]]),
  "update": np.array([[1.0, 0.25]]),
  "answer": np.array([[[True, False], [True, True]]]),
}
_TRUTH = np.array([[0.2, 0.8]])
_NONE = np.zeros((1, 2))


def _advantages(
  weights, outcome, formats, truth, penalty, std, shuffle=None, cited=0.0
):
  """From what happened to advantages, and which groups have any."""
  terms = credit.terms(
    weights, outcome, formats, truth, penalty, shuffle, cited
  )
  return credit.compare(terms, len(outcome), std)


def _assign(weights, penalty=_NONE, std=False, outcome=_OUTCOME):
  return _advantages(weights, outcome, _FORMATS, _TRUTH, penalty, std)


@pytest.mark.parametrize(
  "op, weight, expected",
  [
    # Means over both questions are 1/2 and 0.
    ("update", credit.Weights(1, 0, 0), [0.25, -0.25]),
    ("extract", credit.Weights(2, 0, 0), [0.5, -0.5]),
    ("update", credit.Weights(0, 1, 0), [0.375, -0.375]),
    ("extract", credit.Weights(0, 1, 0), [-0.25, 0.25]),
    ("update", credit.Weights(0, 0, 1), [-0.3, 0.3]),
    ("extract", credit.Weights(1, 2, 0.5), [0.25 - 0.5 - 0.15, 0.4]),
    # Answers, rollout by rollout: its first and its second question.
    ("answer", credit.Weights(1, 0, 0), [0.5, 0.0, -0.5, 0.0]),
    ("answer", credit.Weights(0, 1, 0), [0.0, -0.5, 0.0, 0.5]),
    ("answer", credit.Weights(0, 0, 1), [-0.3, -0.3, 0.3, 0.3]),
    ("answer", credit.Weights(3, 2, 1), [1.2, -1.3, -1.2, 1.3]),
  ],
)
def test_by_hand(op, weight, expected):
  found, live_W = _assign({op: weight})
  assert list(found) == [op] and live_W.tolist() == [True]
  assert found[op].dtype == np.float32
  np.testing.assert_allclose(found[op], expected, atol=1e-6)


def test_each_operation_has_its_own_weights():
  found, _ = _assign(
    {
      "extract": credit.Weights(0, 1, 0),
      "update": credit.Weights(0, 0, 1),
      "answer": credit.Weights(1, 0, 0),
    }
  )
  np.testing.assert_allclose(found["extract"], [-0.25, 0.25], atol=1e-6)
  np.testing.assert_allclose(found["update"], [-0.3, 0.3], atol=1e-6)
  np.testing.assert_allclose(found["answer"], [0.5, 0, -0.5, 0], atol=1e-6)


def test_the_penalty_counts_for_every_operation():
  weights = {op: credit.Weights() for op in ("update", "answer")}
  found, _ = _assign(weights, penalty=np.array([[-1.0, 0.0]]))
  np.testing.assert_allclose(found["update"], [-0.25, 0.25], atol=1e-6)
  np.testing.assert_allclose(found["answer"], [0, -0.5, 0, 0.5], atol=1e-6)


def test_normalised_by_the_deviation_of_the_group():
  weights = {op: credit.Weights() for op in ("update", "answer")}
  found, _ = _assign(weights, std=True)
  # Of two different rewards each is half an unbiased deviation times root 2.
  half = 0.5**0.5
  np.testing.assert_allclose(found["update"], [half, -half], atol=1e-5)
  # Question by question: the second has equal rewards.
  np.testing.assert_allclose(found["answer"], [half, 0, -half, 0], atol=1e-5)


def test_unknown_truth_is_not_needed_without_its_weight():
  weights = {"update": credit.Weights(1, 1, 0)}
  found, _ = _advantages(weights, _OUTCOME, _FORMATS, None, _NONE, False)
  np.testing.assert_allclose(found["update"], [0.625, -0.625], atol=1e-6)


def _random(seed, W=5, G=4, q=3):
  rng = np.random.default_rng(seed)
  share = lambda *shape: rng.integers(0, 4, shape) / 4
  outcome = share(W, G, q)
  formats = {
    "extract": share(W, G),
    "update": share(W, G),
    "answer": share(W, G, q),
  }
  return outcome, formats, share(W, G), -share(W, G)


_ALL = {
  op: credit.Weights(1.0, 0.5, 0.25) for op in ("extract", "update", "answer")
}


@pytest.mark.parametrize("std", [False, True])
def test_contexts_never_mix(std):
  one, other = _random(0), _random(1)
  # The second context alone is replaced.
  mixed = [np.array(x) for x in (one[0], one[2], one[3])]
  formats = {op: np.array(x) for op, x in one[1].items()}
  for array, new in zip(mixed, (other[0], other[2], other[3])):
    array[1] = new[1]
  for op, array in formats.items():
    array[1] = other[1][op][1]
  before, live = _advantages(_ALL, *one, std)
  after, live_after = _advantages(
    _ALL, mixed[0], formats, mixed[1], mixed[2], std
  )
  for op in _ALL:
    a, b = before[op].reshape(5, -1), after[op].reshape(5, -1)
    np.testing.assert_array_equal(a[[0, 2, 3, 4]], b[[0, 2, 3, 4]])
    assert (a[1] != b[1]).any()
  assert live[2:].tolist() == live_after[2:].tolist()


@pytest.mark.parametrize("std", [False, True])
def test_questions_never_mix(std):
  outcome, formats, truth, penalty = _random(0)
  changed = outcome.copy()
  changed[:, :, 1] = 1 - changed[:, :, 1] ** 2
  args = formats, truth, penalty, std
  a = _advantages(_ALL, outcome, *args)[0]["answer"].reshape(outcome.shape)
  b = _advantages(_ALL, changed, *args)[0]["answer"].reshape(outcome.shape)
  np.testing.assert_array_equal(a[:, :, [0, 2]], b[:, :, [0, 2]])
  assert (a[:, :, 1] != b[:, :, 1]).any()


@pytest.mark.parametrize("std", [False, True])
def test_advantages_of_a_group_sum_to_zero(std):
  found, _ = _advantages(_ALL, *_random(2), std)
  for op, n in (("extract", 1), ("update", 1), ("answer", 3)):
    sums = found[op].reshape(5, 4, n).sum(1)
    np.testing.assert_allclose(sums, 0.0, atol=1e-5)


def test_a_group_is_live_if_any_of_its_rewards_differ():
  G, q = 3, 2
  outcome = np.zeros((4, G, q))
  outcome[0, :, 1] = 1.0  # questions differ, rollouts do not
  outcome[1, 2, 0] = 1.0
  outcome[2] = np.eye(3)[:, :q]  # as many right answers, of other questions
  outcome[2, 2] = [1, 0]
  penalty = np.zeros((4, G))
  penalty[3, 0] = -0.5
  formats = {"update": np.ones((4, G)), "answer": np.ones((4, G, q))}
  both = {"update": credit.Weights(), "answer": credit.Weights()}
  assign = lambda weights: _advantages(
    weights, outcome, formats, None, penalty, True
  )
  found, live = assign(both)
  assert live.tolist() == [False, True, True, True]
  # Means are equal: only the answers tell the third context's rollouts apart.
  assert assign({"update": both["update"]})[1].tolist() == [
    False,
    True,
    False,
    True,
  ]
  dead = ~live[:, None]
  for adv in found.values():
    assert (adv.reshape(4, -1)[np.broadcast_to(dead, (4, 1))[:, 0]] == 0).all()


def test_shuffled_rewards_are_the_same_rewards():
  outcome, formats, truth, penalty = _random(3, W=8, G=6)
  args = outcome, formats, truth, penalty, False
  plain, live = _advantages(_ALL, *args)
  mixed, live_mixed = _advantages(_ALL, *args, shuffle=np.random.default_rng(0))
  assert live.tolist() == live_mixed.tolist()
  for op, n in (("extract", 1), ("update", 1), ("answer", 3)):
    a, b = plain[op].reshape(8, 6, n), mixed[op].reshape(8, 6, n)
    assert (a != b).any()
    np.testing.assert_allclose(np.sort(a, 1), np.sort(b, 1), atol=1e-6)


def test_citation_counts_where_the_answer_is_right():
  # Both questions of the first rollout cite; its second answer is wrong.
  cited = np.array([[[0.5, 1.0], [1.0, 0.25]]])
  outcome = np.array([[[1.0, 0.0], [0.0, 1.0]]])
  found, _ = _advantages(
    {
      "select": credit.Weights(0, 0, 0, citation=2.0),
      "answer": credit.Weights(1),
    },
    outcome,
    {"select": np.ones((1, 2, 2)), "answer": np.ones((1, 2, 2))},
    None,
    _NONE,
    False,
    cited=cited,
  )
  # Rewards are 1, 0 of the first rollout and 0, 1/2 of the second.
  np.testing.assert_allclose(found["select"], [0.5, -0.25, -0.5, 0.25])
  np.testing.assert_allclose(found["answer"], [0.5, -0.5, -0.5, 0.5])


def test_a_selection_that_nobody_cites_has_its_outcome_and_format():
  weights = {"select": credit.Weights(1.0, 0.5, 0.0, citation=1.0)}
  formats = {"select": np.array([[[True, True], [False, True]]])}
  found, _ = _advantages(weights, _OUTCOME, formats, None, _NONE, False)
  np.testing.assert_allclose(found["select"], [0.75, 0, -0.75, 0])
  # Question by question: a rollout's other question is no part of it.
  formats["select"][0, 0, 1] = False
  found, _ = _advantages(weights, _OUTCOME, formats, None, _NONE, False)
  np.testing.assert_allclose(found["select"], [0.75, -0.25, -0.75, 0.25])


def test_shuffling_moves_citations_with_the_rollout():
  rng = np.random.default_rng(4)
  cited = rng.integers(1, 5, (6, 5, 2)) / 4
  outcome = rng.integers(0, 2, (6, 5, 2)) * 1.0
  weights = {"select": credit.Weights(1.0, 0.0, 0.0, citation=1.0)}
  args = weights, outcome, {"select": np.ones((6, 5, 2))}, None
  args = *args, np.zeros((6, 5)), False
  plain, _ = _advantages(*args, cited=cited)
  mixed, _ = _advantages(*args, np.random.default_rng(0), cited)
  a, b = plain["select"].reshape(6, 5, 2), mixed["select"].reshape(6, 5, 2)
  assert (a != b).any()
  for w in range(6):  # pairs of a rollout's two questions stay together
    pairs = lambda x, w=w: sorted(map(tuple, np.round(x[w], 5)))
    assert pairs(a) == pairs(b)


def test_f1_by_hand():
  assert credit.f1(0, 0, 0) == 1.0
  assert credit.f1(2, 0, 0) == credit.f1(0, 2, 0) == credit.f1(2, 2, 0) == 0.0
  assert credit.f1(3, 3, 3) == 1.0
  # Precision 1, recall 1/3.
  assert credit.f1(3, 1, 1) == 0.5
