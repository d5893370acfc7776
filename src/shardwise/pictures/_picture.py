"""Words in the plane, drawn by matplotlib, with labels that do not overlap.

All places are in points (1/72 inch) from the lower left corner, for the picture and its axes too,
so that a picture is laid out alike whatever it is saved as.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardwise._errors import MissingLibraryError, OptionError

PICTURES = (".pdf", ".png", ".svg")
MOST_WORDS = 500  # that a picture shows

_LONGEST = 40  # characters of a label
_FONT_SIZE = 9.0
_RADIUS = 2.5  # of a dot
_GAP = 3.0  # between labels; more than the widths of a text differ from one backend to another
_RESOLUTIONS = (72, 100, 150)  # dots an inch: of svg and pdf, of matplotlib's own, of png
_MARGIN = 6.0  # around the picture
_INSET = 0.08  # of the picture's width and height, that dots keep from its edge
_SMALLEST = (576.0, 432.0)
_REACH = 60.0  # how far a label may be from its dot, before the picture is made larger
_GROWTH = 1.4
_STYLE = ("#1a1a1a", "#8a8f98")  # of words that were asked for, and of the others


def draw(
    points: NDArray[np.float64], tokens: Sequence[str], asked: Sequence[bool], form: str
) -> tuple[bytes, list[str]]:
    """Return a picture of tokens, and the labels that no font of this machine can show.

    Args:
        points: float64[tokens, 2], finite; both axes get the same scale.
        tokens: what is written beside each; see `label`.
        asked: which to show darker and larger.
        form: one of `PICTURES`. The same tokens and points give the same bytes.

    Raises:
        OptionError: there are too many tokens to show.
        MissingLibraryError: matplotlib is not installed.
    """
    figure, missing = lay_out(points, tokens, asked)
    # What would tell when, and otherwise differ from run to run, is left out.
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}, ".png": {}}[form]
    file = io.BytesIO()
    with _plain_style():
        figure.savefig(file, format=form[1:], dpi=_RESOLUTIONS[-1], metadata=metadata)
    return file.getvalue(), missing


def lay_out(
    points: NDArray[np.float64], tokens: Sequence[str], asked: Sequence[bool]
) -> tuple[Any, list[str]]:
    """Return matplotlib's figure, and the labels that no font can show; see `draw`."""
    check_library()
    if len(tokens) > MOST_WORDS:
        raise OptionError(
            f"expected at most {MOST_WORDS} words to draw, got {len(tokens)}; `shardwise explore` "
            "shows more"
        )
    from matplotlib.figure import Figure

    labels = [label(token) for token in tokens]
    with _plain_style():
        fonts, missing = _fonts(labels)
        sizes = _sizes(labels, asked, fonts)
        order = sorted(range(len(labels)), key=lambda i: not asked[i])  # these nearest their dots
        (width, height), reach = _first_size(sizes), _REACH
        while True:
            dots = _dots(points, width, height)
            corners = _place(dots, sizes, order, (width, height), reach)
            if corners is not None:
                break
            width, height, reach = width * _GROWTH, height * _GROWTH, reach * _GROWTH
        figure = Figure(figsize=(width / 72, height / 72), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        axes.set_axis_off()
        for kind in (False, True):
            some = np.flatnonzero(np.array(asked, bool) == kind)
            scale = 1.0 if kind else 0.7
            x, y = dots[some].T
            axes.scatter(x, y, s=(2 * _RADIUS * scale) ** 2, c=_STYLE[not kind], lw=0, zorder=2)
            for i in some.tolist():
                _write(axes, labels[i], corners[i], sizes[i], dots[i], kind, fonts)
    return figure, missing


def check_library() -> None:
    """See to it that matplotlib is installed: before long work.

    Raises:
        MissingLibraryError: it is not.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingLibraryError(
            "expected the library matplotlib to draw a picture, got none; install it: "
            'pip install "shardwise[plot]"'
        ) from None


def label(token: str) -> str:
    """Return what is written for a token: on one line, and not too long.

    What cannot be seen or written, such as a line's end or half of a surrogate pair, is written as
    Python would, and a token of nothing but space in quotes.
    """
    cut = token[: _LONGEST - 1] + "…" if len(token) > _LONGEST else token
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut
    )
    if len(shown) > 2 * _LONGEST:
        shown = shown[: 2 * _LONGEST - 1] + "…"
    return shown if shown.strip() else f'"{shown}"'


@contextlib.contextmanager
def _plain_style() -> Iterator[None]:
    """Leave out what the user's own settings would change: a picture is the same everywhere."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # The labels that are meant are told by `draw`; and what else it warns of has no remedy.
        warnings.filterwarnings("ignore", "(?s).*[Gg]lyph.*missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "shardwise"
        matplotlib.rcParams["font.size"] = _FONT_SIZE
        yield


def _fonts(labels: list[str]) -> tuple[list[str], list[str]]:
    """The fonts to write with, each for what those before it lack; and labels none can write."""
    from matplotlib import font_manager

    fonts = ["DejaVu Sans"]  # comes with matplotlib
    known = set(font_manager.get_font(font_manager.findfont(fonts[0])).get_charmap())
    wanted = {ord(c) for text in labels for c in text} - known
    seen = set(fonts)
    for entry in sorted(font_manager.fontManager.ttflist, key=lambda e: (e.name, e.fname)):
        if not wanted:
            break
        if entry.name in seen or entry.style != "normal" or not os.path.exists(entry.fname):
            continue
        if entry.name.startswith("Last Resort"):  # has a box for every character
            continue
        seen.add(entry.name)
        try:
            has = wanted & set(font_manager.get_font(entry.fname).get_charmap())
        except Exception:  # a font of coloured bitmaps, or a broken one
            continue
        if has:
            fonts.append(entry.name)
            wanted -= has
    return fonts, [text for text in labels if any(ord(c) in wanted for c in text)]


def _sizes(labels: list[str], asked: Sequence[bool], fonts: list[str]) -> NDArray[np.float64]:
    """Widths and heights of the labels, as they will be drawn: float64[labels, 2].

    A text's width is not in proportion to its resolution: the largest of some counts.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    result = np.full((len(labels), 2), 2.0)
    for dpi in _RESOLUTIONS:
        figure = Figure(dpi=dpi)
        canvas: Any = FigureCanvasAgg(figure)
        renderer = canvas.get_renderer()
        for i, text in enumerate(labels):
            shown = figure.text(0, 0, text, **_text_style(asked[i], fonts))
            box = shown.get_window_extent(renderer)
            result[i] = np.maximum(result[i], np.array([box.width, box.height]) * 72 / dpi)
            shown.remove()
    return result


def _text_style(asked: bool, fonts: list[str]) -> dict[str, Any]:
    return {
        "color": _STYLE[not asked],
        "family": fonts,
        "fontsize": _FONT_SIZE if asked else _FONT_SIZE - 1,
        "parse_math": False,  # a dollar sign is one
        "ha": "center",
        "va": "center",
    }


def _first_size(sizes: NDArray[np.float64]) -> tuple[float, float]:
    """Width and height of a picture in which these labels have room, in a ratio of 4 to 3."""
    area = 5 * float(np.prod(sizes + 2 * _GAP, axis=1).sum())
    widest = float(sizes[:, 0].max(initial=0.0)) + 2 * _MARGIN
    width = max(_SMALLEST[0], math.sqrt(area * 4 / 3), widest)
    return width, width * 3 / 4


def _dots(points: NDArray[np.float64], width: float, height: float) -> NDArray[np.float64]:
    """Where the dots lie: both axes in one scale, in the middle."""
    if not len(points):
        return np.empty((0, 2))
    # Halves, whose difference no float64 is too small for.
    halves = points / 2
    low, high = halves.min(axis=0), halves.max(axis=0)
    room = np.array([width, height]) * (1 - 2 * _INSET)
    extent = high - low
    with np.errstate(all="ignore"):
        # Of each axis's share of the larger one: quotients that cannot overflow.
        largest = float((extent / room).max())
        moved = (halves - (low / 2 + high / 2)) / largest if largest > 0 else np.zeros_like(halves)
    moved = np.where(np.isfinite(moved), moved, 0.0)
    placed: NDArray[np.float64] = moved + np.array([width, height]) / 2
    return placed


def _candidates(size: NDArray[np.float64], reach: float) -> Iterator[NDArray[np.float64]]:
    """Rings of places for a label's middle around its dot, from near to far: float64[n, 2]."""
    half = size / 2
    away = _RADIUS + 1.5
    # Right, left, above, below, and then the corners.
    sides = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, 1], [1, -1], [-1, -1]])
    yield sides * (half + away)
    distance = away + 4.0
    while distance < reach:
        count = int(16 + distance / 8)
        turns = 2 * np.pi * np.arange(count) / count
        yield np.stack([np.cos(turns), np.sin(turns)], axis=1) * (half + distance)
        yield sides * (half + distance)
        distance += 4.0 + distance / 8


def _place(
    dots: NDArray[np.float64],
    sizes: NDArray[np.float64],
    order: list[int],
    canvas: tuple[float, float],
    reach: float,
) -> NDArray[np.float64] | None:
    """The middle of each label, float64[labels, 2]; None where one finds no room.

    One label after the other takes the nearest place to its dot that is on the picture, and on
    which no label lies and no dot.
    """
    middles = np.empty((len(sizes), 2))
    taken = np.empty((len(sizes), 2))  # middles, in the order of placing
    halves = np.empty((len(sizes), 2))
    edge = np.array(canvas) - _MARGIN
    for count, i in enumerate(order):
        half = sizes[i] / 2
        # What a label could lie on, dots and labels, and how far its middle must be from theirs.
        middle = np.concatenate([dots, taken[:count]])
        needed = half + np.concatenate([np.full((len(dots), 2), _RADIUS), halves[:count] + _GAP])
        near = (np.abs(middle - dots[i]) < half + reach + needed).all(axis=1)
        middle, needed = middle[near], needed[near]
        for offsets in _candidates(sizes[i], reach):
            tried = dots[i] + offsets
            tried = tried[((tried - half >= _MARGIN) & (tried + half <= edge)).all(axis=1)]
            clear = (np.abs(tried[:, None] - middle) >= needed).any(axis=2).all(axis=1)
            if clear.any():
                middles[i] = taken[count] = tried[np.argmax(clear)]
                halves[count] = half
                break
        else:
            return None
    return middles


def _write(
    axes: Any,
    text: str,
    middle: NDArray[np.float64],
    size: NDArray[np.float64],
    dot: NDArray[np.float64],
    asked: bool,
    fonts: list[str],
) -> None:
    nearest = np.clip(dot, middle - size / 2, middle + size / 2)
    if float(np.hypot(*(nearest - dot))) > 2.4 * _RADIUS:  # whose it is would not be clear
        axes.plot(*np.stack([dot, nearest]).T, color="#c4c8ce", lw=0.5, zorder=1)
    axes.text(*middle, text, zorder=3, **_text_style(asked, fonts))
