"""Case folding and Unicode normal forms of tokens."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

import numpy as np

from shardwise import _native
from shardwise._errors import OptionError, is_one_of
from shardwise._tokens import Bytes, Ids, Token, pack_tokens, token_bytes

NormalForm: TypeAlias = Literal["NFC", "NFD", "NFKC", "NFKD"]


@dataclass(frozen=True)
class Folding:
    """What is done to tokens before they are compared: false if nothing is.

    The normal form comes first, then case folding, then the normal form again, which case folding
    may undo (Unicode Standard, section 3.13, "Caseless Matching").

    Raises:
        OptionError: there is no such normal form, or `casefold` is neither true nor false.
    """

    casefold: bool = False
    normal_form: NormalForm | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.casefold, (bool, np.bool_)):
            raise OptionError(f"expected casefold as True or False, got {self.casefold!r:.40}")
        object.__setattr__(self, "casefold", bool(self.casefold))
        form = self.normal_form
        if form is not None and (not is_one_of(form, get_args(NormalForm))):
            known = ", ".join(map(repr, get_args(NormalForm)))
            raise OptionError(f"expected normal_form as one of {known}, or None, got {form!r:.40}")

    def __bool__(self) -> bool:
        return self.casefold or self.normal_form is not None

    def fold(self, text: str) -> str:
        """Return the text folded; a NUL in it stays one, and what it parts does not mix."""
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:  # lone surrogates stand for bytes, which may be text
                text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        if self.normal_form is not None:
            text = unicodedata.normalize(self.normal_form, text)
        if self.casefold:
            text = text.casefold()
            if self.normal_form is not None:
                text = unicodedata.normalize(self.normal_form, text)
        return text

    def fold_tokens(self, tokens: Sequence[Token]) -> list[str]:
        """Return all tokens folded.

        Raises:
            VocabularyError: a token cannot be written as UTF-8.
            TokenTypeError: a token is neither `str` nor `bytes`.
        """
        joined = self._joined(tokens)
        if joined is not None:
            return joined.split("\0")
        encoded = [token_bytes(token, i) for i, token in enumerate(tokens)]
        return [self.fold(token.decode("utf-8", "surrogateescape")) for token in encoded]

    def pack(self, tokens: Sequence[Token]) -> tuple[Bytes, Ids]:
        """Lay the folded tokens' bytes end to end, as `pack_tokens`."""
        if not self:
            return pack_tokens(list(tokens))
        joined = self._joined(tokens)
        if joined is None:
            return pack_tokens(self.fold_tokens(tokens))
        encoded = joined.encode("utf-8", "surrogateescape")
        offsets = np.zeros(len(tokens) + 1, np.int64)
        data = np.empty(len(encoded) - len(tokens) + 1, np.uint8)
        _native.unjoin_tokens(encoded, data, offsets)
        return data, offsets

    def _joined(self, tokens: Sequence[Token]) -> str | None:
        """All tokens folded, with NULs between them; None if they must be taken one by one."""
        try:
            joined = "\0".join(cast("Sequence[str]", tokens))
            if joined.count("\0") != len(tokens) - 1:
                return None
            return self.fold(joined)
        except (TypeError, UnicodeEncodeError):  # bytes among them, or a mistake to name
            return None
