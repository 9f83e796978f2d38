"""Several processes, one run: who writes, who waits, and who was lost.

Every process runs the same program on the same numbers. Process 0 alone writes
files; the others wait where they read what it wrote. Each of them keeps a
connection to process 0. One that breaks without a goodbye is a process that
died: then the others end at once, with a line that says which it was. Without
it they would stand in the middle of a sum over devices until JAX aborts them.
"""

import contextlib
import multiprocessing
import os
import secrets
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from collections.abc import Iterator
from multiprocessing import connection

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

# What a process says before it goes, and process 0 passes on of another.
_DONE, _FAILED, _LOST = b"done", b"failed", b"lost"
# Seconds in which all may tell the same error, before one ends for another's.
_GRACE = 3.0
_SECRET = 16  # bytes
_NAME = 255  # bytes of a host's name, at most
# A machine without power sends no goodbye and closes nothing: it is asked after
# 20 s of silence, and is lost after 4 questions without an answer.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))


def first() -> bool:
  """Whether this process writes files and talks to people."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def wait(name: str) -> None:
  """Goes on when all processes are here."""
  if jax.distributed.is_initialized():
    multihost_utils.sync_global_devices(name)


def parse(flag: str) -> dict[str, str | int]:
  """Arguments of jax.distributed.initialize from --distributed.

  Raises:
    ValueError: it is neither "auto" nor ADDRESS:PORT,PROCESSES,PROCESS.
  """
  if flag == "auto":
    return {}
  address, *numbers = flag.split(",")
  host, _, port = address.rpartition(":")
  digits = all(x.isdecimal() for x in (port, *numbers))
  if not host or not digits or len(numbers) != 2:
    raise ValueError(
      f"--distributed={flag}: expected auto, or the address of process 0, how "
      "many there are and which this is, as in 10.0.0.1:1234,2,0"
    )
  count, process = map(int, numbers)
  if process >= count:
    raise ValueError(
      f"--distributed={flag}: there is no process {process} of {count}, they "
      "count from 0"
    )
  return {
    "coordinator_address": address,
    "num_processes": count,
    "process_id": process,
  }


@contextlib.contextmanager
def started(flag: str, remedy: Callable[[], str]) -> Iterator[None]:
  """Joins the processes of a run, and leaves them together.

  Must come before anything else is done with JAX. What is raised inside ends
  this process, and the others after it.

  Args:
    flag: see `parse`; "" for a run of one process.
    remedy: what to do when a process was lost, for people.

  Raises:
    ValueError: the flag is malformed, or the processes do not find each other.
  """
  if not flag:
    yield
    return
  arguments = parse(flag)
  # With it a SIGTERM is noted and nothing else, and the run goes on.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(**arguments)
  except (ValueError, RuntimeError) as error:
    raise ValueError(
      f"--distributed={flag}: the processes did not find each other: {error}"
    ) from error
  if not first():
    logging.set_verbosity(logging.WARNING)
  watch = _Watch(arguments.get("coordinator_address", ""), remedy)
  try:
    yield
    wait("end of the run")
  except BaseException as error:
    watch.fail(error)
  watch.close()


class _Watch:
  """Connections between process 0 and the others, and a thread that listens."""

  def __init__(self, coordinator: str, remedy: Callable[[], str]):
    """Connects; the coordinator, if it is known, is on process 0's host."""
    self._remedy = remedy
    self._me = jax.process_index()
    self._peers: dict[connection.Connection, int] = {}
    self._leaving, self._found = threading.Event(), threading.Event()
    host = coordinator.rpartition(":")[0].strip("[]") or socket.getfqdn()
    accepting = self._open(host)
    connected = np.array(self._connect(*self._told))
    if not multihost_utils.process_allgather(connected).all():
      logging.warning(
        "not all processes reach process 0 at %s: if one is lost, the others "
        "end after JAX's 100 s, with its message",
        host,
      )
      self._peers = {}
    elif accepting:
      accepting.join()
    for peer in self._peers:
      _keep_alive(peer.fileno())
    self._thread = threading.Thread(target=self._listen, daemon=True)
    self._thread.start()

  def _open(self, host: str) -> threading.Thread | None:
    """Process 0 listens, and tells the others where, and a secret."""
    told, accepting = np.zeros(1 + _SECRET + _NAME, np.int32), None
    if self._me == 0:
      secret = secrets.token_bytes(_SECRET)
      listener = connection.Listener(
        ("", 0), backlog=jax.process_count(), authkey=secret
      )
      told[0] = listener.address[1]
      told[1 : 1 + _SECRET] = list(secret)
      name = host.encode()[:_NAME]
      told[1 + _SECRET :][: len(name)] = list(name)
      accepting = threading.Thread(
        target=self._accept, args=(listener,), daemon=True
      )
      accepting.start()
    told = multihost_utils.broadcast_one_to_all(told).tolist()
    name = bytes(told[1 + _SECRET :]).rstrip(b"\0").decode()
    self._told = (name, told[0], bytes(told[1 : 1 + _SECRET]))
    return accepting

  def _accept(self, listener: connection.Listener) -> None:
    """Takes the connections of all others."""
    while len(self._peers) < jax.process_count() - 1:
      try:
        peer = listener.accept()
        self._peers[peer] = int(peer.recv_bytes())
      except (OSError, EOFError, multiprocessing.AuthenticationError) as error:
        logging.warning("a connection that is none of this run: %s", error)
    listener.close()

  def _connect(self, host: str, port: int, secret: bytes) -> bool:
    """Whether this process, if it is not process 0, reaches that."""
    if self._me == 0:
      return True
    try:
      peer = connection.Client((host, port), authkey=secret)
      peer.send_bytes(str(self._me).encode())
    except OSError as error:
      logging.warning("%s:%d: %s", host, port, error)
      return False
    self._peers[peer] = 0
    return True

  def _listen(self) -> None:
    """Until all peers said goodbye, or one did not."""
    peers = dict(self._peers)
    while peers:
      for peer in connection.wait(list(peers)):
        number = peers.pop(peer)
        try:
          word, *which = peer.recv_bytes().split()
        except (EOFError, OSError):
          word, which = _LOST, ()
        if word != _DONE and not self._leaving.is_set():
          self._end(word, int(which[0]) if which else number)

  def _end(self, word: bytes, number: int) -> None:
    """Ends this process because of another."""
    try:
      if self._me == 0:
        self._say(b"%s %d" % (word, number))
      if word == _LOST:
        self._found.set()
      else:
        self._leaving.wait(_GRACE)  # perhaps with the same error
      what = "was lost" if word == _LOST else "ended with an error, see its log"
      _tell(f"memjax: process {number} {what}; {self._remedy()}")
    finally:
      os._exit(1)

  def _say(self, word: bytes) -> None:
    """Sends a word to all who still listen."""
    for peer in self._peers:
      with contextlib.suppress(OSError):  # one that has gone hears nothing
        peer.send_bytes(word)

  def fail(self, error: BaseException) -> None:
    """Tells people and the others of an error, and ends this process."""
    # A process that dies breaks sums over devices in the others. It is lost
    # then, and what they raise is not their own error.
    if self._found.wait(1.0):
      self._thread.join()  # it ends the process
    self._leaving.set()
    self._say(_FAILED)
    if isinstance(error, SystemExit):
      _tell(str(error.code))
    else:
      _tell("".join(traceback.format_exception(error)))
    # JAX aborts those whose process 0 has gone.
    if self._me == 0:
      self._thread.join(2 * _GRACE)
    os._exit(1)

  def close(self) -> None:
    """Says goodbye, and hears that of the others."""
    self._say(_DONE)
    self._thread.join(_GRACE)
    for peer in self._peers:
      peer.close()


def _tell(text: str) -> None:
  """Writes to people, also when the process is about to end."""
  sys.stdout.flush()
  sys.stderr.write(text.rstrip() + "\n")
  sys.stderr.flush()


def _keep_alive(file: int) -> None:
  """Lets a connection break when the other machine is gone."""
  with socket.socket(fileno=os.dup(file)) as peer:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE:
      if hasattr(socket, name):  # Linux has all of them
        peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
