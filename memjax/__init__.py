"""memjax: train, run and compare memory policies for language agents.

import memjax

cfg, params = memjax.hf.load("Qwen3-1.7B")
logits = memjax.qwen3.logits(params, cfg, tokens_BT, length_B)
ids, logp = memjax.sampling.generate(params, cfg, prompts, key=key, ...)
reader = memjax.load("Qwen3-1.7B", agent="memory")
answer, memories = reader.read(text, question)
"""

import os

# Before transformers is imported: it advises to install PyTorch, which nothing
# here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from memjax import advantages
from memjax import hf
from memjax import losses
from memjax import qwen3
from memjax import rewards
from memjax import sampling
from memjax.memory_agent import MemoryAgent
from memjax.memory_r1 import MemoryR1Agent
from memjax.memory_rmm import MemoryRMMAgent
from memjax.reader import load
