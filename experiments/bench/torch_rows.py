"""Rows 1 and 2 of the benchmark, in torch and transformers.

Row 1, `Plain`, does what MemFactory's trainer does: groups one by one,
`generate` for each turn, text decoded and encoded again, all conversations of a
group padded to the longest, log-probabilities of the old policy and of the
reference (2 rows at a time), gradient checkpointing, all logits, 4 rows at a
time. Row 2, `Best`, is the best loop that we can write for the same numbers:
ids stay ids, a decoding loop without `generate`, no pass for the old policy,
whose log-probabilities are those of the loss, logits of responses alone, rows
of one length together, and no checkpointing.
"""

import torch
import transformers
import work

from memjax import prompts

torch.set_num_threads(2)


class Plain:
  """Row 1."""

  score_rows, train_rows, checkpointing = 2, 4, True

  def __init__(self, folder):
    """Loads the model, its reference and the optimiser."""
    self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    load = transformers.Qwen3ForCausalLM.from_pretrained
    self.model = load(folder, dtype=torch.float32)
    self.model.generation_config.eos_token_id = None
    self.model.generation_config.pad_token_id = 0
    self.ref = load(folder, dtype=torch.float32).eval()
    if self.checkpointing:
      self.model.gradient_checkpointing_enable({"use_reentrant": False})
    self.adam = torch.optim.Adam(self.model.parameters(), lr=work.LEARNING_RATE)

  # Decoding.

  @torch.no_grad()
  def decode(self, ids, new, greedy=False):
    """Continuations [B, new] of ids [B, P]."""
    self.model.eval()
    found = self.model.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=new,
      do_sample=not greedy,
      **({} if greedy else {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
    )
    return found[:, ids.shape[1] :]

  # The update.

  def logp(self, model, ids, start):
    """Log-probabilities of ids[:, start:], as [B, T - start]."""
    logits = model(ids).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(
      logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    )
    return -loss.view(ids.shape[0], -1)[:, start - 1 :]

  def scored(self, model, ids, start):
    """The same without a gradient, some rows at a time."""
    with torch.no_grad():
      parts = ids.split(self.score_rows)
      return torch.cat([self.logp(model, part, start) for part in parts])

  def update(self, batches):
    """One step on [(ids, start, mask, adv)], means of rows; returns numbers."""
    self.model.train()
    self.adam.zero_grad()
    count = sum(len(ids) for ids, *_ in batches)
    total = 0.0
    for ids, start, mask, adv in batches:
      total += self.accumulate(ids, start, mask, adv, count)
    norm = torch.nn.utils.clip_grad_norm_(
      self.model.parameters(), work.GRAD_CLIP
    )
    self.adam.step()
    return {"loss": total, "grad_norm": float(norm)}

  def accumulate(self, ids, start, mask, adv, count):
    """Adds the gradients of some rows."""
    old = self.old(ids, start)
    ref = self.scored(self.ref, ids, start)
    total = 0.0
    for i in range(0, len(ids), self.train_rows):
      part = slice(i, i + self.train_rows)
      logp = self.logp(self.model, ids[part], start)
      before = logp.detach() if old is None else old[part]
      loss = self.loss(logp, before, ref[part], mask[part], adv[part]) / count
      loss.backward()
      total += loss.item()
    return total

  def old(self, ids, start):
    """Log-probabilities of the policy that sampled, computed anew."""
    return self.scored(self.model, ids, start)

  def loss(self, logp, old, ref, mask, adv):
    """GRPO with k3, the sum of the means of rows."""
    ratio = torch.exp(logp - old)
    clipped = ratio.clamp(1 - work.CLIP, 1 + work.CLIP)
    gain = torch.minimum(ratio * adv[:, None], clipped * adv[:, None])
    gap = ref - logp
    each = gain - work.KL * (torch.exp(gap) - gap - 1)
    return -((each * mask).sum(1) / mask.sum(1)).sum()

  # A whole iteration.

  def prompt(self, style, question, memories, chunk=None):
    """Ids [G, P] of one turn's prompts, encoded from text."""
    texts = [
      prompts.STYLES["words"][style].format(
        question=question, memory=memory, chunk=chunk
      )
      for memory in memories
    ]
    found = self.tokenizer(texts, padding=True, padding_side="left")
    return torch.tensor(found["input_ids"])

  def rollout(self, seed):
    """Conversations [(prompt, response)] of a group, and its rewards."""
    question, text = work.text(seed)
    ids = self.tokenizer(text)["input_ids"]
    memories, turns = ["<none>"] * work.GROUP, []
    for i in range(0, len(ids), work.CHUNK):
      chunk = self.tokenizer.decode(ids[i : i + work.CHUNK])
      prompt = self.prompt("update", question, memories, chunk)
      response = self.decode(prompt, work.MEMORY)
      memories = self.texts(response)
      turns.append((prompt, response))
    prompt = self.prompt("answer", question, memories)
    response = self.decode(prompt, work.ANSWER)
    turns.append((prompt, response))
    return turns, [work.reward(x) for x in self.texts(response)]

  def texts(self, ids):
    """What rows say; all tokens, so that the rows' work stays the same."""
    return self.tokenizer.batch_decode(ids)

  def batches(self, turns, adv):
    """All conversations, padded to the longest."""
    size = max(prompt.shape[1] for prompt, _ in turns)
    new = turns[0][1].shape[1]
    pad = lambda x: torch.nn.functional.pad(x, (size - x.shape[1], 0))
    ids = torch.cat([torch.cat([pad(p), r], 1) for p, r in turns])
    mask = torch.ones(len(ids), new)
    return [(ids, size, mask, adv.repeat(len(turns)))]

  def iteration(self, seed):
    """Rollouts of a group, and a step on them."""
    turns, rewards = self.rollout(seed)
    rewards = torch.tensor(rewards)
    adv = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
    found = self.update(self.batches(turns, adv))
    sizes = [(p.shape[1], r.shape[1]) for p, r in turns]
    return found | {"tokens": work.GROUP * sum(map(sum, sizes))}


class Best(Plain):
  """Row 2."""

  score_rows, train_rows, checkpointing = 4, 4, False

  @torch.no_grad()
  def decode(self, ids, new, greedy=False):
    """A loop of forward passes over one cache."""
    self.model.eval()
    cache = transformers.DynamicCache(config=self.model.config)
    step, found = ids, []
    for _ in range(new):
      out = self.model(
        step, past_key_values=cache, use_cache=True, logits_to_keep=1
      )
      logits = out.logits[:, -1]
      if greedy:
        step = logits.argmax(-1, keepdim=True)
      else:
        # Gumbel-max: argmax of logits - log(exponential noise).
        noise = torch.empty_like(logits).exponential_().log_()
        step = (logits - noise).argmax(-1, keepdim=True)
      found.append(step)
    return torch.cat(found, 1)

  def logp(self, model, ids, start):
    """Of the responses alone, logits too."""
    new = ids.shape[1] - start
    logits = model(ids, logits_to_keep=new + 1).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(
      logits.flatten(0, 1), ids[:, start:].flatten(), reduction="none"
    )
    return -loss.view(ids.shape[0], -1)

  def old(self, ids, start):
    """None: those of the loss are the same numbers."""

  def prompt(self, style, question, memories, chunk=None):
    """Ids of one turn's prompts from ids: memories [G, M] or None."""
    known = {"question": question, "memory": memories, "chunk": chunk}
    parts = []
    for word in prompts.STYLES["words"][style].split():
      name = word.strip("{}")
      found = (
        known[name] if name in known else self.tokenizer(word)["input_ids"]
      )
      if not torch.is_tensor(found):
        found = torch.tensor([found]).expand(work.GROUP, -1)
      parts.append(found)
    return torch.cat(parts, 1)

  def rollout(self, seed):
    """The same with ids that stay ids."""
    question, text = (self.tokenizer(x)["input_ids"] for x in work.text(seed))
    memory, turns = self.tokenizer("<none>")["input_ids"], []
    for i in range(0, len(text), work.CHUNK):
      prompt = self.prompt("update", question, memory, text[i : i + work.CHUNK])
      memory = self.decode(prompt, work.MEMORY)
      turns.append((prompt, memory))
    prompt = self.prompt("answer", question, memory)
    response = self.decode(prompt, work.ANSWER)
    turns.append((prompt, response))
    return turns, [work.reward(x) for x in self.texts(response)]

  def batches(self, turns, adv):
    """One batch for each length."""
    found = {}
    for prompt, response in turns:
      ids = torch.cat([prompt, response], 1)
      found.setdefault((ids.shape[1], prompt.shape[1]), []).append(ids)
    return [
      (
        torch.cat(parts),
        start,
        torch.ones(len(parts) * work.GROUP, ids_len - start),
        adv.repeat(len(parts)),
      )
      for (ids_len, start), parts in found.items()
    ]


def measures(name, folder):
  """{what: a function of the repetition} of a row."""
  row = {"plain": Plain, "best": Best}[name](folder)
  data = work.rows()
  prompt, response, adv = (
    torch.tensor(x) for x in (data.prompt, data.response, data.adv)
  )
  ids = torch.cat([prompt, response], 1).long()
  mask = torch.ones(response.shape)

  return {
    "greedy": lambda rep: row.decode(
      prompt[:: work.GROUP].long(), 16, True
    ).tolist(),
    "decode16": lambda rep: len(row.decode(prompt[:16].long(), work.NEW)),
    "decode32": lambda rep: len(row.decode(prompt.long(), work.NEW)),
    "update": lambda rep: row.update([(ids, work.PROMPT, mask, adv)]),
    "iteration": row.iteration,
  }
