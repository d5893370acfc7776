"""What mkdocs and griffe are told beyond mkdocs.yml: pages from outside `docs`, and examples."""

import posixpath
import re
from pathlib import Path

from griffe import Extension
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Read in the repository where they lie, and in the site under the same names.
OUTSIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/README.md", "examples/README.md")
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)(?=[)#])")


def on_files(files, config):
    """Add the pages from outside `docs`."""
    for name in OUTSIDE:
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turn links that are right in the repository into those that are right in the site."""
    here = page.file.src_uri
    in_repository = here if here in OUTSIDE else f"docs/{here}"

    def turned(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), link[1]))
        target = "docs/index.md" if target == "README.md" else target
        if target not in OUTSIDE and not target.startswith("docs/"):
            return link[1]
        target = target.removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(here) or ".")

    return LINK.sub(turned, markdown)


class Examples(Extension):
    """Google's style has sections "Examples"; the one example of a docstring here is "Example"."""

    def on_object(self, *, obj, **kwargs):
        """Name the section as griffe knows it, so that prompts become a block of code."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
