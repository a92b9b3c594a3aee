"""What every lesson must have, whatever it teaches."""

import ast
import json
import re
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from book._ext.citations import cite

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "lessons").glob("*.ipynb"))


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def sources(notebook, kind):
    return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == kind]


def test_committed_without_outputs(notebook):
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_opens_with_title_time_needs_and_goals(notebook):
    opening = sources(notebook, "markdown")[0]
    assert opening.startswith("# ")
    for word in ("**Time:**", "**You need:**", "**You will:**", "**Data:**"):
        assert word in opening


def test_ends_with_summary_tolerance_and_what_comes_next(notebook):
    closing = sources(notebook, "markdown")[-1]
    for part in ("## Summary", "How far your numbers may differ", "**Next:**"):
        assert part in closing


def test_names_common_mistakes_before_the_exercises(notebook):
    texts = sources(notebook, "markdown")
    box = next(k for k, text in enumerate(texts) if "{admonition} Common mistakes" in text)
    assert texts[box + 1].startswith("## Exercises")


def tags(cell):
    return cell["metadata"].get("tags", [])


def code(cell):
    return "".join(cell["source"])


def asserts(source):
    return sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))


def sections(notebook):
    """The cells between two headings of the second level."""
    found = [[]]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and re.search("^## ", code(cell), flags=re.M):
            found.append([])
        found[-1].append(cell)
    return found


def test_asserts_what_it_claims(notebook):
    assert sum(map(asserts, sources(notebook, "code"))) >= 10


def test_claims_of_a_section_are_checked_in_one_bar(notebook):
    for cells in sections(notebook):
        bars = [cell for cell in cells if "checks" in tags(cell)]
        assert len(bars) <= 1
        for cell in bars:
            n = asserts(code(cell))
            label = f"✓ {n} claim{'s' * (n > 1)} checked"
            prompts = {"code_prompt_hide": label, "code_prompt_show": label}
            assert cell["metadata"]["mystnb"] == prompts
            assert code(cell).splitlines()[0] == f"# {label}"  # JupyterLab shows this line
            assert "hide-input" in tags(cell) and n > 0
            assert not shows_something(code(cell))


def test_other_asserts_are_few_and_teach(notebook):
    seen = [c for c in notebook["cells"] if c["cell_type"] == "code" and asserts(code(c))]
    open_ones = [c for c in seen if not {"checks", "solution"} & set(tags(c))]
    assert all("teaches" in tags(cell) for cell in open_ones)
    assert len(open_ones) <= 3


def shows_something(source):
    return any(
        isinstance(statement, ast.Expr)
        and ast.unparse(statement).startswith(("print(", "plots.show(", "plots.table("))
        for statement in ast.walk(ast.parse(source))
    )


def test_jupyterlab_folds_what_the_book_folds(notebook):
    for cell in notebook["cells"]:
        folded = cell["metadata"].get("jupyter", {})
        assert folded.get("source_hidden", False) == bool(
            {"hide-input", "hide-cell"} & set(tags(cell))
        )


def test_what_a_solution_shows_is_folded(notebook):
    """JupyterLab opens the output of every cell that it runs."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "solution" in tags(cell):
            tree = ast.parse(code(cell))
            inside = [
                node
                for one in ast.walk(tree)
                if isinstance(one, ast.With) and ast.unparse(one.items[0]) == "plots.folded()"
                for node in ast.walk(one)
            ]
            shows = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and ast.unparse(node.func) in ("print", "plots.table", "plots.show")
            ]
            assert all(node in inside for node in shows)


def test_bars_in_a_row_have_names_of_their_own(notebook):
    def name(cell):
        if {"hide-input", "hide-cell"} & set(tags(cell)):
            return cell["metadata"].get("mystnb", {}).get("code_prompt_show", "Show code")
        return "Solution in words" if "{solution}" in code(cell) else None

    for one, other in pairwise(map(name, notebook["cells"])):
        assert one is None or one != other


def test_what_a_cell_shows_is_a_table_a_sentence_or_a_picture(notebook):
    """No bare number, tuple, list or dict: these have as many digits as it happens."""
    for cell in notebook["cells"]:
        last = ast.parse(code(cell)).body[-1] if cell["cell_type"] == "code" else None
        if not isinstance(last, ast.Expr):
            continue
        if isinstance(last.value, ast.Call):
            called = ast.unparse(last.value.func)
            says = r"print|plots\.\w+|exercises\.\w+\.check|[A-Z]\w+"
            assert re.fullmatch(rf"{says}|torch\.set_\w+|warnings\.\w+", called), cell["id"]
        else:  # a widget
            name = ast.unparse(last.value)
            assert re.search(rf"^{re.escape(name)} = [A-Z]\w+\(", code(cell), re.M), cell["id"]


def code_lines(source):
    """Lines of code; what a figure shows in words, and the entries of a table, are prose."""
    prose = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("plots.show", "plots.table"):
            prose |= set(range(node.lineno + 1, node.end_lineno + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(n not in prose and bool(line.strip()) for n, line in lines)


def test_one_idea_a_cell(notebook):
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code" and "checks" not in tags(c)]
    lengths = [code_lines(code(cell)) for cell in cells]
    assert statistics.median(lengths) <= 8
    assert max(lengths) <= 20


def test_every_figure_has_alternative_text(notebook):
    text = "\n".join(sources(notebook, "code"))
    assert text.count("plots.show(") >= 2
    assert "plt.show(" not in text


def test_a_median_of_two_middle_values_is_their_mean(notebook):
    """The book's rule; torch takes the lower one."""
    for source in sources(notebook, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Attribute) and node.attr in ("median", "nanmedian"):
                assert ast.unparse(node.value) == "np", ast.unparse(node)


def test_uses_nothing_that_hangs_without_a_browser(notebook):
    text = "\n".join(sources(notebook, "code"))
    assert "interact(" not in text
    assert "widgets.Output(" not in text


CITATION = re.compile(r"\[([^\[\]]+) \(?(\d{4})\)?\]\(references\.md#(\w+)\)")


def test_the_main_line_has_at_most_4000_words(notebook):
    """The text up to the exercises, without optional sections."""
    words, optional = 0, False
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        heading = next((line for line in source.splitlines() if line.startswith("## ")), None)
        if heading is not None:
            if heading == "## Exercises":
                break
            optional = "optional" in heading.lower()
        if cell["cell_type"] == "markdown" and not optional:
            words += len(CITATION.sub("(…)", source).split())
    assert 1000 < words <= 4000


# --- text that holds in the book and in JupyterLab ----------------------------------

ELSEWHERE = re.compile(r"\[(\w+) (?:\((\d+)\) |(\d+) )?of lesson (\d+)\]\((\S+)#([\w-]+)\)")
NUMBERED = re.compile(
    r"^## (?P<heading>.*)$|\{(?:prf:)?(?P<kind>exercise|definition|proposition|lemma|theorem)\}"
    r"|(?P<equation>\$\$(?s:.*?)\$\$)",
    re.M,
)


def numbered(path):
    """Kind and number of what has one, and the section that it stands in, as JupyterLab counts."""
    counts, heading = {}, ""
    text = "\n\n".join(sources(json.loads(path.read_text(encoding="utf-8")), "markdown"))
    for found in NUMBERED.finditer(text):
        heading = found["heading"] or heading
        kind = found["kind"] or ("equation" if found["equation"] else None)
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
            yield kind, counts[kind], re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_references_to_other_lessons_are_words_with_the_right_number(notebook):
    text = "\n".join(sources(notebook, "markdown"))
    for kind, *number, lesson, file, section in ELSEWHERE.findall(text):
        assert file.startswith(f"{int(lesson):02}_")
        n = int("".join(number) or 1)
        assert (kind, n, section) in numbered(ROOT / "lessons" / file), (kind, n, section)


def test_no_role_asks_for_what_jupyterlab_does_not_know(notebook):
    text = "\n".join(sources(notebook, "markdown"))
    own = set(re.findall(r":label: (\S+)|\$\$ \(([\w-]+)\)", text))
    own = {label for pair in own for label in pair}
    for role, target in re.findall(r"\{([\w:]+)\}`([^`]+)`", text):
        assert role in ("eq", "ref", "prf:ref"), role
        assert re.sub(r".*<(.*)>", r"\1", target) in own, target


def test_citations_name_an_entry_of_the_list_beside_the_lessons(notebook):
    listed = (ROOT / "lessons" / "references.md").read_text(encoding="utf-8")
    text = "\n".join(sources(notebook, "markdown"))
    assert len(CITATION.findall(text)) == text.count("](references.md")
    for names, year, key in CITATION.findall(text):
        first = re.split(" et al| and ", names)[0]
        assert key in ENTRIES and ENTRIES[key] == year
        assert re.search(rf"^- [^(]*{re.escape(first)}[^(]*.*\({year}\)\.", listed, re.M), names


def test_the_book_makes_citations_of_them():
    a, b = "[A and B 2014](references.md#a2014)", "[C et al. (2018)](references.md#c2018)"
    assert cite(f"So it is ({a}).") == "So it is {cite}`a2014`."
    assert cite(f"So it is ({a}; {a.replace('a2', 'd2')}), says {b}.") == (
        "So it is {cite}`a2014,d2014`, says {cite:t}`c2018`."
    )
    for path in LESSONS:
        text = path.read_text(encoding="utf-8")
        made = cite(text)
        assert "references.md" not in made
        keys = re.findall(r"\{cite(?::t)?\}`([\w,]+)`", made)
        assert sum(key.count(",") + 1 for key in keys) == text.count("](references.md#")


def entries():
    """Keys of the bibliography of the book, and their years."""
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    return dict(re.findall(r"^@\w+\{(\w+),(?s:.*?)\byear\s*= \{(\d+)\}", text, flags=re.M))


ENTRIES = entries()


def test_the_list_beside_the_lessons_has_every_work():
    listed = (ROOT / "lessons" / "references.md").read_text(encoding="utf-8")
    assert len(re.findall("^- ", listed, flags=re.M)) == len(ENTRIES)
    titles = re.findall(
        r"^ *title *= \{(.*)\},$",
        (ROOT / "book" / "references.bib").read_text(encoding="utf-8"),
        flags=re.M,
    )
    assert len(titles) == len(ENTRIES)
    for title in titles:
        assert re.sub(r"[{}]", "", title) in listed


def test_the_graph_of_the_lessons_agrees_with_what_they_need():
    """Every arrow is a need, and every need is an arrow or a chain of arrows."""
    needs = {}
    for path in LESSONS:
        opening = sources(json.loads(path.read_text(encoding="utf-8")), "markdown")[0]
        line = opening.split("**You need:**")[1].split("\n- ")[0]
        needs[int(path.name[:2])] = {int(n) for n in re.findall(r"\((\d\d)_\w+\.ipynb\)", line)}
    picture = LESSONS[0].parents[1] / "book" / "_static" / "lessons.svg"
    arrows = re.findall(r'<path id="(\d+)-(\d+)"', picture.read_text(encoding="utf-8"))
    drawn = {n: {int(a) for a, b in arrows if int(b) == n} for n in needs}
    assert all(drawn[n] <= needs[n] for n in needs)

    def before(n):
        return drawn[n].union(*(before(m) for m in drawn[n]))

    assert all(needs[n] <= before(n) for n in needs)
