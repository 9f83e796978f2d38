"""One of two processes that add up numbers, of which one may end early.

python hosts_child.py ADDRESS:PORT,2,PROCESS none|raise|SIGKILL|SIGTERM
"""

import os
import signal
import sys

import jax
import numpy as np

from memjax import hosts
from memjax import sharding


def main():
  flag, how = sys.argv[1:]
  with hosts.started(flag, lambda: "start again"):
    mesh = sharding.make_mesh({"data": 2, "fsdp": 1, "tensor": 1})
    add = jax.jit(
      lambda x: sharding.replicate(sharding.constrain(x, "batch").sum())
    )
    with sharding.use(mesh):
      for step in range(300):
        assert float(add(np.full(8, step, np.float32))) == 8 * step
        if step == 100 and flag.endswith(",1") and how != "none":
          if how == "raise":
            raise OSError("the disk is full")
          os.kill(os.getpid(), getattr(signal, how))
  print("finished", "writes" if hosts.first() else "waits")


if __name__ == "__main__":
  main()
