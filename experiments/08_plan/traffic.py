"""Bytes that decoding moves for each token, in XLA's program for a GPU.

    python experiments/08_plan/traffic.py memagent_qwen3_0p6b --scan_layers

Of each kernel in the loops over tokens and layers it counts what it reads and
writes: operands and results, of a slice (or of several, joined) what it gives,
of an update in place nothing. Compared with the least: parameters, prompts'
cache and half of the cache of new tokens, once. Needs the extra `plan` and no
GPU.
"""

import argparse
import collections
import os
import pathlib
import re
import tempfile

import figures

from memjax import build
from memjax import plan_analytic
from memjax import plan_budget
from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes

_BYTES = {"pred": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4}
# Instructions that move nothing.
_FREE = ("parameter", "get-tuple-element", "tuple", "bitcast", "while")


def _size(shape: str) -> int:
  """Bytes of a value; s8 is room that a library works in."""
  found = 0
  for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape):
    count = 1
    for size in filter(None, sizes.split(",")):
      count *= int(size)
    found += count * _BYTES.get(dtype, 0)
  return found


def _moved(lines: list[str]) -> collections.Counter:
  """Bytes by kind of kernel, once through a loop."""
  sizes, found = {}, collections.Counter()
  for line in lines:
    match = re.match(
      r"\s*(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)", line
    )
    if not match:
      continue
    name, shape, kind, operands = match.groups()
    sizes[name] = _size(shape)
    if kind in _FREE or "dynamic_update_slice" in name:
      continue
    if re.search("dynamic_slice|gather|concatenate", name):
      read = sizes[name]
    else:
      read = sum(sizes.get(x.strip(" %"), 0) for x in operands.split(","))
    found[re.sub(r"[.\d]+$", "", name)] += read + sizes[name]
  return found


def _computations(text: str) -> dict[str, list[str]]:
  """Name -> lines of each computation of a module."""
  found, lines = {}, []
  for line in text.splitlines():
    if match := re.match(r"(?:ENTRY )?%?(\S+) \(.*\) -> .* \{", line):
      lines = found.setdefault(match[1], [])
    else:
      lines.append(line)
  return found


def per_token(text: str) -> collections.Counter:
  """Bytes by kind of kernel in one round of the loop over tokens."""
  parts = _computations(text)

  def loops(lines):
    """(body, rounds) of each loop among them."""
    for line in lines:
      if match := re.search(r" while\(.*body=%?([\w.\-]+)", line):
        rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
        yield parts[match[1]], int(rounds[1]) if rounds else 1

  entry = next(x for name, x in parts.items() if name.startswith("main"))
  ((tokens, _),) = loops(entry)
  found = _moved(tokens)
  for layers, rounds in loops(tokens):
    for kind, size in _moved(layers).items():
      found[kind] += rounds * size
  return found


def measure(
  name: str, scan_layers: bool = False
) -> tuple[collections.Counter, int]:
  """(Bytes by kind of kernel, the least), for one token of each row."""
  with tempfile.TemporaryDirectory() as folder:
    config = figures.load(name)
    config.rollout.scan_layers = scan_layers
    config, _ = plan_shapes.resolve(config, folder)
    run = build.make(config, needs_data=False)
    work = plan_budget.describe_work(run, plan_shapes.describe(run))
    dump = pathlib.Path(folder) / "dump"
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={dump}"
    device = plan_devices.DEVICES["h100"]
    with plan_compile.Compiler(config, device) as compiler:
      compiler.measure(plan_shapes.DECODE, run.collect.group_size)
    (path,) = dump.glob("*jit_decode*gpu_after_optimizations.txt")
    found = per_token(path.read_text())
  call, cfg = work.longest, work.model
  weights = cfg.num_layers * plan_analytic.layer_params(cfg)
  least = 2 * (weights + cfg.vocab_size * cfg.width)
  least += plan_analytic.cache_bytes(cfg, min(call.shared, 1), call.shared)
  least += plan_analytic.cache_bytes(
    cfg, run.collect.group_size, call.prompt + call.response // 2
  )
  return found, least


def main() -> None:
  """Prints what was counted."""
  parser = argparse.ArgumentParser()
  parser.add_argument("name")
  parser.add_argument("--scan_layers", action="store_true")
  args = parser.parse_args()
  found, least = measure(args.name, args.scan_layers)
  for kind, size in found.most_common(6):
    print(f"{size / 1e9:8.2f} GB  {kind}")
  total = sum(found.values())
  print(f"{total / 1e9:8.2f} GB for a token of each row")
  print(f"{least / 1e9:8.2f} GB at least, {least / total:.0%}")


if __name__ == "__main__":
  main()
