"""What mkdocs and griffe are told beyond mkdocs.yml: pages from outside `docs`, and examples."""

import posixpath
import re
from pathlib import Path

from griffe import Extension
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Pages that lie beside what they are about, and their names in the site.
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "run_benchmarks.md",
    "examples/README.md": "examples.md",
}
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")


def on_files(files, config):
    """Add the pages from outside `docs`."""
    for place, name in OUTSIDE.items():
        text = (ROOT / place).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links that are right in the repository into those that are right in the site."""
    here = page.file.src_uri
    places = {name: place for place, name in OUTSIDE.items()}
    folder = posixpath.dirname(places.get(here, f"docs/{here}"))

    def turned(link):
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        target = OUTSIDE.get(target, "index.md" if target == "README.md" else target)
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(here) or ".")

    return LINK.sub(turned, markdown)


class Examples(Extension):
    """Google's style has sections "Examples"; the one example of a docstring here is "Example"."""

    def on_object(self, *, obj, **kwargs):
        """Name the section as griffe knows it, so that prompts become a block of code."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
