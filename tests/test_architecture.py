"""The shape of the house: who may import whom, and what no part may do. Each law names all its offenders at once."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gc_hooks

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gc_hooks"

LAW = """
errors _typing numerics
report training schedule layer_view
arrays isolation tensorboard_tab
terminal
nn problem reporters
slopes cli
tracing __main__
verdicts
rules quick_check
check
layerwise derivatives testing
hooks
adapters
"""
"""A unit (a folder, or a module beside the folders) imports only from units on the lines above its own."""

RANKS = {unit: number for number, line in enumerate(LAW.split("\n")) for unit in line.split()}

HEAVY = {"autograd", "rich", "tensorboard", "tensorboardX", "torch"}
"""What `import gc_hooks` must not load."""

FOR_TENSORBOARD = {"tensorboard_tab.loader", "tensorboard_tab.plugin"}
"""What only TensorBoard imports may import TensorBoard."""

GLOBAL_STATE = {"isolation.rng"}
"""Who may touch a global random state: to put it back."""

NO_DRAW = {"default_rng", "Generator", "SeedSequence"}
"""The names in numpy.random that have no global state."""


def parsed_sources():
    """Parse every module of the package once: ``{"nn.layers": tree, "nn": tree of its __init__, "": the root}``."""
    trees = {}
    for path in PACKAGE.rglob("*.py"):
        parts = [part for part in path.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"]
        trees[".".join(parts)] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


TREES = parsed_sources()


def imports(tree, *, lazy=True):
    """Return the full names of everything that a module imports; ``from a import b`` is "a.b"."""
    found = set()
    for node in ast.walk(tree) if lazy else eager_nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
    return found


def eager_nodes(node):
    """Yield the nodes that run at import: none inside functions, none for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from eager_nodes(child)


def own_modules(names):
    """Return the modules of this package among imported names; "" is the package itself."""
    found = set()
    for name in names:
        if name.split(".")[0] == "gc_hooks":
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in TREES:
                parts.pop()
            found.add(".".join(parts))
    return found


def offences(module, tree):
    """Return the imports that the law forbids: from the unit's own line or below, from the package, relative ones."""
    unit = module.split(".")[0]
    names = imports(tree)
    forbidden = {name for name in names if name.startswith(".")}
    for target in own_modules(names):
        other = target.split(".")[0]
        if other != unit and RANKS.get(other, len(RANKS)) >= RANKS[unit]:
            forbidden.add(target)
    return forbidden


def test_imports_obey_the_law():
    """Each unit imports only from units on the lines above its own, and every unit has its line."""
    units = {module.split(".")[0] for module in TREES if module}
    assert units == set(RANKS)
    assert not {module: found for module, tree in TREES.items() if module and (found := offences(module, tree))}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("arrays.tree", "from gc_hooks.problem import Problem"),
        ("check", "def f():\n    import gc_hooks.hooks.hook"),
        ("report.text", "from gc_hooks import Verdict"),
        ("nn.trainer", "from gc_hooks.check import check_gradients"),
        ("reporters.jsonl", "if TYPE_CHECKING:\n    from gc_hooks import hooks"),
        ("verdicts.compare", "from gc_hooks.rules.context import RuleContext"),
        ("cli", "import gc_hooks.hooks.hook"),
        ("check", "from . import layerwise"),
    ],
)
def test_the_law_sees_an_offence(module, source):
    """An import from below, from the package itself or a relative one is seen, wherever in a module it stands."""
    assert offences(module, ast.parse(source))


def test_imports_have_no_cycle():
    """The modules can be put in an order in which each comes after all that it imports."""
    waiting = {module: own_modules(imports(tree)) - {module, ""} for module, tree in TREES.items() if module}
    while ready := {module for module, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
    assert not waiting


def test_names_that_hide_others_are_not_used():
    """No module is called typing, torch or utils."""
    assert not {module for module in TREES if {"typing", "torch", "utils"} & set(module.split("."))}


def heavy_imports(tree, **options):
    return {name.partition(".")[0] for name in imports(tree, **options)} & HEAVY


def test_heavy_packages_are_imported_when_they_are_used():
    """Rich, TensorBoard, tensorboardX, autograd and torch are imported inside functions, or for type checkers alone."""
    found = {module for module, tree in TREES.items() if heavy_imports(tree, lazy=False)}
    assert found == FOR_TENSORBOARD


def test_what_only_tensorboard_imports_is_imported_by_nobody_else():
    """The tab's server side is loaded by TensorBoard, not by a training."""
    assert not {m for m, tree in TREES.items() if own_modules(imports(tree, lazy=False)) & FOR_TENSORBOARD}


def test_a_heavy_import_is_seen_where_it_is_run_at_import():
    """An import at the top, in a class or in a try is seen; one in a function or under TYPE_CHECKING is not."""
    for source in (
        "import rich.console",
        "class A:\n    import torch",
        "try:\n    from tensorboardX import x\nfinally: pass",
    ):
        assert heavy_imports(ast.parse(source), lazy=False)
    for source in ("def f():\n    import rich", "if TYPE_CHECKING:\n    from rich import get_console"):
        assert heavy_imports(ast.parse(source))
        assert not heavy_imports(ast.parse(source), lazy=False)


def test_importing_the_package_loads_nothing_heavy():
    """A fresh interpreter that imports gc_hooks has loaded none of the heavy packages, and warned of nothing."""
    code = f"import gc_hooks, sys; assert not {HEAVY!r} & set(sys.modules), sys.modules.keys() & {HEAVY!r}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)


def test_public_names_exist_and_are_described():
    """Each public name can be imported and has a docstring that somebody wrote."""
    for name in gc_hooks.__all__:
        described = getattr(gc_hooks, name).__doc__ or ""
        assert described.strip(), name
        assert not described.startswith(f"{name}("), name  # what a dataclass makes up


def test_public_names_stand_in_the_table_of_the_readme():
    """The README's table of public names is complete."""
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    words = set(re.findall(r"\w+", " ".join(re.findall("`([^`]+)`", "\n".join(rows)))))
    missing = {*gc_hooks.__all__, *gc_hooks.nn.__all__, *gc_hooks.adapters.__all__} - words
    assert not missing


def test_all_public_names_are_listed_in_order():
    """`__all__` names what the package imports for its users, once each, and `dir` shows these and no submodules."""
    names = {name.rpartition(".")[2] for name in imports(TREES[""])}
    assert sorted(set(gc_hooks.__all__)) == sorted(gc_hooks.__all__)
    assert set(gc_hooks.__all__) == names
    assert {name for name in dir(gc_hooks) if not name.startswith("_")} == names


def global_draws(tree):
    """Return the uses of a global random state: NumPy's, however it was imported, and Python's."""
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names = attributes | imports(tree)
    used = {found[1] for name in names if (found := re.match(r"(?:np|numpy)\.random\.(\w+)", name))}
    return (used - NO_DRAW) | {name for name in imports(tree) if re.match(r"random\b", name)}


def test_no_global_random_state_is_used():
    """Nothing seeds, reads or draws from a global random state, but for the one place that puts it back."""
    assert {module for module, tree in TREES.items() if global_draws(tree)} == GLOBAL_STATE


@pytest.mark.parametrize(
    "source",
    [
        "np.random.seed(0)",
        "x = numpy.random.normal()",
        "from numpy.random import rand",
        "import random",
        "np.random.shuffle",
    ],
)
def test_a_global_draw_is_seen(source):
    """However it is spelt, a global draw is seen, and a generator of one's own is none."""
    assert global_draws(ast.parse(source))
    assert not global_draws(ast.parse("generator = np.random.default_rng(0)\ngenerator.normal()"))


# Decisions are made by types, traits and members of enums: never by a sentence, by which method it is, or by asking one
# of our own objects what it can do.

SENTENCES = {"advice", "evidence", "message", "note", "outcome", "sentence", "words"}
"""What variables and fields that hold a sentence are called."""
METHODS = {"central", "complex_step"}
OWN_OBJECTS = {"method", "objective", "reporter", "rule", "tool"}
ASK = {"hasattr", "getattr"}
SEARCH = {"count", "endswith", "find", "fullmatch", "index", "match", "search", "startswith"}

CHOOSES_THE_METHOD = {"slopes.instrument": {"method is not complex_step", "method is complex_step"}}
"""Whoever asks for complex step gets it only after its trial: there the check has to know who was asked for."""
TAKES_FOREIGN_OBJECTS = {"reporters.base": {"getattr(reporter, 'report', None)"}}
"""An object that inherits nothing is wrapped in a `Reporter`, once."""


def last_name(node):
    """Return "note" for ``note``, ``comparison.note`` and ``notes[0].note``, else an empty text."""
    return getattr(node, "attr", None) or getattr(node, "id", "")


def decisions(tree):
    """Return the expressions that ask a sentence, which method it is, or what one of our own objects has."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            sides += [item for side in sides if isinstance(side, (ast.Tuple, ast.List, ast.Set)) for item in side.elts]
            # `note in notes` asks a list, and `"word" in note` a sentence.
            of_sentence = node.comparators if isinstance(node.ops[0], (ast.In, ast.NotIn)) else sides
            asks = {last_name(side) for side in sides} & METHODS or {
                last_name(side) for side in of_sentence
            } & SENTENCES
        elif isinstance(node, ast.Call):
            texts = [getattr(node.func, "value", None), *node.args]
            asks = (last_name(node.func) in SEARCH and {last_name(text) for text in texts} & SENTENCES) or (
                last_name(node.func) in ASK and last_name(node.args[0]) in OWN_OBJECTS
            )
        else:
            asks = False
        if asks:
            found.add(ast.unparse(node))
    return found


def test_nothing_is_decided_by_a_sentence_by_identity_or_by_asking():
    """No ``is central``, no ``"..." in note``, no ``startswith`` of a sentence, no ``hasattr`` of a reporter."""
    allowed = CHOOSES_THE_METHOD | TAKES_FOREIGN_OBJECTS
    assert not {m: found for m, tree in TREES.items() if (found := decisions(tree) - allowed.get(m, set()))}


@pytest.mark.parametrize(
    "source",
    [
        "tool.method is central",
        "method in (None, central, complex_step)",
        "method != methods.central",
        'found = "is not finite" in comparison.note',
        'note == "no gradient"',
        'diagnosis.evidence.startswith("With ")',
        're.search("kink", c.note)',
        'hasattr(reporter, "say")',
        'getattr(state.objective, "penalty", None)',
    ],
)
def test_a_decision_by_text_or_identity_is_seen(source):
    """However it is spelt; a trait, a member of an enum and a list of notes may be asked."""
    assert len(decisions(ast.parse(source))) == 1
    assert not decisions(ast.parse("tool.method.is_exact and c.reason is Reason.KINK and note not in notes"))


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def nested_comprehensions(tree):
    """Return the lines at which a comprehension begins inside of another one."""
    lines = set()
    for outer in ast.walk(tree):
        if isinstance(outer, COMPREHENSIONS):
            lines |= {node.lineno for node in ast.walk(outer) if isinstance(node, COMPREHENSIONS) and node is not outer}
    return lines


def test_no_comprehension_stands_inside_another():
    """One thought a statement: what needs two loops is written as loops, or gets a name."""
    assert not {module: lines for module, tree in TREES.items() if (lines := nested_comprehensions(tree))}


def test_a_nested_comprehension_is_seen():
    """In the element, in the condition and in what is looped over; two after each other are not nested."""
    for source in (
        "[[x for x in row] for row in a]",
        "[x for x in a if any(y for y in x)]",
        "{x for x in [y for y in a]}",
    ):
        assert nested_comprehensions(ast.parse(source))
    assert not nested_comprehensions(ast.parse("b = [x for x in a]\nc = [x for row in a for x in row]"))
