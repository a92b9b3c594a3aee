"""What the checks say about answers of every kind, and the table of a class."""

import csv
import subprocess
import sys

import nbformat
import pytest
import torch
from test_exercises import MODULES, exercises

from lesson_utils.checks import Exercise, Progress
from lesson_utils.checks.__main__ import main


def difference(x, y):
    return x - 2 * y


SUBTRACT = Exercise(
    solution=difference,
    inputs=lambda dice: tuple(torch.rand(2, 3, 3, generator=dice) + torch.eye(3)),
    shows="Two of one are taken from the other.",
    mistakes={"you added.": lambda x, y: x + 2 * y},
)


def forgets(x, y):
    z = x - 2 * y  # noqa: F841


def stops(x, y):
    z = x - 2 * y
    return z.view(5)


def says_none(x, y):
    return None


def documented(x, y):
    """To be written: return the difference."""


def passes(x, y):
    pass


def helped(x, y):
    return stops(x, y) + 1


SAYS = [  # a part of the text, and the answer
    ("✔ Right", difference),
    ("✔ Right", lambda x, y: difference(x, y).half()),
    ("✔ Right", lambda x, y: difference(x.bfloat16(), y.bfloat16())),
    ("✔ Right", lambda x, y: difference(x, y).tolist()),
    ("✔ Right", lambda x, y: list(difference(x, y))),
    ("✔ Right", lambda x, y: tuple(difference(x, y))),
    ("✔ Right", lambda x, y: difference(x, y).numpy()),
    ("✔ Right", lambda x, y: difference(x, y).flip(0).numpy()[::-1]),
    ("✔ Right", lambda x, y: difference(x, y).requires_grad_()),
    ("you added", lambda x, y: x + 2 * y),
    ("Not attempted", None),
    ("Not attempted", lambda x, y: ...),
    ("Not attempted", documented),
    ("Not attempted", passes),
    ("is a `return` missing?", forgets),
    ("is a `return` missing?", says_none),
    ("(line", stops),
    ("`return z.view(5)`", stops),
    ("calls it with 2 arguments", lambda x: x),
    ("stops with SystemExit", lambda x, y: sys.exit()),
    ("Pass the function itself", torch.zeros(3, 3)),
    ("Pass the function itself", "difference"),
    ("not str", lambda x, y: "x - 2y"),
    ("not dict", lambda x, y: {}),
    ("not list", lambda x, y: [x, None]),
    ("not complex", lambda x, y: x + 1j),
    ("take its `.values`", lambda x, y: difference(x, y).max(0)),
    ("shape (1, 3, 3), the right one (3, 3). `squeeze`", lambda x, y: difference(x, y)[None]),
    ("shape (), the right one (3, 3). Did you add", lambda x, y: difference(x, y).sum()),
    ("twice the right one, everywhere", lambda x, y: 2 * difference(x, y)),
    ("0.3333 times the right one, everywhere", lambda x, y: difference(x, y) / 3),
    ("the sign is the wrong one", lambda x, y: 2 * y - x),
    ("larger than the right one by 1, everywhere", lambda x, y: difference(x, y) + 1),
    ("smaller than the right one by 0.5", lambda x, y: difference(x, y) - 0.5),
    ("some of the signs are not", lambda x, y: difference(x, y).abs()),
    ("the reciprocal of", lambda x, y: 1 / difference(x, y)),
    ("the square of", lambda x, y: difference(x, y) ** 2),
    ("in another order", lambda x, y: difference(x, y).flip(1)),
    ("zero everywhere", lambda x, y: torch.zeros(3, 3)),
    ("whatever the arguments are", lambda x, y: torch.ones(3, 3)),
    ("another at each call", lambda x, y: difference(x, y) * x.norm()),
    ("are NaN", lambda x, y: difference(x, y).log()),
    ("none of your 45 values is right", lambda x, y: x.exp()),
    ("15 of your 45 values are right", lambda x, y: difference(x, y * torch.tensor([1.0, 2, 3]))),
    ("for x[0] = [", lambda x, y: difference(x, y * torch.tensor([[3.0], [1], [1]]))),
]


@pytest.mark.parametrize(("part", "answer"), SAYS)
def test_a_verdict_says_what_is_wrong(part, answer):
    verdict = SUBTRACT.check(answer, seed=0)
    assert part in repr(verdict)
    assert bool(verdict) == part.startswith("✔")


def test_an_error_in_a_helper_is_placed_in_the_reader_s_own_code():
    assert "`return z.view(5)`" in repr(SUBTRACT.check(helped))


def test_a_wrong_entry_is_shown_with_numbers_that_are_true():
    number = Exercise(lambda a, k: a * k, lambda dice: (0.5, [1, 2][0]), "A product.", {})
    text = repr(number.check(lambda a, k: a + k))
    assert "yours is 1.5, right is 0.5 (ratio 3, difference 1), for a = 0.5, k = 1." in text


def test_transposed_answers_and_wrong_parts_are_named():
    def inputs(dice):
        return (torch.randn(2, 3, generator=dice),)

    turned = Exercise(lambda x: x.T, inputs, "Turned.", {})
    assert "transposed" in repr(turned.check(lambda x: x))
    pair = Exercise(lambda x: (x, -x), inputs, "A pair.", {})
    assert "in part 2 of the tuple the sign" in repr(pair.check(lambda x: [x, x]))
    assert "wanted are 2 tensors" in repr(pair.check(lambda x: x))


def test_axes_of_length_one_are_free_only_where_no_shape_is_stated():
    def inputs(dice):
        return (torch.randn(4, generator=dice),)

    for stated in (True, False):
        twice = Exercise(lambda x: 2 * x, inputs, "Twice.", {}, shape_stated=stated)
        assert bool(twice.check(lambda x: 2 * x[:, None])) == (not stated)
        assert not twice.check(lambda x: 2 * x[:, None] + x)  # (4, 4)


def test_half_precision_is_no_excuse_where_it_cannot_tell_a_mistake():
    near = Exercise(
        lambda x: x,
        lambda dice: (torch.rand(4, generator=dice),),
        "The same.",
        {"one per cent too much.": lambda x: 1.01 * x},
    )
    assert near.check(lambda x: x.half())
    assert "in so few digits" in repr(near.check(lambda x: x.bfloat16())).lower()
    assert "one per cent" in repr(near.check(lambda x: (1.01 * x).half()))


@pytest.mark.parametrize("spoil", ["dtype", "grad", "inference", "half"])
def test_settings_of_the_notebook_do_not_disturb_a_check(spoil):
    exercise = exercises("lesson01")["loss_gradient"]

    def answer(model, x):
        if spoil == "dtype":
            torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return x

    before = torch.get_default_dtype()
    if spoil == "half":
        torch.set_default_dtype(torch.float16)
    outer = torch.inference_mode if spoil == "inference" else torch.no_grad
    try:
        with outer():
            assert repr(exercise.check(answer)).startswith("✘")
            assert exercise.check(exercise.solution)
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == (torch.float16 if spoil == "half" else before)
    finally:
        torch.set_default_dtype(before)


# --- wrong answers that students gave -----------------------------------------------

GIVEN = [
    ("lesson09", "upper_bound", lambda d: d.amin(0)[d.amin(0).isfinite()].median()),
    ("lesson09", "exponent", lambda r, a: torch.corrcoef(torch.stack([r.log(), a.log()]))[0, 1]),
    ("lesson10", "gpu_hours", lambda s, e, v: (1 + 2.5 * (len(s) - 1)) * e * 1_281_167 / v / 3600),
    (
        "lesson10",
        "gpu_hours",
        lambda s, e, v: sum(2.5 if k else 1 for k in set(s)) * e * 1_281_167 / v / 3600,
    ),
    (
        "lesson10",
        "correlation",
        lambda a, b: exercises("lesson10")["correlation"].solution(a, b).abs(),
    ),
    ("lesson07", "gap_from_angle", lambda n, d: 2 * n * d.deg2rad().sin()),
    ("lesson03", "angle", lambda x, z: (x @ z).abs()),
    ("lesson06", "fold", lambda w, b, m, s: (w, b - m)),
    ("lesson11", "bias_factor", lambda h, a: torch.where(a, h, 1 / (2 * h - 1).abs())),
    ("lesson12", "share_inside", lambda g, b: (g @ b.T).abs().sum(1) / g.abs().sum(1)),
    ("lesson02", "certificate", lambda x, r, y: torch.zeros(len(y))),
    ("lesson01", "on_ink", lambda x, g: (x * g.abs()).sum((1, 2, 3)) / g.flatten(1).norm(dim=1)),
]


@pytest.mark.parametrize(("module", "name", "answer"), GIVEN)
def test_answers_that_passed_or_got_no_hint_get_one_of_their_own(module, name, answer):
    exercise = exercises(module)[name]
    for seed in range(10):
        text = repr(exercise.check(answer, seed=seed)).removeprefix("✘ Not yet: ")
        assert text in exercise.mistakes


@pytest.mark.parametrize("threshold", [0.001, 0.02, 0.05, 0.1])
def test_faint_ink_is_ink(threshold):
    def answer(x, g):
        g = torch.where(x > threshold, g, 0)
        return (x * g).sum((1, 2, 3)).abs() / g.flatten(1).norm(dim=1)

    exercise = exercises("lesson01")["on_ink"]
    assert not any(exercise.check(answer, seed=seed) for seed in range(10))


# --- progress ------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_a_lesson_shows_its_progress(module):
    lesson = __import__(f"exercises.{module}", fromlist=["_"])
    found = exercises(module)
    for exercise in found.values():
        exercise.done = False
    assert lesson.progress().open == list(found)
    name, first = next(iter(found.items()))
    assert not first.check(lambda *arguments: "?")
    assert first.check(first.solution) and not first.check(None)
    progress = lesson.progress()
    assert progress.done == [name]
    assert f"{name}" in repr(progress) and f"1 of {len(found)} done" in repr(progress)
    assert repr(progress).count("✔ done") == 1


def test_no_exercises_no_progress():
    assert repr(Progress({})) == "0 of 0 done"


# --- a class --------------------------------------------------------------------------

IMPORT = "import torch\nfrom exercises import lesson03 as exercises"
ANGLE = "def rho_from_angle(x, z):\n    return (x @ z).abs() / z.norm()"
CHECK = "exercises.angle.check(rho_from_angle)"
OTHER = "exercises.adversary.check(adversary)"
CLASS = {
    "right": [
        IMPORT,
        "%matplotlib inline\n1 / 0",
        ANGLE,
        CHECK,
        "def adversary(x, z):\n    return x - 1.01 * (x @ z / (z @ z))[:, None] * z",
        OTHER,
    ],
    "blank": [IMPORT, "def rho_from_angle(x, z): ...", CHECK],
    "wrong": [
        IMPORT,
        "def rho_from_angle(x, z):\n    return (x @ z).abs()",
        CHECK,
        "def adversary(x, z) return x",
        OTHER,
    ],
    "crashing": [IMPORT, ANGLE, CHECK, "import os\nos._exit(1)", OTHER],
    "solved by the book": [
        IMPORT,
        "def rho_from_angle(x, z): ...",
        CHECK,
        f"{ANGLE}\nassert {CHECK}",
    ],
    "another": ["1 + 1"],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    for name, sources in CLASS.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    (folder / "group").mkdir()
    (folder / "group" / "broken.ipynb").write_text("{")
    before = {path: path.read_bytes() for path in folder.rglob("*.ipynb")}
    command = [sys.executable, "-m", "lesson_utils.checks", str(folder), "--out"]
    subprocess.run([*command, str(folder / "table.csv")], check=True)
    assert all(path.read_bytes() == content for path, content in before.items())
    with (folder / "table.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_line_a_notebook_and_exercise(table):
    found = {(row["notebook"].removesuffix(".ipynb"), row["exercise"]): row for row in table}
    assert len(found) == len(table)
    verdicts = {key: row["verdict"] for key, row in found.items()}
    assert verdicts == {
        ("another", ""): "error",
        ("blank", "angle"): "open",
        ("blank", "adversary"): "missing",
        ("crashing", "angle"): "right",
        ("crashing", "adversary"): "error",
        ("group/broken", ""): "error",
        ("right", "angle"): "right",
        ("right", "adversary"): "right",
        ("solved by the book", "angle"): "open",
        ("solved by the book", "adversary"): "missing",
        ("wrong", "angle"): "wrong",
        ("wrong", "adversary"): "error",
    }
    assert "norm of z" in found["wrong", "angle"]["hint"]
    assert "NameError" in found["wrong", "adversary"]["hint"]


def test_help_and_refusals(capsys, tmp_path):
    for arguments in (["--help"], ["/nowhere"], [str(tmp_path), "--lessons", str(tmp_path)]):
        with pytest.raises(SystemExit):
            main(arguments)
    said = capsys.readouterr()
    assert "nothing is sent anywhere" in said.out.replace("\n", " ")
    assert "is no folder" in said.err and "has no folder `exercises`" in said.err
    main([str(tmp_path)])
    assert capsys.readouterr().out == "notebook,exercise,verdict,hint\n"
