"""Vocabularies as JSON: a list of tokens in the order of their ids, or an object of ids."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from shardwise._errors import VocabularyError
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import BOM
from shardwise.formats._vocabulary_file import Parts, file_error, is_text


def parse_json(path: str, raw: bytes) -> Any:
    """Return what a JSON file holds; no object of it has a name twice, no number is NaN."""
    try:
        return json.loads(
            raw.removeprefix(BOM).decode(),
            object_pairs_hook=_distinct,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        raise file_error(
            path, f"expected JSON, got {error}; write the file again, or pass format="
        ) from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        again = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"an object with the name {again!a:.60} twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is no number of JSON")


def is_tokenizer(content: Any) -> bool:
    """Whether JSON is a tokenizer.json: its model is an object, and no token's id."""
    return isinstance(content, dict) and isinstance(content.get("model"), dict)


def read_json(path: str, content: Any) -> Parts:
    """Read a list of tokens, or an object of tokens and their ids."""
    if is_tokenizer(content):
        raise file_error(
            path,
            "expected a list of tokens, or an object of tokens and ids, got a tokenizer.json of "
            'Hugging Face; pass format="tokenizer.json", or none',
        )
    if isinstance(content, dict):
        return by_id(path, content.items())
    return Parts(tokens_of_list(path, content))


def tokens_of_list(path: str, content: Any) -> list[str]:
    """Return a JSON list as tokens, checked to be text."""
    if not isinstance(content, list):
        raise file_error(
            path,
            f"expected a list of tokens, or an object of tokens and ids, got {kind_of(content)}; "
            "write the tokens in the order of their ids",
        )
    for number, token in enumerate(content):
        if not isinstance(token, str):
            raise file_error(
                path,
                f"place {number}: expected a token as a string, got {kind_of(token)}; write it as "
                "a string",
            )
    _check_text(path, content)
    return content


def _check_text(path: str, tokens: Iterable[str]) -> None:
    if not is_text("".join(tokens)):
        token = next(token for token in tokens if not is_text(token))
        raise file_error(
            path,
            f"expected tokens that can be written as UTF-8, got {token!a:.60}, which has half of "
            "a surrogate pair; leave it out",
        )


def kind_of(value: Any) -> str:
    """What a value of JSON is, in a few words: it may be huge."""
    if isinstance(value, (list, dict)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 64:
        return "a number beyond 64 bits"
    return "null" if value is None else f"{value!a:.60}"


def by_id(path: str, items: Iterable[tuple[str, Any]]) -> Parts:
    """Order tokens by their ids, which have no holes; of equal ids the first is the main one."""
    items = list(items)
    main: dict[int, str] = {}
    aliases: dict[str, int] = {}
    for token, number in items:
        check_id(path, token, number)
        if main.setdefault(number, token) != token:
            aliases[token] = number
    _check_text(path, [token for token, _ in items])
    tokens = []
    for number in range(len(main)):
        if number not in main:
            raise file_error(
                path,
                f"expected the ids 0 to {len(main) - 1}, one token or more each, got none with id "
                f"{number} (the largest is {max(main)}); give each id a token",
            )
        tokens.append(main[number])
    return Parts(tokens, aliases=aliases or None)


def check_id(path: str, token: str, number: Any) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise file_error(
            path,
            f"token {token!a:.60}: expected its id, a whole number in [0, 2**63), got "
            f"{kind_of(number)}; write the ids of tokens",
        )


def write_list(vocabulary: Vocabulary) -> bytes:
    return dumped("json", list(vocabulary))


def write_ids(vocabulary: Vocabulary) -> bytes:
    return dumped("json-ids", ids_of(vocabulary))


def ids_of(vocabulary: Vocabulary) -> dict[str, int]:
    """Every token and alias with its id; of equal ids the main token comes first."""
    return {token: number for number, token in enumerate(vocabulary)} | vocabulary.aliases


def dumped(what: str, content: Any, tokens: Iterable[str] | None = None) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",\n", ": "))
    if not is_text(text):
        token = next(token for token in tokens or content if not is_text(token))
        raise VocabularyError(
            f"{what}: expected tokens that are UTF-8 text, got {token!a:.60}, which is not; leave "
            'it out, or write format="text", which keeps all bytes'
        )
    return text.encode() + b"\n"
