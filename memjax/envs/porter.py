"""Porter's stemmer, by which LoCoMo's official F1 compares words.

    connect, connected, connecting, connection, connections -> connect

Source: M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980.
The steps and their order are the paper's. A word is C?(VC){m}V?, with C a run
of consonants and V one of vowels; m is the word's measure. The vowels are
a, e, i, o, u, and y after a consonant. Anything that is not a vowel counts as a
consonant, digits too.

LoCoMo's script stems with NLTK's default, which departs from the paper: it
keeps words of two letters, knows some irregular words, gives "dies" and "died"
the stem "die", makes a final y an i only after a consonant ("enjoy" stays), and
has rules of its own in step 2. `stem_nltk` does the same; the two functions
differ for about 200 words of LoCoMo's file. Both agree with NLTK 3.10 on
100,000 words of various texts (modes ORIGINAL_ALGORITHM and NLTK_EXTENSIONS).
"""

import functools
from collections.abc import Callable

# (suffix, what replaces it); the first suffix that a word ends in is the only
# one that is tried, so a longer one stands before its own ending.
_STEP_2 = (
  ("ational", "ate"),
  ("tional", "tion"),
  ("enci", "ence"),
  ("anci", "ance"),
  ("izer", "ize"),
  ("abli", "able"),
  ("alli", "al"),
  ("entli", "ent"),
  ("eli", "e"),
  ("ousli", "ous"),
  ("ization", "ize"),
  ("ation", "ate"),
  ("ator", "ate"),
  ("alism", "al"),
  ("iveness", "ive"),
  ("fulness", "ful"),
  ("ousness", "ous"),
  ("aliti", "al"),
  ("iviti", "ive"),
  ("biliti", "ble"),
)
_STEP_3 = (
  ("icate", "ic"),
  ("ative", ""),
  ("alize", "al"),
  ("iciti", "ic"),
  ("ical", "ic"),
  ("ful", ""),
  ("ness", ""),
)
_STEP_4 = (
  *("ement", "ance", "ence", "able", "ible", "ment", "sion", "tion", "ant"),
  *("ent", "ism", "ate", "iti", "ous", "ive", "ize", "al", "er", "ic", "ou"),
)
# NLTK's step 2 has these instead of or beside the paper's.
_STEP_2_NLTK = (
  *(rule for rule in _STEP_2 if rule[0] not in ("abli", "alli")),
  ("bli", "ble"),
  ("fulli", "ful"),
)
_IRREGULAR = {
  "skies": "sky",
  "dying": "die",
  "lying": "lie",
  "tying": "tie",
  "innings": "inning",
  "outings": "outing",
  "cannings": "canning",
  **{word: word for word in ("sky", "news", "inning", "outing", "canning")},
  **{word: word for word in ("howe", "proceed", "exceed", "succeed")},
}


def _kinds(word: str) -> str:
  """A word's letters as v and c: "toy" is "cvc", "syzygy" is "cvcvcv"."""
  kinds = ""
  for letter in word:
    vowel = letter in "aeiou" or (letter == "y" and kinds.endswith("c"))
    kinds += "v" if vowel else "c"
  return kinds


def _measure(stem: str) -> int:
  """m: 0 for "tree" and "by", 1 for "trouble" and "oats", 2 for "oaten"."""
  return _kinds(stem).count("vc")


def _has_vowel(stem: str) -> bool:
  return "v" in _kinds(stem)


def _ends_double(word: str) -> bool:
  return word[-2:-1] == word[-1:] != "" and _kinds(word).endswith("c")


def _ends_cvc(word: str, nltk: bool) -> bool:
  kinds = _kinds(word)
  if nltk and kinds == "vc":  # use, using -> use
    return True
  return kinds.endswith("cvc") and word[-1] not in "wxy"


def _replace(
  word: str,
  rules: tuple[tuple[str, str], ...],
  holds: Callable[[str], bool],
) -> str:
  """Applies the rule of the first suffix that fits, if its stem allows it."""
  for suffix, new in rules:
    if word.endswith(suffix):
      stem = word.removesuffix(suffix)
      return stem + new if holds(stem) else word
  return word


def _step_1a(word: str, nltk: bool) -> str:
  """caresses -> caress, ponies -> poni, cats -> cat."""
  if nltk and word.endswith("ies") and len(word) == 4:
    return word[:-1]
  rules = (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", ""))
  return _replace(word, rules, lambda stem: True)


def _step_1b(word: str, nltk: bool) -> str:
  """agreed -> agree, plastered -> plaster, hopping -> hop, filing -> file."""
  if nltk and word.endswith("ied"):
    return word[:-1] if len(word) == 4 else word[:-2]
  if word.endswith("eed"):
    return _replace(word, (("eed", "ee"),), lambda stem: _measure(stem) > 0)
  cut = _replace(word, (("ed", ""), ("ing", "")), _has_vowel)
  if cut == word:
    return word
  if cut.endswith(("at", "bl", "iz")):
    return cut + "e"
  if _ends_double(cut) and cut[-1] not in "lsz":
    return cut[:-1]
  return cut + "e" if _measure(cut) == 1 and _ends_cvc(cut, nltk) else cut


def _step_1c(word: str, nltk: bool) -> str:
  """happy -> happi, sky -> sky."""
  holds = _has_vowel
  if nltk:
    holds = lambda stem: len(stem) > 1 and _kinds(stem).endswith("c")
  return _replace(word, (("y", "i"),), holds)


def _step_2(word: str, nltk: bool) -> str:
  """relational -> relate, vietnamization -> vietnamize."""
  positive = lambda stem: _measure(stem) > 0
  if not nltk:
    return _replace(word, _STEP_2, positive)
  if word.endswith("alli"):  # emotionalli -> emotional -> emotion
    return _step_2(word[:-2], nltk) if positive(word[:-4]) else word
  if word.endswith("logi"):
    return word[:-1] if positive(word[:-3]) else word
  return _replace(word, _STEP_2_NLTK, positive)


def _step_3(word: str) -> str:
  """triplicate -> triplic, formative -> form, goodness -> good."""
  return _replace(word, _STEP_3, lambda stem: _measure(stem) > 0)


def _step_4(word: str) -> str:
  """revival -> reviv, adoption -> adopt, replacement -> replac."""
  for suffix in _STEP_4:
    if word.endswith(suffix):
      # "ion" goes, the s or t before it stays.
      suffix = "ion" if suffix in ("sion", "tion") else suffix
      stem = word.removesuffix(suffix)
      return stem if _measure(stem) > 1 else word
  return word


def _step_5(word: str, nltk: bool) -> str:
  """probate -> probat, rate -> rate, cease -> ceas, controll -> control."""
  if word.endswith("e"):
    stem = word[:-1]
    m = _measure(stem)
    if m > 1 or (m == 1 and not _ends_cvc(stem, nltk)):
      word = stem
  if word.endswith("ll") and _measure(word) > 1:
    word = word[:-1]
  return word


def _stem(word: str, nltk: bool) -> str:
  for step in (_step_1a, _step_1b, _step_1c, _step_2):
    word = step(word, nltk)
  return _step_5(_step_4(_step_3(word)), nltk)


def stem(word: str) -> str:
  """The stem of a word in lower case, by the paper.

  A stem need not be a word: "happy" gives "happi". Stemming is not idempotent.
  """
  return _stem(word, nltk=False)


@functools.lru_cache(maxsize=1 << 16)
def stem_nltk(word: str) -> str:
  """The stem of a word in lower case, as NLTK 3's PorterStemmer gives it."""
  if word in _IRREGULAR:
    return _IRREGULAR[word]
  return word if len(word) <= 2 else _stem(word, nltk=True)
