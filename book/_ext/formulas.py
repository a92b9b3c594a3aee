"""Sphinx extension: the formulas of docstrings as formulas.

In the code they are written so that a terminal shows them, as in ``α(x) = |⟨x, g⟩| / ‖g‖``. The
API page sets what stands between two double backticks and has a mathematical letter.
"""

import re

SIGNS = {
    "ρ̃": r"\tilde\rho ", "ḡ": r"\bar g", "α": r"\alpha ", "β": r"\beta ", "δ": r"\delta ", "λ": r"\lambda ",
    "ρ": r"\rho ", "Ψ": r"\Psi ", "ℓ": r"\ell ", "∇": r"\nabla ", "∂": r"\partial ", "Σ": r"\sum ",
    "‖": r"\|", "⟨": r"\langle ", "⟩": r"\rangle ", "·": r"\cdot ", "−": "-", "≤": r"\le ", "≥": r"\ge ",
    "≠": r"\neq ", "†": r"^\dagger ", "²": "^2", "i*": "i^*",
}  # fmt: skip
WORDS = {
    r"\b(min|cos)\b": r"\\\1 ",
    r"\bmin_": r"\\min_",
    r"\b(mean)_": r"\\operatorname{\1}_",
    r"\b(sgn)\b": r"\\operatorname{\1} ",
    r"\b((bias|direction) gap)\b": r"\\text{\1}",
}
FORMULA = re.compile("``([^`]*[αβρΨ∇‖⟨][^`]*)``")


def tex(formula):
    """A formula of a docstring in TeX."""
    for sign, command in SIGNS.items():
        formula = formula.replace(sign, command)
    for word, command in WORDS.items():
        formula = re.sub(word, command, formula)
    return formula.strip()


def set_formulas(app, what, name, thing, options, lines):
    """Set the formulas of one docstring; its lines are joined, because a formula may be broken."""
    text = FORMULA.sub(lambda found: f":math:`{tex(found[1])}`", "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app):
    """Connect the step."""
    app.connect("autodoc-process-docstring", set_formulas)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
