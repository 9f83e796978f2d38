"""The port against transformers itself; needs torch."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import make_hf_reference  # noqa: E402

from memjax import hf  # noqa: E402
from memjax import qwen3  # noqa: E402
from memjax import sampling  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["5GB", "40KB"])
def test_against_transformers(tmp_path, tied, shard_size):
  model = make_hf_reference.make_model(tied, seed=7)
  model.save_pretrained(tmp_path / "torch", max_shard_size=shard_size)
  files = list((tmp_path / "torch").glob("*.safetensors"))
  assert (len(files) > 1) == (shard_size == "40KB")
  cfg, params = hf.load(tmp_path / "torch")
  want = make_hf_reference.make_reference(model)
  got = qwen3.logits(params, cfg, want["tokens"], want["length"])
  np.testing.assert_allclose(got, want["logits"], atol=1e-4)
  ids, _ = sampling.generate(
    params,
    cfg,
    [want["prompt"].tolist()],
    key=jax.random.key(0),
    max_new_tokens=make_hf_reference.NEW_TOKENS,
    temperature=0.0,
  )
  assert ids[0] == want["greedy"].tolist()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_bytes", [10**9, 40_000])
def test_transformers_loads_what_is_exported(tmp_path, tied, shard_bytes):
  model = make_hf_reference.make_model(tied, seed=8)
  model.save_pretrained(tmp_path / "torch")
  cfg, params = hf.load(tmp_path / "torch")
  hf.save(tmp_path / "ours", cfg, params, max_shard_bytes=shard_bytes)
  again = transformers.Qwen3ForCausalLM.from_pretrained(tmp_path / "ours")
  theirs, ours = model.state_dict(), again.state_dict()
  assert theirs.keys() == ours.keys()
  for name in theirs:
    assert torch.equal(theirs[name], ours[name]), name
  x = torch.arange(30)[None]
  with torch.no_grad():
    assert torch.equal(model(x).logits, again(x).logits)
