"""Two processes over loopback: they end together, and say why."""

import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from memjax import hosts

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def _ended(how):
  """[(exit status, output)] of processes 0 and 1."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  command = [sys.executable, "tests/hosts_child.py"]
  processes = [
    subprocess.Popen(
      [*command, f"127.0.0.1:{port},2,{number}", how],
      cwd=_ROOT,
      env={**os.environ, "PYTHONPATH": str(_ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for number in range(2)
  ]
  try:
    return [(x.wait(300), x.stdout.read()) for x in processes]
  finally:
    for process in processes:
      process.kill()


def test_a_process_that_is_killed_ends_the_other():
  (other, said), (victim, _) = _ended("SIGKILL")
  assert victim == -signal.SIGKILL and other == 1
  assert said.endswith("memjax: process 1 was lost; start again\n")
  assert "Traceback" not in said


@pytest.mark.slow
def test_a_process_can_be_told_to_end():
  (other, said), (victim, _) = _ended("SIGTERM")
  assert victim == -signal.SIGTERM and other == 1
  assert "memjax: process 1 was lost; start again\n" in said


@pytest.mark.slow
def test_an_error_is_told_by_whose_it_is():
  (other, said), (failed, its) = _ended("raise")
  assert failed == other == 1
  assert its.endswith("OSError: the disk is full\n")
  assert "process 1 ended with an error, see its log; start again" in said


@pytest.mark.slow
def test_they_end_together():
  (first, said), (second, its) = _ended("none")
  assert first == second == 0
  assert "finished writes" in said and "finished waits" in its


@pytest.mark.parametrize(
  "flag", ["10.0.0.1", "10.0.0.1:1,2", "10.0.0.1:1,2,x", ":1,2,0", "1,2,0"]
)
def test_a_malformed_flag(flag):
  with pytest.raises(
    ValueError, match=f"{flag}: expected auto, or the address"
  ):
    hosts.parse(flag)


def test_flags():
  assert hosts.parse("auto") == {}
  assert hosts.parse("a.b:12,4,3") == {
    "coordinator_address": "a.b:12",
    "num_processes": 4,
    "process_id": 3,
  }
  with pytest.raises(ValueError, match="no process 4 of 4"):
    hosts.parse("a.b:12,4,4")


def test_one_process_is_the_first_and_waits_for_none():
  assert hosts.first()
  hosts.wait("nobody")
  with hosts.started("", lambda: ""):
    pass
