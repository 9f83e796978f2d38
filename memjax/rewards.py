"""Verifiers: pure functions of an answer's text and the accepted answers.

All take (text, answers) and give a number in [0, 1]; an empty text, an empty
list of answers and a blank answer give 0. What a policy is trained on
(`REWARDS`) and what is reported (`METRICS`) have different names on purpose: a
strict reward resists hacking, a lenient metric measures what was known, and the
two differ by tens of points on the same answers.
"""

import collections
import math
import re
import string
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

Verifier = Callable[[str, Sequence[str]], float]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
# LaTeX that changes how an answer looks, not what it is.
_FRACTION = re.compile(r"\\[td]frac")
_LOOKS = re.compile(r"\\!|\\left|\\right|\\\$|\\%|\^\\circ|\^\{\\circ\}|\s")
# Answers of which a part is not a part of the truth (HotpotQA's F1).
_CLOSED = ("yes", "no", "noanswer")


def extract_boxed(text: str) -> str | None:
  r"""What the last complete \boxed{...} holds; None without one.

  Braces inside are balanced: \boxed{x^{2}} gives x^{2}. A box that is not
  closed, as a cut response leaves it, is none, and an earlier one is not
  taken in its place. Source: the equivalence check of MATH (arXiv 2103.03874),
  without its bare \boxed x and \fbox{x}.
  """
  start = text.rfind("\\boxed{")
  if start < 0:
    return None
  begin = start + len("\\boxed{")
  depth = 1
  for end in range(begin, len(text)):
    depth += {"{": 1, "}": -1}.get(text[end], 0)
    if depth == 0:
      return text[begin:end]
  return None


def extract_answer(text: str) -> str:
  """The boxed part if there is one, otherwise the whole text, stripped."""
  boxed = extract_boxed(text)
  return (text if boxed is None else boxed).strip()


def normalize(text: str) -> str:
  """SQuAD's normal form: lower case, no punctuation, no articles, one space.

  Source: the official script of SQuAD 1.1 (arXiv 1606.05250).
  """
  text = _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION))
  return " ".join(text.split())


def _form(text: str) -> str:
  """The normal form, or what is there where that is empty.

  An answer like "A" or "The The" consists of articles only; without this it
  could never be right, or any article would be.
  """
  return normalize(text) or " ".join(text.lower().split())


def strict_boxed(text: str, answers: Sequence[str]) -> float:
  r"""1 if the last \boxed{} is an accepted answer, but for case and layout.

  MemAgent's training reward (2507.02259, eq. 3): nothing but the boxed text is
  looked at, articles and punctuation count, and there is no reward for the
  format alone. White space and LaTeX's \!, \left, \right, \$, \% and degree
  signs do not count, and \tfrac and \dfrac are \frac. Unlike the released
  code, a box may stand anywhere, not only in the last 300 characters.
  """
  boxed = extract_boxed(text)
  if boxed is None:
    return 0.0
  bare = lambda x: _LOOKS.sub("", _FRACTION.sub(r"\\frac", x.lower()))
  return float(
    bool(bare(boxed)) and any(bare(boxed) == bare(a) for a in answers)
  )


def exact_match(text: str, answers: Sequence[str]) -> float:
  """1 if the answer is an accepted one in normal form (SQuAD EM)."""
  found = _form(extract_answer(text))
  return float(bool(found) and any(found == _form(a) for a in answers))


def squad_f1(text: str, answers: Sequence[str]) -> float:
  """The best F1 of common words over the accepted answers.

    F1 = 2 p r / (p + r),  p = common / found,  r = common / accepted

  "yes", "no" and "noanswer" are right or wrong as a whole, as in HotpotQA's
  script (arXiv 1809.09600).
  """
  return max((_f1(text, answer) for answer in answers), default=0.0)


def _f1(text: str, answer: str) -> float:
  found, truth = _form(extract_answer(text)), _form(answer)
  if found in _CLOSED or truth in _CLOSED:
    return float(found == truth)
  found_words, true_words = found.split(), truth.split()
  common = collections.Counter(found_words) & collections.Counter(true_words)
  same = sum(common.values())
  if not same:
    return 0.0
  precision, recall = same / len(found_words), same / len(true_words)
  return 2 * precision * recall / (precision + recall)


def sub_em(text: str, answers: Sequence[str]) -> float:
  """1 if the answer contains an accepted one or is contained in it.

  MemAgent's evaluation metric, on normal forms and in both directions: "in
  Paris" is right for "Paris", and "Paris" for "Paris, France". Parts are of
  letters, not of words, as published: "no" is part of "I do not know". An empty
  normal form is part of nothing; it is right only if `exact_match` says so.
  MemAgent reads the first accepted answer only; here any will do.
  """
  found = normalize(extract_answer(text))
  truths = [normalize(answer) for answer in answers]
  if found and any(t and (t in found or found in t) for t in truths):
    return 1.0
  return exact_match(text, answers)


def sub_em_first(text: str, answers: Sequence[str]) -> float:
  """`sub_em` by the first accepted answer alone, as MemAgent's script has it.

  It differs where a file has several, as RULER's qa_1 does.
  """
  return sub_em(text, answers[:1])


def bleu1(text: str, answers: Sequence[str]) -> float:
  """The best BLEU-1 over the accepted answers.

    BLEU-1 = min(1, exp(1 - accepted / found)) common / found

  of words and punctuation marks in lower case (Papineni et al., ACL 2002, with
  N = 1). Papers on memory give it beside F1 and do not say how they part words;
  NLTK's parts contractions, too.
  """
  return max((_bleu1(text, answer) for answer in answers), default=0.0)


def _bleu1(text: str, answer: str) -> float:
  found, truth = (
    _TOKEN.findall(x.lower()) for x in (extract_answer(text), answer)
  )
  same = sum((collections.Counter(found) & collections.Counter(truth)).values())
  if not same:
    return 0.0
  return min(1.0, math.exp(1 - len(truth) / len(found))) * same / len(found)


def rouge_l(text: str, answers: Sequence[str]) -> float:
  """The best ROUGE-L recall over the accepted answers.

    ROUGE-L recall = longest common subsequence / accepted

  of words in lower case, not stemmed (Lin, 2004). MemGPT (2310.08560) takes
  recall since models say more than the answer; so does who repeats the memory.
  """
  return max((_rouge_l(text, answer) for answer in answers), default=0.0)


def _rouge_l(text: str, answer: str) -> float:
  found, truth = (
    _WORD.findall(x.lower()) for x in (extract_answer(text), answer)
  )
  # longest[j]: the longest one of the words so far and of truth[:j].
  longest = [0] * (len(truth) + 1)
  for word in found:
    before = longest[:]
    for j, other in enumerate(truth):
      longest[j + 1] = (
        before[j] + 1 if word == other else max(before[j + 1], longest[j])
      )
  return longest[-1] / max(len(truth), 1)


def ruler_fraction(text: str, answers: Sequence[str]) -> float:
  """The share of the answers that the text contains, in any case.

  RULER's string_match_all (arXiv 2404.06654): for tasks with several values.
  """
  if not answers:
    return 0.0
  return sum(_contains(text, answer) for answer in answers) / len(answers)


def ruler_any(text: str, answers: Sequence[str]) -> float:
  """1 if the text contains one of the answers: RULER's string_match_part."""
  return float(any(_contains(text, answer) for answer in answers))


def ruler_all(text: str, answers: Sequence[str]) -> float:
  """1 if the text contains all of the answers, in any case."""
  return float(ruler_fraction(text, answers) == 1)


def in_order(text: str, answers: Sequence[str]) -> float:
  """The share of the answers that stand in their place, between commas.

  For questions about several things at once, where to name all values that
  there are must not pay. Normal forms are compared.
  """
  found = [_form(x) for x in extract_answer(text).split(",")]
  right = [bool(x) and x == _form(a) for x, a in zip(found, answers)]
  return sum(right) / max(len(answers), 1)


def _contains(text: str, answer: str) -> bool:
  # A blank answer is part of any text.
  return bool(answer.strip()) and answer.lower() in text.lower()


REWARDS: dict[str, Verifier] = {
  "reward_boxed": strict_boxed,
  "reward_exact": exact_match,
  "reward_f1": squad_f1,
  "reward_ruler": ruler_fraction,
  "reward_in_order": in_order,
}
METRICS: dict[str, Verifier] = {
  "em": exact_match,
  "f1": squad_f1,
  "sub_em": sub_em,
  "sub_em_first": sub_em_first,
  "bleu1": bleu1,
  "rouge_l": rouge_l,
  "ruler": ruler_fraction,
  "ruler_any": ruler_any,
  "ruler_all": ruler_all,
  "in_order": in_order,
  "boxed_em": strict_boxed,
}
# Metrics for which all answers are wanted; for others any one of them is right.
WANT_ALL = ("ruler", "ruler_all", "in_order")


def lookup(table: Mapping[str, Verifier], name: str, key: str) -> Verifier:
  """The verifier of a name.

  Raises:
    ValueError: the table has no such name; says which there are.
  """
  if name not in table:
    raise ValueError(f"{key}={name!r}: choose one of {', '.join(table)}")
  return table[name]
