"""Sphinx extension: pages that are quick on a slow line.

The notebooks hold their figures in the page itself, so that a notebook needs no other file. A
built page needs to wait for none that is not seen: its figures become files beside it, loaded
when a reader comes near, at a place that is kept free for them. So is a place for each formula,
about as wide as MathJax will make it. The theme brings two thousand
icons, as a script and as fonts; the book keeps the dozen that it shows. The index of the search
is read by the page of the search alone.
"""

import base64
import hashlib
import html
import io
import logging
import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont
from PIL import Image

FOLDER = "_images"
DATA = r"data:image/(png|webp|svg\+xml);base64,([A-Za-z0-9+/=]+)"
FIGURE = re.compile(rf'<img class="dark-light" style="width:(\d+)px;([^>]*?) src="{DATA}">')
FRAME = re.compile(rf'"{DATA}"')
FORMULA = re.compile(
    r'<(span|div) class="(math notranslate nohighlight)"([^>]*)>\s*(\\[(\[].*?)</\1>', re.S
)
SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:_static/searchtools|_static/language_data|searchindex)\.js[^"]*">\s*</script>'
)
ICONS = re.compile(r'\s*<script defer(?:="")? src="[^"]*scripts/fontawesome\.js[^"]*">\s*</script>')

STYLES = "_static/styles/pydata-sphinx-theme.css"
ICON_SCRIPT = "_static/scripts/fontawesome.js*"
FONTS = "_static/vendor/fontawesome/webfonts"
ICON_RULE = re.compile(r'((?:,?\.fa-[\w-]+:before)+)\{content:"(\\[0-9a-f]+|.)"\}')
FONT_FACE = re.compile(r"(@font-face\{[^}]*?src:)url\([^)]*?(fa-[\w-]+)\.woff2\)[^}]*\}")


# Widths in em of the parts of a formula, a least-squares fit to 330 that MathJax had set; half an em off.
RELATIONS = r"\\(?:[lg]eq?|neq|approx|in|to|cdot|times|colon|mid|subset|equiv)(?![a-zA-Z])|[=<>+−-]"
SILENT = r"\\(?:tilde|bar|hat|math\w+|text|operatorname|left|right|[bB]igg?[lr]?|[dt]?frac|sqrt|q?quad|[,;!])(?![a-zA-Z])\*?"
NAMES = r"\\(?:min|max|inf|sup|log|exp|cos|arg|sgn)(?![a-zA-Z])"
SCRIPTS = r"[_^](?:\{[^{}]*\}|[^{])"
POINTS = r"[(),|.!]"


def width_of(formula):
    """About how wide a formula in a line will be, in em."""
    relations = len(re.findall(RELATIONS, formula))
    rest = re.sub(SILENT, "", re.sub(RELATIONS, "", formula))
    names = len(re.findall(NAMES, rest))
    rest = re.sub(r"\\[a-zA-Z]+\*?|\\.", "X", rest)
    scripts = sum(len(one.strip("_^{} ")) for one in re.findall(SCRIPTS, rest))
    rest = re.sub(r"[{}\s]", "", re.sub(SCRIPTS, "", rest))
    points = len(re.findall(POINTS, rest))
    return (
        0.65 * (len(rest) - points)
        + 0.5 * points
        + 0.48 * scripts
        + 1.49 * relations
        + 1.29 * names
    )


def keep_room(found):
    """A formula that is not set yet, with the room that it will take."""
    kind, classes, attributes, tex = found.groups()
    formula = html.unescape(tex).strip()
    rows = formula.count(r"\\") + 1
    room = f"{width_of(formula[2:-2]):.1f}em" if kind == "span" else f"{3.3 + 2.2 * rows:.1f}rem"
    return f'<{kind} class="{classes}"{attributes} style="--room: {room}">{tex}</{kind}>'


def shape_of(kind, content):
    """Width and height of a picture, in units of its own."""
    if kind == "svg+xml":
        head = content[:2000].decode(errors="ignore")
        return [float(n) for n in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head).groups()]
    return Image.open(io.BytesIO(content)).size


def lighten_body(app, pagename, templatename, context, doctree):
    """Replace the figures of a page by their addresses, write them there, and keep room for formulas."""
    if app.builder.name != "html" or "body" not in context:
        return
    folder = Path(app.outdir, FOLDER)

    def written(kind, text):
        content = base64.b64decode(text)
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.{kind.removesuffix('+xml')}"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        return context["pathto"](f"{FOLDER}/{name}", resource=True), shape_of(kind, content)

    def figure(found):
        width, attributes, kind, text = found.groups()
        address, (wide, high) = written(kind, text)
        height = round(int(width) * high / wide)
        return (
            f'<img class="dark-light" style="width:{width}px;{attributes} src="{address}" '
            f'width="{width}" height="{height}" loading="lazy" decoding="async">'
        )

    body = FIGURE.sub(figure, FORMULA.sub(keep_room, context["body"]))
    context["body"] = FRAME.sub(lambda found: f'"{written(*found.groups())[0]}"', body)


def keep_icons(out):
    """Leave of the theme's icons, in its style sheet and fonts, those that the pages show."""
    pages = [*out.glob("*.html"), *out.glob("*/*.html"), *out.glob("_static/scripts/*theme.js")]
    shown = {name for page in pages for name in re.findall(r"\bfa-[\w-]+", page.read_text("utf-8"))}
    styles = Path(out, STYLES)
    text = styles.read_text(encoding="utf-8")
    named = lambda rule: {name[1:] for name in re.findall(r"\.fa-[\w-]+", rule[1])}  # noqa: E731
    text = ICON_RULE.sub(lambda rule: rule[0] if named(rule) & shown else "", text)
    others = [path for path in out.glob("_static/**/*.css") if path != styles]
    every = text + "".join(path.read_text(encoding="utf-8") for path in others)
    letters = {int(code, 16) for code in re.findall(r'"\\([0-9a-f]{2,5})"', every)}
    letters |= set(map(ord, re.findall("[\ue000-\uf8ff]", every)))  # some are written as they are

    def with_font(found):
        font = TTFont(Path(out, FONTS, f"{found[2]}.ttf"))
        cutter = subset.Subsetter(subset.Options(layout_features=[], name_IDs=[], hinting=False))
        cutter.populate(unicodes=letters)
        cutter.subset(font)
        font.flavor = "woff"
        buffer = io.BytesIO()
        font.save(buffer)
        packed = base64.b64encode(buffer.getvalue()).decode()
        return f'{found[1]}url(data:font/woff;base64,{packed}) format("woff")}}'

    styles.write_text(FONT_FACE.sub(with_font, text), encoding="utf-8")
    for path in {*out.glob(ICON_SCRIPT), *out.glob(f"{FONTS}/*"), *out.glob("_static/**/*.map")}:
        path.unlink()


def lighten(app, exception):
    """Take from the finished pages what they do not use."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    for page in [*out.glob("*.html"), *out.glob("*/*.html")]:
        text = page.read_text(encoding="utf-8")
        light = ICONS.sub("", text if page.name == "search.html" else SEARCH.sub("", text))
        if light != text:
            page.write_text(light, encoding="utf-8")
    if next(out.glob(ICON_SCRIPT), None):  # copied anew with each build
        keep_icons(out)


def setup(app):
    """Connect the steps."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every table that it cuts
    app.connect("html-page-context", lighten_body)
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
