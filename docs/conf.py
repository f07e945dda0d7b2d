"""The documentation site: `sphinx-build -W -n docs build/site`. No network is needed."""

import pathlib
import re
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import pages  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

import cotjax  # noqa: E402

project = "cotjax"
author = "the authors of cotjax"
release = version = cotjax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["results/*", "results/**/*.md", "figures/*", "examples/*"]
nitpicky = True
# Types of other packages have no page here; a name of cotjax must have one.
nitpick_ignore_regex = [(r"py:.*", r"(?!cotjax).*"), (r"py:.*", r"cotjax\..*\.(?!core)[A-Z]\w*")]
suppress_warnings = ["myst.xref_ambiguous"]

# Markdown.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4
myst_dmath_double_inline = False
myst_dmath_allow_digits = False

# Docstrings: Google's sections; single backticks are code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Returns"]  # a text, not a type
napoleon_use_admonition_for_examples = False
maximum_signature_line_length = 78

# Looks.
html_theme = "furo"
html_title = "cotjax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b6e4f",
        "color-brand-content": "#0b6e4f",
        "font-stack--monospace": "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace",
    },
    "dark_css_variables": {
        "color-brand-primary": "#5fd3a5",
        "color-brand-content": "#5fd3a5",
    },
    "top_of_page_buttons": [],
}


def read_page(app, docname, source):
    """Puts what is made from the code into a page."""
    source[0] = pages.page(source[0], depth=docname.count("/"))


SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Example|Examples|Source|Yields|Note|Warns):")


def read_docstring(app, what, name, obj, options, lines):
    """Makes a plain-text docstring what reStructuredText means by it.

    Indented lines before the first section are equations, kept as they stand; `*`, `|` and a
    trailing `_` outside of code are characters.
    """
    made, in_section, in_block, in_example = [], False, False, False
    for line in lines:
        plain = line.strip()
        if not plain:
            in_example = False
            made.append(line)
            continue
        indented = line.startswith("    ")
        if SECTION.match(line):
            in_section = True
        if plain.startswith((">>>", "...")):
            in_example = True
        if not in_section and indented and not in_example:
            if not in_block:
                made += [".. code-block:: text", ""]
            in_block = True
            made.append(line)
            continue
        if in_block and made[-1]:
            made.append("")
        in_block = False
        made.append(line if in_example else _escaped(line))
    lines[:] = made


def _escaped(line):
    parts = re.split(r"(`[^`]*`)", line)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"(?<!\\)([*|])|(?<=\w)_(?=\W|$)", r"\\\g<0>", parts[place])
    for place in range(1, len(parts), 2):
        behind = parts[place + 1][:1]
        parts[place] = f"`{parts[place]}`" + ("\\ " if behind.isalnum() else "")
    return "".join(parts)


def mathml(text, display="inline"):
    """MathML of a formula; names of functions are no operators, which would have wide spaces."""
    made = convert(text, display=display)
    space = '<mspace width="0.16em" />'
    made = re.sub(r"<mo>(min|max)</mo>", rf"{space}<mi>\1</mi>", made)
    return made.replace("<mo>log</mo>", f"{space}<mi>log</mi>{space}")


def inline_math(self, node):
    """A formula in a line, which browsers draw themselves."""
    self.body.append(f'<span class="math">{mathml(node.astext())}</span>')
    raise _skip()


def block_math(self, node):
    """A formula on lines of its own."""
    formula = mathml(node.astext(), "block")
    self.body.append(f'<div class="math" tabindex="0">{formula}</div>')
    raise _skip()


def _skip():
    from docutils import nodes

    return nodes.SkipNode()


def write_llms(app, failure):
    """Writes llms.txt, a list of all pages, and the pages' Markdown beside them."""
    if failure or app.builder.name != "html":
        return
    found = {}
    for name in sorted(app.env.found_docs):
        text = pages.page((HERE / f"{name}.md").read_text("utf-8"), depth=name.count("/"))
        target = pathlib.Path(app.outdir) / f"{name}.md"
        target.write_text(text, encoding="utf-8")
        found[f"{name}.md"] = pages.summary(text)
    (pathlib.Path(app.outdir) / "llms.txt").write_text(pages.llms(found), encoding="utf-8")


def setup(app):
    """Registers what stands above."""
    app.add_html_math_renderer("mathml", (inline_math, None), (block_math, None))
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)
    app.connect("build-finished", write_llms)
    return {"parallel_read_safe": True}
