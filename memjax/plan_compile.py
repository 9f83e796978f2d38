"""What XLA allocates for a program on a GPU that is not there.

XLA compiles for a device from its description alone, if the plugin of CUDA is
installed: `pip install -e '.[plan]'`. No driver and no GPU are needed, and one
that is there is not touched. It takes an environment that has to be set before
jax starts, so a child process does it: this module is also its program.
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
from typing import Self

import jax
import ml_collections
from jax.experimental import topologies

from memjax import build
from memjax import plan_devices
from memjax import plan_shapes

PLUGIN = "jax-cuda12-plugin"
_FLAGS = (
  # Tuning a kernel means to run it; untuned, Triton's products do not compile
  # for every shape, cuBLAS's do.
  "--xla_gpu_autotune_level=0",
  "--xla_gpu_enable_triton_gemm=false",
)


@dataclasses.dataclass(frozen=True)
class Memory:
  """What a program takes beside its arguments.

  Attributes:
    new: bytes of results that are not written into arguments.
    temporary: bytes of the buffer that XLA works in.
    arguments: bytes; what a program does not read is not among them.
    seconds: that the compile took.
  """

  new: int
  temporary: int
  arguments: int
  seconds: float


def available() -> bool:
  """The plugin is installed.

  Raises:
    ValueError: its version is not jax's.
  """
  try:
    version = importlib.metadata.version(PLUGIN)
  except importlib.metadata.PackageNotFoundError:
    return False
  if version != jax.__version__:
    raise ValueError(
      f"{PLUGIN} {version} does not go with jax {jax.__version__}: pip install "
      f"{PLUGIN}=={jax.__version__} jax-cuda12-pjrt=={jax.__version__}"
    )
  return True


class Compiler:
  """A child process that compiles programs of one run, one after the other."""

  def __init__(
    self, config: ml_collections.ConfigDict, device: plan_devices.Device
  ):
    """Starts it.

    Args:
      config: whose model paths are directories.
      device: to compile for.
    """
    self._folder = tempfile.TemporaryDirectory()
    folder = pathlib.Path(self._folder.name)
    (folder / "job").write_bytes(pickle.dumps((config, device)))
    self._log = folder / "log"
    environment = os.environ | {
      "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
      "CUDA_VISIBLE_DEVICES": "",
      "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]),
    }
    environment.pop("JAX_PLATFORMS", None)
    with self._log.open("w") as log:
      self._child = subprocess.Popen(
        [sys.executable, "-m", "memjax.plan_compile", str(folder / "job")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
      )

  def __enter__(self) -> Self:
    """Itself."""
    return self

  def __exit__(self, *unused: object) -> None:
    """Ends the process."""
    self._child.stdin.close()
    self._child.stdout.close()
    self._child.terminate()
    self._child.wait()
    self._folder.cleanup()

  def measure(self, program: str, rows: int) -> Memory:
    """What a program takes.

    Args:
      program: of `plan_shapes`.
      rows: of a micro-batch; of a rollout, the group size.

    Raises:
      RuntimeError: XLA could not compile it; says what it wrote.
    """
    print(json.dumps([program, rows]), file=self._child.stdin, flush=True)
    line = self._child.stdout.readline()
    found = json.loads(line) if line else {"error": self._last_words()}
    if "error" in found:
      raise RuntimeError(
        f"XLA did not compile {program} with {rows} rows: {found['error']}; "
        "--analytic goes without it"
      )
    return Memory(**found)

  def _last_words(self) -> str:
    """What a child wrote before it ended."""
    status = self._child.wait()
    lines = self._log.read_text().strip().splitlines()
    return f"status {status}, {lines[-1] if lines else 'no word'}"


def _serve(job: str) -> None:
  """Reads [program, rows] line by line, and writes what each takes."""
  config, device = pickle.loads(pathlib.Path(job).read_bytes())
  run = build.make(config, needs_data=False)
  topology = topologies.get_topology_desc(
    platform="cuda", target_config=device.description(), topology="1x1x1"
  )
  there = jax.sharding.SingleDeviceSharding(topology.devices[0])
  place = lambda tree: jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), tree
  )
  own = plan_shapes.describe(run)
  for line in sys.stdin:
    program, rows = json.loads(line)
    start = time.monotonic()
    shapes = own
    if program == plan_shapes.ROLLOUT and rows != run.collect.group_size:
      shapes = plan_shapes.describe(run, rows)
    lowered = plan_shapes.lower(run, shapes, program, rows, place)
    try:
      stats = lowered.compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
      answer = {"error": str(error).splitlines()[0]}
    else:
      seconds = time.monotonic() - start
      answer = dataclasses.asdict(
        Memory(
          stats.output_size_in_bytes - stats.alias_size_in_bytes,
          stats.temp_size_in_bytes,
          stats.argument_size_in_bytes,
          seconds,
        )
      )
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
  _serve(sys.argv[1])
