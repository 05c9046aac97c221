"""A hook of mkdocs: files outside docs/ that its pages link to become part of the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
# Their paths in the checkout and on the site.
OUTSIDE = {
    "SECURITY.md": "SECURITY.md",
    "benchmarks/results/beside-others.svg": "beside-others.svg",
}


def on_files(files: Files, config: Any) -> Files:
    """RETURNS (Files): The site's files, with those from outside."""
    for place, name in OUTSIDE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """RETURNS (str): A page whose links to files of the checkout are links on the site."""
    if page.file.src_uri in OUTSIDE.values():  # one folder higher than on the site
        return re.sub(r"\]\(docs/", "](", markdown)
    up = "../" * page.file.src_uri.count("/")
    for place, name in OUTSIDE.items():
        markdown = markdown.replace(f"](../{up}{place}", f"]({up}{name}")
    return markdown
