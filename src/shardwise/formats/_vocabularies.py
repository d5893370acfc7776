"""Opens and writes vocabularies in the formats of others."""

from __future__ import annotations

import os
import re
import warnings
from typing import Any

from shardwise._errors import (
    FormatError,
    OptionError,
    ShardwiseWarning,
    VocabularyError,
    is_one_of,
    require,
)
from shardwise._folding import NormalForm
from shardwise._hashing import Buckets
from shardwise._vocabulary import Vocabulary
from shardwise.formats._file import BOM, StrPath
from shardwise.formats._tokenizer_json import read_tokenizer, write_tokenizer
from shardwise.formats._vocabulary_file import Parts, Unknown, file_error, read_file
from shardwise.formats._vocabulary_json import (
    is_tokenizer,
    parse_json,
    read_json,
    write_ids,
    write_list,
)
from shardwise.formats._vocabulary_text import (
    has_counts,
    is_keras,
    read_counts,
    read_keras,
    read_text,
    write_counts,
    write_keras,
    write_text,
)
from shardwise.formats._write import refuse_file, replacing

_TEXT = {"text": (read_text, write_text), "counts": (read_counts, write_counts)}
_JSON = {
    "json": (read_json, write_list),
    "json-ids": (read_json, write_ids),
    "tokenizer.json": (read_tokenizer, write_tokenizer),
}
_FORMATS = (*_TEXT, "keras", *_JSON)
_JSON_BEGIN = re.compile(rb'\s*[\[{]\s*"')  # what begins with brackets alone may be tokens
_WITH_ALIASES = ("json-ids", "tokenizer.json")


def open_vocabulary(
    path: StrPath,
    format: str | None = None,
    *,
    unknown: str | int | Buckets | None = None,
    casefold: bool = False,
    normal_form: NormalForm | None = None,
) -> Vocabulary:
    r"""Open a vocabulary that another program wrote.

    The formats are:

    - "text": a token a line, as BERT's vocab.txt and TensorFlow's files have it. Line `i`, from 0,
      is id `i`. Only a newline ends a line, or a carriage return and a newline, so a token may hold
      other white space, and an empty line is an empty token. A last line without a newline counts.
    - "counts": a token, a space or tab, and its count, a line, as GloVe, word2vec and gensim write
      them. The last space or tab parts them.
    - "keras": what `get_vocabulary()` of `StringLookup` and `TextVectorization` gives, as the text
      of their `save_assets`, or where the name ends in .json as a list: perhaps a mask token, then
      "[UNK]" once for each index of unknown tokens, then the tokens. With several such indices the
      vocabulary has `Buckets`, and a token of another name for each.
    - "json": a list of tokens in the order of their ids, or an object of tokens and ids, each id
      from 0 on once or more; of tokens with one id the first is the main one, the others are
      aliases. "json-ids" is the same, and its objects are what `write_vocabulary` writes by it.
    - "tokenizer.json" of Hugging Face: the tokens of its model (WordLevel, WordPiece, BPE or
      Unigram), those added to it, and its unknown token. Its normalizer becomes `normal_form` if
      it is one. Tokens are looked up whole: nothing is cut to pieces.

    A byte order mark is skipped. All of the file is read.

    Args:
        path: the file.
        format: one of the names above. None looks into the file: JSON is told by its content, as is
            a text that begins as Keras's with "[UNK]", perhaps after an empty line. Every other
            text is "text", and refused if every line ends in a number.
        unknown: as for `Vocabulary`; None takes what the file says, if it says something. For
            "keras" a `str` is the layer's `oov_token`, by default "[UNK]".
        casefold: as for `Vocabulary`.
        normal_form: as for `Vocabulary`.

    Raises:
        FormatError: the file is not what it promises; the message says where. Or a token is in it
            twice.
        OptionError: an option cannot have this value, or `unknown` is not a token of the file.
        OSError: the file cannot be opened.

    Warns:
        ShardwiseWarning: a tokenizer.json does something to tokens that no option here states
            exactly (such as `Lowercase`, which is not `casefold`), and neither `casefold` nor
            `normal_form` was passed. It is left out.

    Example:
        >>> import pathlib, tempfile
        >>> from shardwise import formats
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "vocab.txt")
        ...     _ = path.write_text("[PAD]\n[UNK]\nking\nqueen\n")
        ...     vocabulary = formats.open_vocabulary(path, unknown="[UNK]")
        >>> vocabulary.encode(["queen", "jack"])
        array([3, 1])
    """
    _require_format(format)
    name, raw = read_file(path)
    parts = _read(name, raw, format, unknown)
    is_told = casefold or normal_form is not None
    if parts.normalizer is not None and not is_told:
        warnings.warn(
            f"{name}: its normalizer, {parts.normalizer}, is left out, as no option states it "
            "exactly: tokens are looked up as they are; bring text to that form before, or pass "
            "casefold= or normal_form=",
            ShardwiseWarning,
            stacklevel=2,
        )
    try:
        return Vocabulary(
            parts.tokens,
            unknown=parts.unknown,
            counts=parts.counts,
            aliases=parts.aliases,
            casefold=casefold,
            normal_form=parts.normal_form if normal_form is None else normal_form,
        )
    except VocabularyError as error:
        raise file_error(name, error) from None


def _require_format(format: str | None) -> None:
    if format is not None and (not is_one_of(format, _FORMATS)):
        known = ", ".join(map(repr, _FORMATS))
        raise OptionError(
            f"expected the format of a vocabulary, one of {known}, got {format!r:.40}"
        )


def _read(name: str, raw: bytes, format: str | None, unknown: Unknown) -> Parts:
    content = None
    if format is None:
        format, content = _detect(name, raw)
    if format == "keras":
        return read_keras(name, raw, unknown, _is_json(name))
    if format in _TEXT:
        parts = _TEXT[format][0](name, raw)
    else:
        content = parse_json(name, raw) if content is None else content
        parts = _JSON[format][0](name, content)
    return parts if unknown is None else parts._replace(unknown=unknown)


def _detect(name: str, raw: bytes) -> tuple[str, Any]:
    """Return the format of a file, and of JSON what it holds."""
    if _is_json(name):
        content = parse_json(name, raw)
        return "tokenizer.json" if is_tokenizer(content) else "json", content
    if _JSON_BEGIN.match(raw.removeprefix(BOM)):
        try:
            content = parse_json(name, raw)
        except FormatError:  # text whose first tokens are such
            pass
        else:
            return "tokenizer.json" if is_tokenizer(content) else "json", content
    if is_keras(raw):
        return "keras", None
    if has_counts(raw):
        raise file_error(
            name,
            "expected tokens, or tokens and counts, got a number at the end of every line, which "
            'may be either; pass format="counts", or format="text"',
        )
    return "text", None


def _is_json(name: str) -> bool:
    return name.lower().endswith(".json")


def write_vocabulary(
    vocabulary: Vocabulary,
    path: StrPath,
    format: str | None = None,
    *,
    overwrite: bool = False,
) -> None:
    r"""Write a vocabulary for another program; `open_vocabulary` says what the formats are.

    Its tokens and their ids are in each format. The file is whole at the end, or as it was before.

    - "text", "counts" and "json" (a list) have no place for `unknown`: who reads them must name it.
    - "counts" has the counts, which the others leave out.
    - "keras" has `unknown` in its order: as the first token, or the second after a mask, or as
      `Buckets` that begin there. A layer with another name than "[UNK]" needs `oov_token=`. A name
      that ends in .json gives a list, any other the text of `save_assets`.
    - "json-ids" is an object of ids, and alone with "tokenizer.json" has aliases.
    - "tokenizer.json" is a WordLevel model for `tokenizers.Tokenizer.from_file`, without a
      pre-tokenizer: it takes each text as one token, and gives it the id that it has here.

    Args:
        vocabulary: the tokens.
        path: the file.
        format: one of the names of `open_vocabulary`. None goes by the file's name:
            tokenizer.json, or "json" for .json, and "text" for .txt.
        overwrite: replace a file that is there.

    Raises:
        OptionError: there is no such format, or it cannot hold the vocabulary's options (buckets,
            aliases, an unknown id without a token) or lacks counts.
        VocabularyError: it cannot hold one of the tokens: with a newline as text, say, or of bytes
            that are not UTF-8 as JSON.
        TableExistsError: there is a file, and `overwrite` is false; or something else.
        TableNotFoundError: there is no directory to write it in.
        OSError: the file cannot be written.

    Warns:
        ShardwiseWarning: the format has no place for `casefold` or `normal_form`.

    Example:
        >>> import pathlib, tempfile
        >>> from shardwise import Vocabulary, formats
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     formats.write_vocabulary(Vocabulary(["king", "queen"]), f"{folder}/vocab.txt")
        ...     pathlib.Path(folder, "vocab.txt").read_bytes()
        b'king\nqueen\n'
    """
    require(vocabulary, Vocabulary, "vocabulary", VocabularyError)
    _require_format(format)
    name = os.fspath(path)
    form = _format_of(name) if format is None else format
    refuse_file(name, overwrite)
    _refuse_options(vocabulary, form)
    raw = _bytes_of(vocabulary, form, name)
    rules = [f"normal_form={vocabulary.normal_form!r}"] if vocabulary.normal_form else []
    rules += ["casefold=True"] if vocabulary.casefold else []
    if rules and form != "tokenizer.json":
        warnings.warn(
            f"{form} has no place for {' and '.join(rules)}: {name} has the tokens alone; pass "
            "them again to open_vocabulary",
            ShardwiseWarning,
            stacklevel=2,
        )
    with replacing(name, overwrite) as (_, file):
        file.write(raw)


def _format_of(name: str) -> str:
    base = os.path.basename(name).lower()
    if base == "tokenizer.json":
        return "tokenizer.json"
    if base.endswith((".json", ".txt")):
        return "json" if base.endswith(".json") else "text"
    raise OptionError(
        "expected a file name that ends in .txt or .json, got "
        f"{os.path.basename(name)!r}; or pass format="
    )


def _refuse_options(vocabulary: Vocabulary, form: str) -> None:
    aliases = vocabulary.aliases
    if aliases and form not in _WITH_ALIASES:
        raise OptionError(
            f"{form}: expected a vocabulary without aliases, got {len(aliases)}, such as "
            f'{next(iter(aliases))!r:.60}; write format="json-ids", which has them'
        )
    if isinstance(vocabulary.unknown, Buckets) and form != "keras":
        raise OptionError(
            f"{form}: expected a vocabulary without buckets, which it has no place for, got "
            f"{vocabulary.unknown!r}; write Vocabulary(list(vocabulary)), and pass unknown= again "
            "to open_vocabulary, or keep all of it with vocabulary.save"
        )


def _bytes_of(vocabulary: Vocabulary, form: str, name: str) -> bytes:
    if form == "keras":
        return write_keras(vocabulary, _is_json(name))
    write = _TEXT[form][1] if form in _TEXT else _JSON[form][1]
    return write(vocabulary)
