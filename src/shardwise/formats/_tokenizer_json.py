"""The tokenizer.json of Hugging Face: the tokens of its model, and those added to it."""

from __future__ import annotations

import unicodedata
from typing import Any, cast

from shardwise._errors import OptionError
from shardwise._folding import NormalForm
from shardwise._vocabulary import Vocabulary
from shardwise.formats._vocabulary_file import Parts, file_error
from shardwise.formats._vocabulary_json import (
    by_id,
    check_id,
    dumped,
    ids_of,
    is_tokenizer,
    kind_of,
)

_MODELS = ("WordLevel", "WordPiece", "BPE", "Unigram")
_FORMS = ("NFC", "NFD", "NFKC", "NFKD")


def read_tokenizer(path: str, content: Any) -> Parts:
    """Read the tokens of a tokenizer.json: those of its model, and those added to it."""
    if not is_tokenizer(content):
        raise file_error(
            path,
            'expected an object with a "model", as in the tokenizer.json of Hugging Face, got '
            f'{kind_of(content)} without; pass format="json" for a list or object of tokens',
        )
    model = content["model"]
    if model.get("type") not in (None, *_MODELS):
        raise file_error(
            path,
            f"model.type: expected one of {', '.join(_MODELS)}, got {kind_of(model['type'])}; "
            "write its tokens as a list in a JSON file",
        )
    items = _model_items(path, model.get("vocab"))
    parts = by_id(path, [*items, *_added_items(path, content.get("added_tokens"), dict(items))])
    form, normalizer = _normalizer(path, content.get("normalizer"))
    if form is not None:
        every = "\0".join([*parts.tokens, *(parts.aliases or ())])  # nothing composes with NUL
        if not unicodedata.is_normalized(form, every):  # Hugging Face would leave them as they are
            form, normalizer = None, f"{form} (which its tokens are not in)"
    unknown = _unknown(path, model, items, parts)
    return parts._replace(unknown=unknown, normal_form=form, normalizer=normalizer)


def _model_items(path: str, vocab: Any) -> list[tuple[str, Any]]:
    if isinstance(vocab, dict):
        return list(vocab.items())
    if not isinstance(vocab, list):
        raise file_error(
            path,
            f"model.vocab: expected an object of tokens and ids, or a list of tokens and scores, "
            f"got {kind_of(vocab)}; fetch the file again",
        )
    ids: dict[str, int] = {}
    for number, pair in enumerate(vocab):
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise file_error(
                path,
                f"model.vocab, place {number}: expected a token and its score in a list, got "
                f"{kind_of(pair)}; fetch the file again",
            )
        if ids.setdefault(pair[0], number) != number:
            raise file_error(
                path,
                f"model.vocab: expected distinct tokens, got {pair[0]!a:.60} at places "
                f"{ids[pair[0]]} and {number}; rename one of them",
            )
    return list(ids.items())


def _added_items(path: str, added: Any, known: dict[str, Any]) -> list[tuple[str, Any]]:
    """The added tokens that the model has not; their ids are new."""
    if not isinstance(added, list | None):
        raise file_error(path, f"added_tokens: expected a list, got {kind_of(added)}; correct it")
    new: dict[str, Any] = {}
    taken = {number: token for token, number in known.items() if isinstance(number, int)}
    for place, entry in enumerate(added or []):
        token = entry.get("content") if isinstance(entry, dict) else None
        if not isinstance(token, str):
            raise file_error(
                path,
                f"added_tokens, place {place}: expected an object with its content, got "
                f"{kind_of(entry)}; correct it",
            )
        number = entry.get("id")
        check_id(path, token, number)
        if known.get(token, new.get(token, number)) != number:
            raise file_error(
                path,
                f"added_tokens, place {place}: expected one id for {token!a:.60}, got two, "
                f"{kind_of(known.get(token, new.get(token)))} and {number}; correct one of them",
            )
        if token in known or token in new:
            continue
        if number in taken:
            raise file_error(
                path,
                f"added_tokens, place {place}: expected an id of its own for {token!a:.60}, got "
                f"{number}, the id of {taken[number]!a:.60}; correct one of them",
            )
        new[token], taken[number] = number, token
    return list(new.items())


def _unknown(
    path: str, model: dict[str, Any], items: list[tuple[str, Any]], parts: Parts
) -> str | None:
    """The model's own unknown token; one that it has not is an error there, when it is needed."""
    if isinstance(model["vocab"], list):
        number = model.get("unk_id")
        if number is None:
            return None
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(items):
            raise file_error(
                path,
                f"model.unk_id: expected an id below {len(items)}, or null, got {kind_of(number)}; "
                "correct it",
            )
        return parts.tokens[number]
    token = model.get("unk_token")
    if not isinstance(token, str | None):
        raise file_error(
            path, f"model.unk_token: expected a token, or null, got {kind_of(token)}; correct it"
        )
    number = model["vocab"].get(token)
    return None if number is None else parts.tokens[number]


def _normalizer(path: str, normalizer: Any) -> tuple[NormalForm | None, str | None]:
    """The normal form that a normalizer is, or else its name."""
    if normalizer is None:
        return None, None
    steps = [normalizer]
    if isinstance(normalizer, dict) and isinstance(normalizer.get("normalizers"), list):
        steps = normalizer["normalizers"]
    types = [step.get("type") if isinstance(step, dict) else None for step in steps]
    names = [name for name in types if isinstance(name, str)]
    if len(names) < len(steps):
        raise file_error(
            path,
            "normalizer: expected an object with a type, or a Sequence of such, got "
            f"{kind_of(normalizer)}; correct it",
        )
    if len(set(names)) <= 1 and set(names) <= set(_FORMS):
        return cast("NormalForm", names[0]) if names else None, None
    return None, f"{', '.join(names):.120}"


def write_tokenizer(vocabulary: Vocabulary) -> bytes:
    """Write a WordLevel tokenizer, which takes all that it is given for one token."""
    if vocabulary.casefold:
        raise OptionError(
            "tokenizer.json: expected a vocabulary without casefold, which no normalizer of "
            "Hugging Face is equal to, got one with it; make one without it, and fold text before"
        )
    vocab, unknown = ids_of(vocabulary), vocabulary.unknown
    if unknown is None:  # the model must name one; a name that it lacks makes an error, as here
        name = "<unk>"
        while name in vocab:
            name = f"<{name}>"
    else:
        place = vocabulary.unknown_id
        if place is None or not 0 <= place < len(vocabulary):
            raise OptionError(
                "tokenizer.json: expected unknown= to be a token of the vocabulary, or its id, "
                f"got {unknown!r}; make it with a token for that"
            )
        name = vocabulary.decode(place)
    form = vocabulary.normal_form
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None if form is None else {"type": form},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": name},
    }
    return dumped("tokenizer.json", content, vocab)
