"""Settings that every test runs under."""

import os
import pathlib

# A model library must not look for a hub, and a test never needs one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")
# Compiled programs are kept between runs of the suite.
jax.config.update("jax_compilation_cache_dir", str(_ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder of real data; the test is skipped where there is none."""
  path = os.environ.get("MEMJAX_DATA")
  if not path:
    pytest.skip("MEMJAX_DATA does not name a folder of real data")
  return pathlib.Path(path)
