"""Recorded rollouts as a run leaves them, small and made by hand."""

EVIL = "</script><img src=x onerror=alert(1)><!--"


def call(op, prompt, tokens, adv=None, **more):
  logp = [-0.5 * i for i in range(len(tokens))]
  record = {
    "op": op,
    "prompt": prompt,
    "prompt_tokens": len(prompt.split()),
    "tokens": tokens,
    "logp": logp,
    "truncated": False,
    "malformed": False,
    **more,
  }
  return record | ({} if adv is None else {"adv": adv})


def turn(memory, chunk="Ada left. The key is 73.", adv=None, **more):
  tokens = [f"{word} " for word in memory.split()]
  return {
    "chunk": chunk,
    "response": memory,
    "memory": memory,
    "truncated": False,
    "malformed": False,
    "calls": [call("update", f"Read: {chunk}", tokens, adv)],
    **more,
  }


def rollout(memories, answer, reward):
  return {
    "start": [],
    "turns": [turn(memory) for memory in memories],
    "answer": answer,
    "response": f"{answer}<end>",
    "listed": [],
    "calls": [call("answer", f"Memory: {memories[-1]}", [answer, "<end>"])],
    "reward": reward,
  }


def task(**sides):
  if not sides:
    sides = {
      "before": rollout(["", "Ada has a key", "Ada"], "12", 0.0),
      "after": rollout(["Ada 73", "Ada 73, Bob 1", f"73 {EVIL}"], "73", 1.0),
    }
  question = f"What is the key? {EVIL}"
  return {"id": 3, "question": question, "answers": ["73"], **sides}


def _bank_turn(entries, adv, changes):
  return {
    "response": f"update: {EVIL}",
    "memory": "\n".join(text for _, text in entries),
    "entries": entries,
    "truncated": False,
    "malformed": True,
    "changes": changes,
    "calls": [
      call("extract", "Session", ["kim", "=", "oslo\n", ""], adv),
      call("update", "Facts", [EVIL], 2 * adv, malformed=True),
    ],
  }


def _reward(outcome, penalty, adv):
  terms = {"outcome": outcome, "format": 0.0, "penalty": penalty}
  return {"terms": terms, "reward": outcome + penalty, "adv": adv}


def _member(right, adv):
  return {
    "turns": [
      _bank_turn([[0, "kim=bern"], [2, "old one"]], adv, ["+kim=bern: right"]),
      _bank_turn(
        [[0, "kim=oslo"], [3, f"new {EVIL}"]], adv, ["-old one: missed"]
      ),
    ],
    "rewards": {
      "extract": _reward(right / 2, -0.1, adv),
      "update": _reward(right / 2, 0.0, 2 * adv),
    },
    "asked": [
      {
        "question": question,
        "answers": [gold],
        "answer": gold if is_right else "rome",
        "response": f"USE 1 {gold}",
        "listed": ["kim=oslo", "old one"],
        "reward": float(is_right),
        "rewards": {"answer": _reward(float(is_right), 0.0, adv)},
        "calls": [call("answer", "Entries", ["USE", " 1", " x"], adv)],
      }
      for question, gold, is_right in (
        ("kim?", "oslo", right > 0),
        ("bob?", "bonn", right > 1),
      )
    ],
  }


def group():
  return {
    "id": 41,
    "iteration": 6,
    "question": "kim?",
    "answers": ["oslo"],
    "start": ["was there"],
    "chunks": ["kim moved to bern", "kim moved to oslo"],
    "group": [_member(0, -0.5), _member(1, 0.25), _member(2, 0.25)],
  }


def all_kinds():
  return [task(), task(before=rollout(["a"], "73", 1.0)), group()]
