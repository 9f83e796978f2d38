"""From config.judge to a judged environment: everything is checked here."""

import os
import urllib.parse
from typing import Any

import jax
import ml_collections

from memjax import calibration
from memjax import judge
from memjax import judge_cache
from memjax import judge_endpoint
from memjax import judge_model
from memjax import judged


def wrap(config: ml_collections.ConfigDict, env: Any) -> Any:
  """The environment with a judge, or as it is where config.judge has no use.

  Nothing is asked yet.

  Args:
    config: of the run.
    env: gives tasks.

  Raises:
    ValueError: names the key that is missing, or cannot be.
  """
  cfg = config.judge
  uses = tuple(use for use in judged.USES if cfg[use])
  given = [key for key in ("url", "path", "model") if cfg[key]]
  if not uses:
    if given:
      raise ValueError(
        f"config.judge.{given[0]}={cfg[given[0]]!r}, but nothing is judged: "
        "set config.judge.metric=True, config.judge.reward=True, or both"
      )
    return env
  if jax.process_count() > 1:
    raise ValueError(
      f"config.judge with {jax.process_count()} processes: each would ask; "
      "start one process, or judge later with --mode=eval"
    )
  if bool(cfg.url) == bool(cfg.path):
    raise ValueError(
      f"config.judge.url={cfg.url!r} and config.judge.path={cfg.path!r}: name "
      "an endpoint, such as --config.judge.url=http://127.0.0.1:8000/v1, or "
      "a Hugging Face directory, and not both"
    )
  for key in ("max_false_accept", "max_false_reject"):
    if not 0 <= cfg[key] <= 1:
      raise ValueError(
        f"config.judge.{key}={cfg[key]}: expected a share from 0 to 1"
      )
  # A prompt of the user's own is for all questions.
  prompts = {} if cfg.prompt else getattr(env, "judge_prompts", {})
  draws = getattr(env, "judge_cases", {}) if prompts else {}
  if lacking := sorted(set(prompts) - set(draws)):
    raise ValueError(
      f"config.data.name={config.data.name!r} brings a prompt "
      f"{lacking[0]!r} for its judge but no answers to try a judge on with it: "
      "add them to the environment's judge_cases, or name a prompt of your own "
      "in config.judge.prompt"
    )
  for draw in draws.values() or [calibration.cases]:
    draw(cfg.examples, cfg.seed)
  if cfg.path:
    backend = judge_model.Checkpoint(
      cfg.path, config.model.dtype, cfg.batch_size
    )
  else:
    backend = _endpoint(cfg)
  return judged.Judged(
    env,
    judge.Judge(
      backend,
      judge_cache.Cache(cfg.cache),
      judge.load_prompt(cfg.prompt),
      cfg.price_in,
      cfg.price_out,
      prompts,
    ),
    uses,
    cfg.examples,
    cfg.seed,
    {
      "false_accept": cfg.max_false_accept,
      "false_reject": cfg.max_false_reject,
    },
    cfg.allow_poor,
  )


def _endpoint(cfg: ml_collections.ConfigDict) -> judge_endpoint.Endpoint:
  """What is behind config.judge.url, with the key of the environment."""
  address = urllib.parse.urlsplit(cfg.url)
  if address.scheme not in ("http", "https") or not address.hostname:
    raise ValueError(
      f"config.judge.url={cfg.url!r}: expected the address of an endpoint, "
      "such as http://127.0.0.1:8000/v1"
    )
  if address.username or address.password or address.query:
    raise ValueError(
      f"config.judge.url names {address.hostname} with a user, a password or "
      "a query: a key belongs in the environment variable of "
      "config.judge.key_env, since the config is written to the workdir"
    )
  if not cfg.model:
    raise ValueError(
      "config.judge.model is empty: name a model as the endpoint "
      f"{cfg.url} does"
    )
  if cfg.limit_name not in judge_endpoint.LIMIT_NAMES:
    raise ValueError(
      f"config.judge.limit_name={cfg.limit_name!r}: choose one of "
      f"{', '.join(judge_endpoint.LIMIT_NAMES)}"
    )
  key = os.environ.get(cfg.key_env, "").strip() if cfg.key_env else ""
  if cfg.key_env and not key:
    raise ValueError(
      f"config.judge.key_env={cfg.key_env!r}: there is no such environment "
      "variable, or it is empty; set it to your key, or give "
      "--config.judge.key_env= for an endpoint that asks for none"
    )
  if not (key.isascii() and key.isprintable()):
    raise ValueError(
      f"the environment variable {cfg.key_env} has characters that no key can "
      "have: set it again"
    )
  judge_endpoint.check_client()
  return judge_endpoint.Endpoint(
    model=cfg.model,
    url=cfg.url,
    key=key,
    key_env=cfg.key_env,
    **{
      name: cfg[name]
      for name in (
        "temperature",
        "max_tokens",
        "limit_name",
        "asks",
        "concurrency",
        "timeout",
        "retries",
      )
    },
  )
