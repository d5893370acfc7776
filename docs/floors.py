"""Draw the floors of the design, as pyproject.toml's import contract has them: docs/floors.svg.

Run it after a change of the contract: `python docs/floors.py`. The tests compare the picture.
"""

import re
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).with_name("floors.svg")
WIDTH, MARGIN, LINE, GAP = 920, 12, 26, 8
LETTER = 7.3  # the width of a letter of 12 pixels, a little too wide for most fonts
NATIVE = [
    ("native/bindings: nanobind, one file for each of the core's, without loops", "#d9ead3"),
    (
        "native/core: C++20 that knows nothing of Python, one kernel source for all levels",
        "#d9ead3",
    ),
]


def floors():
    """The names of each floor, the highest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["name"] == "floors")
    return [
        [name.strip().removeprefix("shardwise.") for name in re.split(r"[|:]", layer)]
        for layer in layers
    ]


def purpose(name):
    """The first line of a module's docstring."""
    path = ROOT / "src" / "shardwise" / name.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return "the compiled module"
    found = re.match(r'"""(.*?)(?:"""|\n)', path.read_text(encoding="utf-8"))
    return found[1] if found else name


def box(x, y, wide, high, fill, more=""):
    return f'<rect x="{x:.0f}" y="{y}" width="{wide:.0f}" height="{high}" fill="{fill}"{more}/>'


def band(top, names):
    """The boxes of one floor, and the height of its band."""
    boxes, x, y = [], MARGIN + GAP, top + GAP
    for name in names:
        wide = len(name) * LETTER + 16
        if x + wide > WIDTH - MARGIN - GAP:
            x, y = MARGIN + GAP, y + LINE + GAP
        edge = box(x, y, wide, LINE, "#ffffff", ' rx="4" stroke="#5b7083"')
        middle = f'<text x="{x + wide / 2:.0f}" y="{y + 17}" text-anchor="middle">'
        boxes.append(
            f"<g><title>{escape(purpose(name))}</title>{edge}{middle}{escape(name)}</text></g>"
        )
        x += wide + GAP
    if len(names) == 1:  # there is room to say what it is
        text = escape(purpose(names[0]).rstrip("."))
        boxes.append(f'<text x="{x + GAP:.0f}" y="{y + 17}" fill="#51616d">{text}</text>')
    return boxes, y + LINE + GAP - top


def picture():
    """The picture as the text of an SVG file."""
    parts, y = [], MARGIN
    for k, names in enumerate(floors()):
        boxes, height = band(y, names)
        fill = "#dbe7f3" if k % 2 else "#e9f0f7"
        parts.append(box(MARGIN, y, WIDTH - 2 * MARGIN, height, fill))
        parts += boxes
        y += height + 4
    for text, fill in NATIVE:
        parts.append(box(MARGIN, y, WIDTH - 2 * MARGIN, LINE + 6, fill))
        parts.append(f'<text x="{MARGIN + 2 * GAP}" y="{y + 21}">{escape(text)}</text>')
        y += LINE + 10
    height = y + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12" fill="#1d2b36">\n'
        "<title>The floors of shardwise: a file imports only from floors below its own</title>\n"
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
