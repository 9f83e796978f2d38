"""A judge behind an OpenAI-compatible endpoint.

A request that fails for a moment (no connection, no reply in time, half of one,
HTTP 408, 409, 429, 5xx) is sent again by the openai library: after 0.5 s, 1 s,
... up to 8 s, or after what the server's Retry-After says, up to a minute. A
reply that is no verdict is shown to the model once more, with the request to
say the label alone. What fails for good is an error, never a verdict.

The client is an extra: pip install 'memjax[judge]'.
"""

import concurrent.futures
import dataclasses
import importlib.util
import json
import threading
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

from memjax import judge
from memjax import judge_cache

LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
_AGAIN = (
  "That is not one verdict. Reply with nothing but "
  f"{judge.REPLIES[True]} or {judge.REPLIES[False]}."
)
_SHOWN = 200  # characters of a reply in an error
_KEY_HINT = "set the key that it knows you by in the variable {key_env}"
_HINTS = {
  401: _KEY_HINT,
  403: _KEY_HINT,
  404: "correct config.judge.model, or config.judge.url: it often ends in /v1",
}
_COUNTING = threading.Lock()


def check_client() -> None:
  """Refuses to go on without the client.

  Raises:
    ValueError: it is not installed; says how to.
  """
  if not importlib.util.find_spec("openai"):
    raise ValueError(
      "config.judge.url needs the openai client: pip install 'memjax[judge]'"
    )


@dataclasses.dataclass(frozen=True)
class Endpoint:
  """Asks a model for verdicts, several at a time.

  Attributes:
    model: as the endpoint names it.
    url: of the endpoint.
    key: what it knows its users by, "" for none; never written anywhere.
    key_env: the environment variable that the key is from, for errors.
    temperature: of sampling; less than 0 leaves it to the endpoint, for models
      that refuse to be told.
    max_tokens: of a reply, reasoning included.
    limit_name: what the endpoint calls that limit, one of LIMIT_NAMES.
    asks: how often a question is asked until a reply is a verdict.
    concurrency: requests at a time.
    timeout: seconds without a byte after which a request has failed.
    retries: how often a request that failed is sent again.
    counts: of what was sent and what came back.
  """

  model: str
  url: str
  key: str = dataclasses.field(default="", repr=False)
  key_env: str = ""
  temperature: float = 0.0
  max_tokens: int = 512
  limit_name: str = "max_tokens"
  asks: int = 3
  concurrency: int = 8
  timeout: float = 60.0
  retries: int = 6
  counts: judge.Counts = dataclasses.field(default_factory=judge.Counts)

  @property
  def name(self) -> str:
    """The model's."""
    return self.model

  @property
  def settings(self) -> Mapping[str, Any]:
    """Of sampling, as they are sent."""
    found: dict[str, Any] = {self.limit_name: self.max_tokens}
    if self.temperature >= 0:
      found["temperature"] = self.temperature
    return found

  def ask(
    self, prompts: Sequence[str]
  ) -> Iterator[tuple[int, judge_cache.Verdict]]:
    """Asks about all prompts; see `judge.Backend`."""
    if not prompts:
      return
    failure = None
    with (
      self._client() as client,
      concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool,
    ):
      asked = {
        pool.submit(self._ask, client, prompt): i
        for i, prompt in enumerate(prompts)
      }
      try:
        for future in concurrent.futures.as_completed(asked):
          if future.cancelled():
            continue
          if error := future.exception():
            # What is under way may still bring a verdict; nothing else begins.
            failure = failure or error
            for other in asked:
              other.cancel()
          else:
            yield asked[future], future.result()
      finally:
        for other in asked:
          other.cancel()
    if failure:
      raise failure

  def _client(self) -> Any:
    import openai  # a second, and an extra: not before it is needed

    return openai.OpenAI(
      base_url=self.url,
      api_key=self.key or "none",  # the client insists on one
      timeout=self.timeout,
      max_retries=self.retries,
      http_client=openai.DefaultHttpxClient(
        event_hooks={"request": [self._count_request]}
      ),
    )

  def _count(self, **more: int) -> None:
    """Adds to the counts, from any thread."""
    with _COUNTING:
      for name, number in more.items():
        setattr(self.counts, name, getattr(self.counts, name) + number)

  def _count_request(self, request: Any) -> None:
    again = request.headers.get("x-stainless-retry-count", "0") != "0"
    self._count(calls=1, retried=int(again))

  def _ask(self, client: Any, prompt: str) -> judge_cache.Verdict:
    """Asks about one prompt until there is a verdict."""
    messages = [{"role": "user", "content": prompt}]
    tokens_in, tokens_out, why = 0, 0, ""
    for _ in range(self.asks):
      body = self._send(client, messages)
      try:
        reply = _read(body)
        self._count(tokens_in=reply.tokens_in, tokens_out=reply.tokens_out)
        tokens_in += reply.tokens_in
        tokens_out += reply.tokens_out
        if reply.text.strip():
          # If it is malformed: what to say then.
          messages = [
            messages[0],
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": _AGAIN},
          ]
        if reply.end != "stop":
          raise ValueError(f"it was ended by {reply.end!r}, not by the model")
        return judge_cache.Verdict(
          judge.parse(reply.text),
          reply.text,
          reply.served or self.model,
          tokens_in,
          tokens_out,
        )
      except ValueError as error:
        why = str(error)
        self._count(malformed=1)
    self._fail(
      f"gave no verdict in {self.asks} replies to one question. The last one: "
      f"{self._shown(body)}; {why}. Raise config.judge.max_tokens (now "
      f"{self.max_tokens}) or config.judge.asks, or take another model"
    )

  def _send(self, client: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The body of the response to a request, whatever it is."""
    import openai

    try:
      return client.chat.completions.with_raw_response.create(
        model=self.model, messages=messages, **self.settings
      ).text
    except openai.APIStatusError as error:
      code = error.status_code
      hint = _HINTS.get(code, "see what its operator says").format(
        key_env=self.key_env or "that config.judge.key_env names"
      )
      self._fail(
        f"refused with HTTP {code}: {self._shown(error.response.text)}; {hint}"
      )
    except openai.APITimeoutError:
      self._fail(
        f"gave no reply within {self.timeout:g} s, asked {self.retries + 1} "
        "times: raise config.judge.timeout, or lower config.judge.concurrency"
      )
    except openai.APIConnectionError as error:
      self._fail(
        f"is unreachable ({error.__cause__ or error}), tried "
        f"{self.retries + 1} times: start it, or correct config.judge.url"
      )

  def _safe(self, text: str) -> str:
    """Without the key, which a server may repeat."""
    return text.replace(self.key, "***") if self.key else text

  def _shown(self, body: str) -> str:
    return repr(self._safe(body)[:_SHOWN])

  def _fail(self, what: str) -> NoReturn:
    """Raises a JudgeError, and hides what led to it: it may hold the key."""
    self._count(failed=1)
    raise judge.JudgeError(
      self._safe(f"the judge {self.model} at {self.url} {what}")
    ) from None


@dataclasses.dataclass(frozen=True)
class _Reply:
  """What a response says.

  Attributes:
    text: of the message.
    end: why the message ended; "stop" is by itself.
    served: the model that wrote it.
    tokens_in: of the prompt, 0 if it does not say.
    tokens_out: of the message.
  """

  text: str
  end: str
  served: str
  tokens_in: int
  tokens_out: int


def _read(body: str) -> _Reply:
  """Takes a response apart.

  Raises:
    ValueError: it is no chat completion.
  """
  try:
    found = json.loads(body)
    choice = found["choices"][0]
    usage = found.get("usage") or {}
    text = choice["message"].get("content") or ""
    return _Reply(
      # Half of a surrogate pair can neither be sent nor stored.
      text.encode(errors="replace").decode(),
      choice["finish_reason"],
      found.get("model") or "",
      int(usage.get("prompt_tokens", 0)),
      int(usage.get("completion_tokens", 0)),
    )
  except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
    raise ValueError("it is no chat completion") from None
