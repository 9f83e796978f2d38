"""A judge over HTTP: one that is slow, refuses, babbles or goes away."""

import pathlib
import subprocess
import sys
import threading
import time

import judge_server
import pytest

from memjax import judge
from memjax import judge_cache
from memjax import judge_endpoint

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_KEY = "sk-very-secret-0123456789"
_ORACLE = judge_server.oracle()
_RIGHT, _WRONG = (
  judge.Item("Where?", ("Oslo",), given) for given in ("Oslo", "Bern")
)


def _items(n):
  return [judge.Item(f"Where is {i}?", ("Oslo",), "Oslo") for i in range(n)]


def _say(*script):
  """A script of responses to the first requests, then an oracle."""

  def say(messages, number):
    found = script[number] if number < len(script) else _ORACLE
    return found(messages, number) if callable(found) else found

  return say


@pytest.fixture
def ask(tmp_path):
  """Asks a server that speaks by a script: (verdicts or error, it, costs)."""

  def ask(say, items=(_RIGHT,), **settings):
    with judge_server.Server(say) as server:
      settings = {"timeout": 5.0, "retries": 1, **settings}
      endpoint = judge_endpoint.Endpoint(
        "oracle", server.url, _KEY, "MY_KEY", **settings
      )
      cache = judge_cache.Cache(tmp_path / "judge.sqlite")
      by = judge.Judge(endpoint, cache)
      try:
        found = by.verdicts(items)
      except judge.JudgeError as error:
        found = str(error)
      return found, server, by.costs()

  return ask


def test_what_is_sent(ask):
  found, server, costs = ask(_say(), (_RIGHT, _WRONG), concurrency=1)
  assert found == [True, False]
  assert server.keys == [f"Bearer {_KEY}"] * 2
  body = server.bodies[0]
  assert (body["model"], body["temperature"]) == ("oracle", 0.0)
  assert body["max_tokens"] == 512 and len(body["messages"]) == 1
  assert (costs["calls"], costs["retried"], costs["failed"]) == (2, 0, 0)
  assert (costs["tokens_in"], costs["tokens_out"]) == (200, 14)


def test_what_a_model_refuses_is_not_sent(ask):
  _, server, _ = ask(
    _say(), temperature=-1.0, limit_name="max_completion_tokens"
  )
  assert server.bodies[0]["max_completion_tokens"] == 512
  assert not {"temperature", "max_tokens"} & server.bodies[0].keys()


def _slow(messages, number):
  del messages, number
  time.sleep(1.0)
  return judge_server.reply(judge.REPLIES[False])


@pytest.mark.parametrize(
  "first",
  [
    judge_server.Response(b"oops", 500),
    judge_server.Response(b'{"error": "busy"}', 503),
    judge_server.Response(b"{}", 429, (("Retry-After", "0"),)),
    judge_server.Response(None),
    judge_server.Response(b'{"choices": [{"mess', claimed=100),
    _slow,
  ],
  ids=["500", "503", "429", "no response", "half a response", "slow"],
)
def test_what_fails_for_a_moment_is_sent_again(ask, first):
  found, server, costs = ask(_say(first), timeout=0.3)
  assert found == [True]
  assert server.bodies[0] == server.bodies[1]
  assert (costs["calls"], costs["retried"]) == (2, 1)
  assert (costs["malformed"], costs["failed"]) == (0, 0)


def test_it_comes_back_when_the_server_says(ask):
  """Half a second later, as it would by itself, it would be refused again."""
  until = []

  def say(messages, number):
    until.append(time.monotonic() + 1.0)
    if time.monotonic() < until[0]:
      return judge_server.Response(b"{}", 429, (("Retry-After", "1.1"),))
    return _ORACLE(messages, number)

  found, server, _ = ask(say)
  assert found == [True] and len(server.bodies) == 2


@pytest.mark.parametrize(
  "first",
  [
    judge_server.reply("I think it is right."),
    judge_server.reply('{"label": "CORRECT", "label": "WRONG"}'),
    judge_server.reply("maybe"),
    judge_server.reply('{"label": "WRONG"}', end="length"),
    judge_server.reply('{"label": "WRO', end="length"),
    judge_server.reply(judge.REPLIES[False], end="content_filter"),
  ],
  ids=["prose", "both", "neither", "limit", "cut", "filter"],
)
def test_a_malformed_reply_is_shown_and_asked_about_again(ask, first):
  found, server, costs = ask(_say(first))
  assert found == [True]
  one, two = (body["messages"] for body in server.bodies)
  assert [x["role"] for x in two] == ["user", "assistant", "user"]
  assert two[0] == one[0]
  assert (costs["calls"], costs["malformed"], costs["retried"]) == (2, 1, 0)
  assert costs["tokens_in"] == 200  # both were paid for


@pytest.mark.parametrize(
  "first",
  [
    judge_server.reply(""),
    judge_server.reply(None),
    judge_server.Response(b"<html>welcome</html>"),
    judge_server.Response(b""),
    judge_server.Response(b"[1, 2]"),
    judge_server.Response(b'{"choices": []}'),
    judge_server.Response(b'{"error": {"message": "no credit"}}'),
    judge_server.reply(["a", "list"]),
    judge_server.Response(b"\xff\xfe{" * 100),
  ],
)
def test_what_is_no_reply_is_asked_again_as_it_was(ask, first):
  found, server, costs = ask(_say(first))
  assert found == [True]
  assert server.bodies[0] == server.bodies[1]
  assert costs["malformed"] == 1


def test_a_reply_with_half_a_surrogate_pair(ask):
  body = judge_server.reply("x").body.replace(b'"x"', b'"\\ud83d"')
  found, server, _ = ask(_say(judge_server.Response(body)))
  assert found == [True]
  assert server.bodies[1]["messages"][1]["content"] == "?"


def test_a_judge_that_never_says_it_is_an_error(ask):
  """Not a wrong answer: there is no verdict at all."""
  babble = judge_server.reply("It depends.")
  found, server, costs = ask(lambda *_: babble, asks=3)
  assert "the judge oracle at http" in found
  assert "gave no verdict in 3 replies" in found and "It depends." in found
  assert "config.judge.max_tokens (now 512)" in found
  assert len(server.bodies) == 3
  assert (costs["malformed"], costs["failed"]) == (3, 1)


@pytest.mark.parametrize(
  "status, hint",
  [
    (400, "see what its operator says"),
    (401, "in the variable MY_KEY"),
    (403, "in the variable MY_KEY"),
    (404, "config.judge.model, or config.judge.url"),
  ],
)
def test_a_refusal_is_an_error_at_once(ask, status, hint):
  said = f"bad key {_KEY} " + "x" * 1000
  found, server, _ = ask(
    lambda *_: judge_server.Response(said.encode(), status), retries=5
  )
  assert f"refused with HTTP {status}: 'bad key ***" in found and hint in found
  assert len(server.bodies) == 1 and len(found) < 700


def test_no_part_of_the_key_is_shown(ask):
  """Nor is one that stands where a reply is cut."""
  said = "x" * 190 + _KEY
  found, *_ = ask(lambda *_: judge_server.Response(said.encode(), 401))
  assert "sk-" not in found
  found, *_ = ask(lambda *_: judge_server.reply(f"key {_KEY}"))
  assert "sk-" not in found and "***" in found
  endpoint = judge_endpoint.Endpoint("m", "http://x", _KEY, "MY_KEY")
  assert "sk-" not in repr(endpoint)


@pytest.mark.parametrize("status", [429, 500])
def test_what_fails_to_the_end_is_an_error(ask, status):
  found, server, costs = ask(lambda *_: judge_server.Response(b"no", status))
  assert f"refused with HTTP {status}: 'no'" in found
  assert len(server.bodies) == 2
  assert (costs["calls"], costs["retried"], costs["failed"]) == (2, 1, 1)


def test_a_judge_that_is_too_slow_is_an_error(ask):
  found, *_ = ask(_say(_slow, _slow), timeout=0.2)
  assert "no reply within 0.2 s, asked 2 times" in found
  assert "config.judge.timeout" in found


def test_nobody_there(ask, tmp_path):
  with judge_server.Server(_say()) as server:
    pass
  endpoint = judge_endpoint.Endpoint("oracle", server.url, retries=0)
  cache = judge_cache.Cache(tmp_path / "judge.sqlite")
  with pytest.raises(judge.JudgeError, match="is unreachable .*refused.*start"):
    judge.Judge(endpoint, cache).verdicts([_RIGHT])


def test_concurrency_is_used_and_bounded(ask):
  """Three at a time: each waits for two others, and for no fourth."""
  together = threading.Barrier(3, timeout=10)

  def say(messages, number):
    together.wait()
    time.sleep(0.05)  # a fourth would be seen
    return _ORACLE(messages, number)

  found, server, costs = ask(say, _items(9), concurrency=3)
  assert found == [True] * 9
  assert server.most == 3 and costs["calls"] == 9


def test_a_second_run_sends_nothing(ask):
  items = [*_items(4), _WRONG]
  found, server, _ = ask(_say(), items)
  assert len(server.bodies) == 5
  again, server, costs = ask(_say(), items)
  assert again == found == [True] * 4 + [False]
  assert server.bodies == [] and costs["cached"] == 5


def test_an_end_in_the_middle_keeps_what_was_judged(ask):
  """The rest is not asked about, and the next run asks about the rest alone."""
  items = _items(40)

  def say(messages, number):
    if number >= 10:
      return judge_server.Response(b"out of credit", 402)
    return _ORACLE(messages, number)

  found, server, _ = ask(say, items, concurrency=4)
  assert "the 10 verdicts so far are in" in found
  assert len(server.bodies) < 20
  judged = {x.question for x in server.items()[:10]}
  found, server, _ = ask(_say(), items, concurrency=4)
  assert found == [True] * 40
  assert {x.question for x in server.items()} == (
    {x.question for x in items} - judged
  )


_JUDGES = """
import sys
from memjax import judge, judge_cache, judge_endpoint
endpoint = judge_endpoint.Endpoint("oracle", sys.argv[1], concurrency=4)
judge.Judge(endpoint, judge_cache.Cache(sys.argv[2])).verdicts(
  [judge.Item(f"Where is {i}?", ("Oslo",), "Oslo") for i in range(40)]
)
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_judged(ask, tmp_path):
  cache = judge_cache.Cache(tmp_path / "judge.sqlite")
  hangs = threading.Event()

  def say(messages, number):
    if number >= 10:
      hangs.wait(60)
    return _ORACLE(messages, number)

  with judge_server.Server(say) as server:
    with subprocess.Popen(
      [sys.executable, "-c", _JUDGES, server.url, str(cache.path)], cwd=_ROOT
    ) as process:
      while len(cache) < 10 and process.poll() is None:
        time.sleep(0.05)
      process.kill()
    hangs.set()
    judged = {x.question for x in server.items()[:10]}
  assert len(cache) == 10
  found, server, _ = ask(_say(), _items(40))
  assert found == [True] * 40
  asked = {x.question for x in server.items()}
  assert len(asked) == len(server.bodies) == 30 and not asked & judged
