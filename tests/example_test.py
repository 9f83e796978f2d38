"""What examples say of themselves."""

from memjax.envs import example as example_lib


def _example(id, context, stamps=(), bank=()):
  return example_lib.Example(id, f"{id}?", context, (), {}, stamps, bank)


def test_questions_about_one_text_are_of_one_document():
  found = example_lib.documents(
    [
      _example(0, "a b"),
      _example(1, "c"),
      _example(2, ("a b",)),  # one session is the text itself
      _example(3, ("a", "b")),
      _example(4, "a b", stamps=("monday",)),
      _example(5, "a b", bank=("x",)),
      _example(6, "c"),
    ]
  )
  assert found == [0, 1, 0, 2, 3, 4, 1]


def test_questions_about_nothing_stand_alone():
  examples = [_example(i, "") for i in range(3)]
  examples += [_example(3, "", bank=("x",)), _example(4, (), bank=("x",))]
  assert example_lib.documents(examples) == [0, 1, 2, 3, 3]
