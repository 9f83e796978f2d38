"""An OpenAI-compatible endpoint on loopback that judges, well or badly."""

import contextlib
import dataclasses
import http.server
import json
import re
import threading

from memjax import calibration
from memjax import judge

_ITEM = re.compile(
  r"question: (.*)\naccepted answers: (.*)\ngiven answer: (.*)\n"
)
MODEL = "oracle-2"


@dataclasses.dataclass
class Response:
  """What the server sends; a body of None ends the connection without one."""

  body: bytes | None
  status: int = 200
  headers: tuple[tuple[str, str], ...] = ()
  claimed: int = 0  # bytes more than are sent


def reply(text, end="stop", **fields):
  """A chat completion that says a text."""
  message = {"role": "assistant", "content": text}
  return Response(
    json.dumps(
      {
        "id": "x",
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": end}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7},
        **fields,
      }
    ).encode()
  )


def item_of(messages):
  """The question that a conversation with the judge is about."""
  question, answers, given = map(
    json.loads, _ITEM.search(messages[0]["content"]).groups()
  )
  return judge.Item(question, tuple(answers), given)


def oracle(other=lambda item: item.given in item.answers, n=400):
  """Right about the n generated cases, and as `other` says of other answers."""
  truth = {case.item: case.truth for case in calibration.cases(n, 0)}

  def say(messages, number):
    del number
    item = item_of(messages)
    right = truth[item] if item in truth else other(item)
    return reply(judge.REPLIES[right])

  return say


class Server:
  """Answers as `say(messages, number of the request)` says."""

  def __init__(self, say):
    """Listens from now on."""
    self.say, self.bodies, self.keys = say, [], []
    self.inside = self.most = 0
    self._lock = threading.Lock()
    server = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = "HTTP/1.1"

      def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server._lock:
          number = len(server.bodies)
          server.bodies.append(body)
          server.keys.append(self.headers["Authorization"])
          server.inside += 1
          server.most = max(server.most, server.inside)
        try:
          found = server.say(body["messages"], number)
        finally:
          with server._lock:
            server.inside -= 1
        # A client that no longer waits is none of the server's business.
        with contextlib.suppress(ConnectionError):
          self._send(found)

      def _send(self, found):
        self.close_connection = found.body is None or found.claimed > 0
        if found.body is None:
          return
        self.send_response(found.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(found.body) + found.claimed))
        for header in found.headers:
          self.send_header(*header)
        self.end_headers()
        self.wfile.write(found.body)

      def log_message(self, *args):
        pass

    self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    self._http.daemon_threads = True
    self._thread = threading.Thread(
      target=self._http.serve_forever, args=(0.01,)
    )
    self._thread.start()
    self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

  def __enter__(self):
    """Itself."""
    return self

  def __exit__(self, *args):
    """No request is answered from now on."""
    self._http.shutdown()
    self._http.server_close()
    self._thread.join()

  def items(self):
    """What was asked about, in order; a repeated request counts again."""
    return [item_of(body["messages"]) for body in self.bodies]
