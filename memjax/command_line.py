"""What the programs' command lines share: --config, and clear messages."""

import sys

from absl import app
from absl import flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "settings of the run")


def parse(argv: list[str]) -> list[str]:
  """Reads the flags; what a config does not know is one clear line."""
  try:
    return flags.FLAGS(argv)
  except flags.IllegalFlagValueError as error:
    text = str(error).strip()
    # The whole traceback of a config file that raised something.
    said = text.splitlines()[-1]
    if said.startswith("ValueError: "):
      sys.exit(f"memjax: --config: {said.removeprefix('ValueError: ')}")
    if "get_config() takes" in said:
      sys.exit("memjax: --config: this file has no variants after a colon")
    sys.exit(f"memjax: {text}")
  except flags.Error:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as error:
    given = " ".join(x for x in argv if x.startswith("--config."))
    sys.exit(
      f"memjax: {given}: there is no such key in the config ({error}); "
      "memjax/config.py lists all keys"
    )
