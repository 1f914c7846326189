"""What the site needs beyond MkDocs: maths without scripts, examples as code, links into the repository.

Maths is MathML, made when the site is built, so that pages need no network. It may be written as

    ```math ... ```     a block, which GitHub shows too
    $`...`$             within a line, as on GitHub
    .. math:: ...       a block of a docstring; :math:`...` within its lines

Links out of docs/ lead to a copy on the site where it is of a result or a picture. Others lead to the
repository, whose address is `url` in the section `[metadata]` of setup.cfg; without one only their
words stay.
"""

import configparser
import posixpath
import re
import textwrap
from pathlib import Path

import latex2mathml.converter
from markdown import Extension
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r" *(`{3,}|~{3,})(\w*)")
PICTURES = (".png", ".svg", ".jpg")
# What latex2mathml does not know, or spaces as a product of letters.
SPELLINGS = (
    (r"\\arg\b", r"\\operatorname{arg}"),
    (r"\\mathrm{(\w\w+)}", r"\\operatorname{\1}"),
    (r"\\Big\\([lr])floor", r"\\\1floor"),
)


def on_config(config):
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    config.repo_url = settings.get("metadata", "url", fallback="").rstrip("/") or None
    config.markdown_extensions.append(Docstrings())
    return config


def on_files(files, config):
    """Adds the results that pages link to, and what these link to."""
    waiting = [file for file in files if file.is_documentation_page()]
    while waiting:
        page = waiting.pop()
        for link in LINK.finditer(page.content_string):
            path = _shown(_in_repository(page.src_uri, link["target"]))
            if path and not files.get_file_from_path(path):
                file = File.generated(config, path, abs_src_path=str(ROOT / path))
                file.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(file)
                if file.is_documentation_page():
                    waiting.append(file)
    return files


def on_page_markdown(markdown, page, config, files):
    def rewrite(link):
        path = _in_repository(page.file.src_uri, link["target"])
        if path is None or path.startswith("docs/"):
            return link[0]
        shown, anchor = _shown(path), "".join(link["target"].partition("#")[1:])
        if shown:
            target = posixpath.relpath(shown, posixpath.dirname(page.file.src_uri) or ".")
        elif config.repo_url:
            target = f"{config.repo_url}/blob/main/{path}"
        else:
            return link["text"]
        return f"{link['image']}[{link['text']}]({target}{anchor})"

    folder = posixpath.dirname(page.file.src_uri)
    title = f"# {folder}\n\n" if folder.startswith("results/") else ""  # they have none
    return title + LINK.sub(rewrite, markdown)


def _in_repository(page: str, target: str) -> str | None:
    """The path of a link's target from the root of the repository; None if it is no such path."""
    if re.match(r"\w+:|#|/", target):
        return None
    folder = posixpath.dirname(page if page.startswith("results/") else f"docs/{page}")
    return posixpath.normpath(posixpath.join(folder, target.partition("#")[0]))


def _shown(path: str | None) -> str | None:
    """Which file the site shows of a path outside of docs/: of a folder its page, if it has one."""
    if path is None or path.startswith(("docs/", "..")):
        return None
    candidates = [path, f"{path}/table.md", f"{path}/{posixpath.basename(path)}.md"]
    found = next((c for c in candidates if (ROOT / c).is_file()), None)
    return found if found and (found.startswith("results/") or found.endswith(PICTURES)) else None


def mathml(latex: str, display: str) -> str:
    """One formula, `display` "block" or "inline"."""
    for pattern, replacement in SPELLINGS:
        latex = re.sub(pattern, replacement, latex)
    html = latex2mathml.converter.convert(" ".join(latex.split()), display=display)
    if "\\" in html:
        raise PluginError(f"{latex!r} has a command that latex2mathml does not know: {html}")
    return html


class Docstrings(Extension):
    """Maths, in pages and docstrings, and examples that follow a docstring's text."""

    def extendMarkdown(self, md):
        # Before fences (25) are taken out, and before code between backticks (190).
        md.preprocessors.register(_Blocks(md), "maths_and_examples", 27)
        md.inlinePatterns.register(_Inline(r"(?::math:`|\$`)([^`]+)`\$?", md), "maths", 195)


class _Inline(InlineProcessor):
    def handleMatch(self, m, data):
        return self.md.htmlStash.store(mathml(m[1], "inline")), m.start(0), m.end(0)


class _Blocks(Preprocessor):
    def run(self, lines):
        lines, out = list(lines), []
        while lines:
            line = lines.pop(0)
            indent = line[: len(line) - len(line.lstrip())]
            fence = FENCE.match(line)
            if fence:
                body = _take(lines, lambda x, end=fence[1]: x.strip() != end)
                end = lines.pop(0) if lines else ""
                formula = "\n".join(body) if fence[2] == "math" else None
                out += [line, *body, end] if formula is None else self._formula(indent, formula)
            elif line.lstrip().startswith(".. math::"):
                more = _take(lines, lambda x, by=indent: x.strip() and x.startswith(by + " "))
                formula = "\n".join([line.partition("::")[2], *more])
                out += self._formula(indent, formula)
            elif line.lstrip().startswith(">>> "):
                code = [line, *_take(lines, str.strip)]
                code = textwrap.indent(textwrap.dedent("\n".join(code)), indent).split("\n")
                out += ["", f"{indent}```pycon", *code, f"{indent}```", ""]
            else:
                out.append(line)
        return out

    def _formula(self, indent, latex):
        html = f'<div class="formula">{mathml(latex, "block")}</div>'
        return ["", indent + self.md.htmlStash.store(html), ""]


def _take(lines, belongs):
    """Removes and returns the first lines that belong."""
    taken = []
    while lines and belongs(lines[0]):
        taken.append(lines.pop(0))
    return taken
