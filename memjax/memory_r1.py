"""MemoryR1Agent (Memory-R1, 2508.19828): facts are extracted, a bank is edited.

    chunk -> extract -> facts -> retrieve -> update -> bank

Each step can be another: facts may be the chunk's own lines ("turns"), the
update a mere addition ("append"), retrieval any of `retriever`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import agents
from memjax import bank_agent
from memjax import prompts
from memjax import tasks
from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib
from memjax.memory import extract as extract_lib
from memjax.memory import listing
from memjax.memory import update as update_lib

EXTRACTORS = ("policy", "turns")
UPDATERS = ("policy", "append")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryR1Agent(bank_agent.BankAgent):
  """A bank that is added to, updated and deleted from.

  Attributes:
    extract: facts out of chunks.
    update: operations on the bank.
    extractor: one of EXTRACTORS.
    updater: one of UPDATERS.
  """

  extract: extract_lib.Extract
  update: update_lib.Update
  extractor: str
  updater: str

  @property
  def reads_stamps(self) -> bool:
    """Raw lines have no place for a stamp; entries get it all the same."""
    return self.extractor == "policy"

  @property
  def alike(self) -> str | None:
    """The beginnings of the extractor's prompts."""
    shared = prompts.shared_pieces(self.extract.template)
    return agents.BEGINNINGS if self.extractor == "policy" and shared else None

  @property
  def turn_ops(self) -> tuple[str, ...]:
    """The model calls of a turn."""
    calls = (("extract", self.extractor), ("update", self.updater))
    return tuple(name for name, by in calls if by == "policy")

  def read(
    self,
    policies: agents.Policies,
    state: bank_lib.Bank,
    turn: tasks.Turn,
    key_B: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[bank_lib.Bank, dict[str, agents.Segment]]:
    """Extracts facts from a chunk and changes the bank; no chunk, no change."""
    segments = {}
    active = turn.chunk.length > 0
    facts = self._extract(policies, turn, key_B, temperature, segments)
    # Without a fact there is nothing to do, and the model is not asked.
    active &= (facts.length > 0).any(1)
    if self.updater == "append":
      plan = update_lib.append(self.update, facts)
    else:
      slot = self.retriever.similar(policies, state, facts)
      entries, id_BK = bank_lib.take(state, slot)
      prompt = update_lib.build(self.update, facts, entries)
      keys = agents.turn_keys(key_B, turn.number, 1)
      response, body, _ = agents.call(
        self, policies, "update", prompt, keys, temperature, active
      )
      plan = update_lib.parse(self.update, body, response.truncated, id_BK)
    kind = jnp.where(active[:, None], plan.kind, bank_lib.NOOP)
    text = listing.prefix(turn.stamp, plan.text)
    ops = update_lib.to_ops(
      dataclasses.replace(plan, kind=kind),
      text,
      turn.session,
      jnp.broadcast_to(jnp.asarray(turn.number, jnp.int32), active.shape),
      self.retriever.embed(policies, text),
    )
    bank, outcome = bank_lib.apply_all(state, ops, self.full)
    if self.updater == "policy":
      counts = plan.counts | {
        "full": (outcome == bank_lib.FULL).sum(0),
        # Evicted by an addition of the same response.
        "gone": (outcome == bank_lib.UNKNOWN_ID).sum(0),
        "size": bank_lib.size(bank),
      }
      segments["update"] = agents.Segment(
        prompt, response, body, plan.malformed & active, active, counts
      )
    return bank, segments

  def _extract(
    self, policies, turn, key_B, temperature, segments
  ) -> token_lib.Tokens:
    """Facts [B, F, M] of a chunk; the model's call is put into segments."""
    if self.extractor == "turns":
      return extract_lib.turns(self.extract, turn.chunk).text
    active = turn.chunk.length > 0
    prompt = extract_lib.build(self.extract, turn.chunk, self.group)
    keys = agents.turn_keys(key_B, turn.number)
    response, body, _ = agents.call(
      self, policies, "extract", prompt, keys, temperature, active
    )
    facts = extract_lib.parse(self.extract, body, response.truncated)
    segments["extract"] = agents.Segment(
      prompt, response, body, facts.malformed & active, active, facts.counts
    )
    return facts.text
