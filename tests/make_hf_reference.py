"""Writes tests/data/: tiny Qwen3 checkpoints and their transformers outputs.

    pip install -e ".[torch]" && python tests/make_hf_reference.py

The results are committed, so that the port is checked where there is no torch.
Run it again only if a checkpoint's shape is to change.
"""

import pathlib
import shutil

import numpy as np
import torch
import transformers

_DATA = pathlib.Path(__file__).resolve().parent / "data"
LENGTHS = (40, 23)
NEW_TOKENS = 64


def make_model(tied: bool, seed: int = 0) -> transformers.Qwen3ForCausalLM:
  """A random model whose head_dim is not width / heads."""
  torch.manual_seed(seed)
  config = transformers.Qwen3Config(
    vocab_size=151,
    hidden_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=20,
    intermediate_size=96,
    tie_word_embeddings=tied,
    rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    initializer_range=0.2,  # far from uniform: greedy choices are clear
    eos_token_id=None,
    bos_token_id=None,
  )
  model = transformers.Qwen3ForCausalLM(config).eval()
  with torch.no_grad():
    for name, weight in model.named_parameters():
      if "norm" in name:  # ones would hide a norm that is not loaded
        weight.uniform_(0.5, 1.5)
  return model


def make_reference(
  model: transformers.Qwen3ForCausalLM,
) -> dict[str, np.ndarray]:
  """Right-padded rows, their logits, and a greedy continuation."""
  rng = np.random.default_rng(0)
  tokens = np.zeros((len(LENGTHS), max(LENGTHS)), np.int32)
  logits = np.zeros((*tokens.shape, model.config.vocab_size), np.float32)
  prompt = rng.integers(0, model.config.vocab_size, 10).astype(np.int32)
  with torch.no_grad():
    for i, length in enumerate(LENGTHS):
      row = rng.integers(0, model.config.vocab_size, length)
      tokens[i, :length] = row
      logits[i, :length] = model(torch.tensor(row)[None]).logits[0].numpy()
    greedy = model.generate(
      torch.tensor(prompt, dtype=torch.int64)[None],
      max_new_tokens=NEW_TOKENS,
      do_sample=False,
      eos_token_id=None,
      pad_token_id=0,
    )[0, len(prompt) :].numpy()
  return {
    "tokens": tokens,
    "length": np.array(LENGTHS, np.int32),
    "logits": logits,
    "prompt": prompt,
    "greedy": greedy.astype(np.int32),
  }


def main() -> None:
  """Writes both checkpoints."""
  for name, tied in (("tied", True), ("untied", False)):
    path = _DATA / f"qwen3_{name}"
    shutil.rmtree(path, ignore_errors=True)
    model = make_model(tied)
    model.save_pretrained(path)
    (path / "model.safetensors").chmod(0o644)
    np.savez_compressed(path / "reference.npz", **make_reference(model))


if __name__ == "__main__":
  main()
