"""Accelerators that a plan can be made for: NVIDIA's data sheets as numbers."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Device:
  """One accelerator.

  Attributes:
    name: as the driver reports it.
    budget: bytes that a run may take: XLA_PYTHON_CLIENT_MEM_FRACTION=.95 of
      the memory, less about 1.5 GB for CUDA itself and its libraries.
    bandwidth: bytes per second.
    flops: dense bfloat16 products, per second.
    memory: bytes that the driver reports.
    capability: CUDA's.
    cores: streaming multiprocessors.
    lanes: float32 units of each.
    shared: bytes of shared memory of a multiprocessor; a block takes 1 KiB
      less.
    cache: bytes of the second-level cache.
    clock: GHz.
  """

  name: str
  budget: float
  bandwidth: float
  flops: float
  memory: int
  capability: tuple[int, int]
  cores: int
  lanes: int
  shared: int
  cache: int
  clock: float

  def description(self) -> str:
    """XLA's GpuTargetConfigProto, as text."""
    shape = {"x": 2**31 - 1, "y": 2**16 - 1, "z": 2**16 - 1}
    fields = {
      "threads_per_block_limit": 1024,
      "threads_per_warp": 32,
      "threads_per_core_limit": 2048,
      "shared_memory_per_block": 48 << 10,
      "shared_memory_per_block_optin": self.shared - 1024,
      "shared_memory_per_core": self.shared,
      "core_count": self.cores,
      "fpus_per_core": self.lanes,
      **{f"block_dim_limit_{axis}": x for axis, x in shape.items()},
      "memory_bandwidth": int(self.bandwidth),
      "l2_cache_size": self.cache,
      "clock_rate_ghz": self.clock,
      "device_memory_size": self.memory,
      "registers_per_core_limit": 1 << 16,
      "registers_per_block_limit": 1 << 16,
    }
    info = "\n".join(f"  {name}: {value}" for name, value in fields.items())
    major, minor = self.capability
    return (
      f"gpu_device_info {{\n{info}\n"
      f"  cuda_compute_capability {{ major: {major} minor: {minor} }}\n}}\n"
      "runtime_version { major: 12 minor: 8 }\n"
      "dnn_version_info { major: 9 minor: 8 }\n"
      'platform_name: "CUDA"\n'
      f'device_description_str: "{self.name}"\n'
    )


_HOPPER = dict(
  flops=990e12,
  capability=(9, 0),
  cores=132,
  lanes=128,
  shared=228 << 10,
  cache=50 << 20,
  clock=1.98,
)
DEVICES = {
  "h100": Device(
    "NVIDIA H100 80GB HBM3",
    budget=79e9,
    bandwidth=3.35e12,
    memory=84_900_000_000,
    **_HOPPER,
  ),
  "h200": Device(
    "NVIDIA H200",
    budget=134e9,
    bandwidth=4.8e12,
    memory=150_100_000_000,
    **_HOPPER,
  ),
  "a100": Device(
    "NVIDIA A100-SXM4-80GB",
    budget=79e9,
    bandwidth=2.04e12,
    flops=312e12,
    memory=84_900_000_000,
    capability=(8, 0),
    cores=108,
    lanes=64,
    shared=164 << 10,
    cache=40 << 20,
    clock=1.41,
  ),
}
# An A100 with slower links between devices.
DEVICES["a800"] = dataclasses.replace(
  DEVICES["a100"], name="NVIDIA A800-SXM4-80GB"
)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """How many devices along each axis, as config.mesh has it."""

  data: int = 1
  fsdp: int = 1
  tensor: int = 1

  @property
  def shape(self) -> dict[str, int]:
    """By axis."""
    return dataclasses.asdict(self)

  @property
  def size(self) -> int:
    """All devices."""
    return self.data * self.fsdp * self.tensor

  @property
  def rows(self) -> int:
    """Into how many parts rows are divided."""
    return self.data * self.fsdp

  @property
  def shards(self) -> int:
    """Into how many parts parameters are divided."""
    return self.fsdp * self.tensor


def parse(text: str) -> tuple[Device, int]:
  """A device and how many: "h100", "h100x8".

  Raises:
    ValueError: there is no such device, or none of them.
  """
  found = re.fullmatch(r"(\w+?)(?:x([1-9]\d*))?", text)
  if not found or found[1] not in DEVICES:
    raise ValueError(
      f"--target={text}: choose one of {', '.join(DEVICES)}, with a count "
      "behind it for several, such as h100x8"
    )
  return DEVICES[found[1]], int(found[2] or 1)
