"""MemoryRMMAgent (RMM, 2503.08026): topic memories, and what answers cited.

Prospective reflection, at the end of a session, for each speaker:

    turns -> extract -> topics with the turns they come from
    each topic -> its closest entries -> add, or merge into one of them

Retrospective reflection is the retriever's: it fetches K entries, reranks
them, shows M, and is trained on which of these the answers cited
(`retriever`, `memory.rerank`). A chunk should hold a session: a longer one is
reflected on chunk by chunk.

Dimension key: B banks, S speakers, P turns, F topics; calls of one turn are
stacked, speaker by speaker or topic by topic, on the axis of rows.
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
from memjax.memory import listing
from memjax.memory import topics as topics_lib
from memjax.memory import update as update_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryRMMAgent(bank_agent.BankAgent):
  """A bank of topics, added to and merged.

  Attributes:
    topics: extraction and merging.
  """

  topics: topics_lib.Topics

  turn_ops = ("extract", "update")
  one_by_one = ("update",)
  reads_stamps = False

  @property
  def alike(self) -> str | None:
    """The beginnings of the prompts that ask for topics."""
    shared = prompts.shared_pieces(self.topics.notes)
    return agents.BEGINNINGS if shared else None

  def read(
    self,
    policies: agents.Policies,
    state: bank_lib.Bank,
    turn: tasks.Turn,
    key_B: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[bank_lib.Bank, dict[str, agents.Segment]]:
    """Reflects on a session: one topic after the other changes the bank."""
    turns, lost = topics_lib.split(self.topics, turn.chunk)
    notes, extract = self._extract(policies, turns, turn, key_B, temperature)
    B, F = turns.length.shape[0], self.topics.topics
    S = notes.malformed.shape[0] // B
    lost = {name: jnp.tile(count, S) for name, count in lost.items()}
    extract = dataclasses.replace(extract, counts=extract.counts | lost)

    def step(bank, number):
      """Topic `number` of all, speaker by speaker."""
      row = lambda x: x.reshape(S, B, *x.shape[1:])[number // F, :, number % F]
      summary = jax.tree.map(row, notes.text)
      said = topics_lib.cited(self.topics, turns, row(notes.sources))
      keys = agents.turn_keys(key_B, turn.number, S + number)
      return self._merge(policies, bank, turn, summary, said, keys, temperature)

    bank, merge = jax.lax.scan(step, state, jnp.arange(S * F))
    stacked = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), merge)
    return bank, {"extract": extract, "update": stacked}

  def _extract(
    self, policies, turns, turn, key_B, temperature
  ) -> tuple[topics_lib.Notes, agents.Segment]:
    """Topics of a session, asked for once per speaker: rows [S * B]."""
    B, S = turn.speakers.length.shape
    everyone = token_lib.constant(self.topics.everyone, B)
    if S:
      # A row that names nobody is asked once, about everyone.
      named = (turn.speakers.length > 0).any(1)
      alone = [~named] + [jnp.zeros_like(named)] * (S - 1)
      length = jnp.where(jnp.concatenate(alone), everyone.length[0], 0)
      ids = jnp.tile(everyone.ids, (S, 1))
      names = token_lib.Tokens(
        jnp.moveaxis(turn.speakers.ids, 1, 0).reshape(S * B, -1),
        turn.speakers.length.T.reshape(S * B),
      )
      speakers = token_lib.concat([token_lib.Tokens(ids, length), names])
    else:
      S, speakers = 1, everyone
    times = lambda x: jnp.tile(x, (S, *(1,) * (x.ndim - 1)))
    turns = jax.tree.map(times, turns)
    active = (turns.length > 0).any(1) & (speakers.length > 0)
    stamp = jax.tree.map(times, turn.stamp)
    prompt = topics_lib.build_notes(
      self.topics, turns, speakers, stamp, self.group
    )
    keys = jnp.concatenate(
      [agents.turn_keys(key_B, turn.number, s) for s in range(S)]
    )
    response, body, _ = agents.call(
      self, policies, "extract", prompt, keys, temperature, active
    )
    notes = topics_lib.parse_notes(self.topics, body, response.truncated, turns)
    return notes, agents.Segment(
      prompt, response, body, notes.malformed & active, active, notes.counts
    )

  def _merge(
    self, policies, bank, turn, summary, said, keys, temperature
  ) -> tuple[bank_lib.Bank, agents.Segment]:
    """One topic is added or merged; rows without one idle."""
    active = summary.length > 0
    one = lambda x: jax.tree.map(lambda leaf: leaf[:, None], x)
    slot = self.retriever.similar(policies, bank, one(summary))
    entries, id_BK = bank_lib.take(bank, slot)
    prompt = topics_lib.build_merge(self.topics, summary, entries)
    response, body, _ = agents.call(
      self, policies, "update", prompt, keys, temperature, active
    )
    plan = topics_lib.parse_merge(
      self.topics, body, response.truncated, id_BK, summary
    )
    kind = jnp.where(active[:, None], plan.kind, bank_lib.NOOP)
    text = listing.prefix(turn.stamp, plan.text)
    # Merged entries keep what was said before.
    held = bank_lib.slot_of(bank, plan.id)
    before = jax.tree.map(lambda x: x[:, 0], bank_lib.take_turns(bank, held))
    kept = topics_lib.append_turns(self.topics, before, said, self.turn_tokens)
    ops = update_lib.to_ops(
      dataclasses.replace(plan, kind=kind),
      text,
      turn.session,
      jnp.broadcast_to(jnp.asarray(turn.number, jnp.int32), active.shape),
      self.retriever.embed(policies, text),
      one(kept),
    )
    bank, outcome = bank_lib.apply_all(bank, ops, self.full)
    counts = plan.counts | {
      "full": (outcome == bank_lib.FULL).sum(0),
      "size": bank_lib.size(bank),
    }
    return bank, agents.Segment(
      prompt, response, body, plan.malformed & active, active, counts
    )
