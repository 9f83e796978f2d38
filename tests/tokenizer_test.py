import pytest

from memjax import tokenizer as tokenizer_lib


def test_words_and_back(tokenizer):
  ids = tokenizer.encode("kim? kim=oslo the")
  assert len(ids) == 3
  assert tokenizer.decode(ids) == "kim? kim=oslo the"
  assert tokenizer.decode([*ids, *tokenizer.stop_ids]) == "kim? kim=oslo the"
  assert tokenizer.encode_batch([]) == []
  assert tokenizer.encode("") == []


def test_an_unknown_word_is_refused(tokenizer):
  with pytest.raises(ValueError, match="vocabulary"):
    tokenizer.encode("kim=atlantis")


def test_a_word_twice_is_refused():
  with pytest.raises(ValueError, match="'kim' stands twice"):
    tokenizer_lib.from_words(["kim", "leo", "kim"])


def test_saved_and_loaded(tokenizer, tmp_path):
  tokenizer.save(tmp_path)
  again = tokenizer_lib.load(tmp_path)
  assert again.encode("kim=oslo the") == tokenizer.encode("kim=oslo the")
  assert (again.pad_id, again.stop_ids) == (
    tokenizer.pad_id,
    tokenizer.stop_ids,
  )


def test_a_folder_without_tokenizer_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no tokenizer.json"):
    tokenizer_lib.load(tmp_path)


def test_the_real_one(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  assert tokenizer.think_ids == (151667, 151668)
  assert set(tokenizer.stop_ids) == {151643, 151645}
  assert tokenizer.pad_id == 151643
  assert tokenizer.vocab_size <= 151936
