"""The shape of the house: who may import whom, how large a part may be, and what no part may do."""

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
HEAVY = {"rich", "tensorboard", "tensorboardX", "torch"}

ROOMS = ("traces", "intake", "measuring", "judging", "rules", "watching")
"""Folders; the law speaks of each module in them."""

SPINE = (
    "_typing errors",
    "intake.tree judging.chance judging.verdict tables measuring.waiting diagnosis picture intake.large",
    "intake.matching",
    "problem intake.causes",
    "intake.values",
    "intake.door",
    "probes measuring.estimate watching.movement",
    "measuring.ladder",
    "methods",
    "measuring.noise measuring.evidence",
    "measuring.calibrate",
    "measuring.measure judging.interval judging.comparison",
    "measuring.spread compare",
    "measuring.gather judging.case",
    "judging.guards judging.drill rules.clues judging.illustrate",
    "rules.flaw rules.scale",
    "rules.penalty rules.mixup rules.pattern",
    "diagnose rules.identities",
    "judging.examine report",
    "judging.summary",
    "check judging.glance",
    "watching.penalty testing watching.recorder rules.layerwise",
    "watching.questions watching.watch",
    "hook",
)
"""Each imports only from the lines above its own."""

BESIDE = {
    "schedule": "_typing errors problem",
    "callbacks": "_typing errors problem",
    "watching.switches": "_typing schedule",
    "traces.footprint": "",
    "traces.preserve": "_typing traces.footprint",
    "traces.evaluation": "_typing errors traces.preserve",
    "traces.reach": "traces.evaluation traces.footprint traces.preserve",
    "pieces": "_typing errors",
    "nn": "nn _typing errors problem callbacks pieces",
    "reporters": "reporters report judging.verdict errors picture tensorboard_tab",
    "tensorboard_tab": "tensorboard_tab report judging.comparison judging.verdict errors",
    "adapters": "adapters _typing errors problem methods report check intake.tree intake.matching diagnosis "
    "traces.preserve traces.evaluation traces.footprint traces.reach watching.questions watching.watch",
    "cli": "tensorboard_tab reporters report judging.verdict diagnosis errors",
}
"""What stands beside the spine imports these and nothing else."""

SEES_BESIDE = {
    "watching.questions": "callbacks pieces",
    "rules.layerwise": "pieces",
    "rules.identities": "callbacks",
    "watching.penalty": "callbacks",
    "check": "traces.footprint traces.reach",
    "intake.door": "traces.evaluation",
    "watching.recorder": "traces.footprint traces.reach",
    "intake.causes": "traces.preserve traces.evaluation traces.footprint traces.reach",
    "intake.values": "traces.preserve traces.evaluation",
    "watching.watch": "schedule watching.switches reporters",
    "hook": "callbacks",
}
"""Who in the spine sees what stands beside it."""

LAZY = {("watching.watch", "reporters")}
"""Imports that are made only when they are needed, inside a function."""

FOR_TENSORBOARD = {"tensorboard_tab.loader", "tensorboard_tab.plugin"}
"""What only TensorBoard imports may import TensorBoard."""

GLOBAL_STATE = {"traces.footprint"}
"""Who may touch a global random state: to put it back."""

NO_DRAW = {"default_rng", "Generator", "SeedSequence"}
"""What of numpy.random has no global state."""


def sources():
    """Every module of the package by its name inside it, such as "nn.layers" and "nn" for its __init__."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py")}
    parts = {tuple(part for part in name.parts if part != "__init__"): path for name, path in paths.items()}
    return {".".join(name): path.read_text(encoding="utf-8") for name, path in parts.items()}


SOURCES = sources()
MODULES = sorted(name for name in SOURCES if name and name not in ROOMS)
each_module = pytest.mark.parametrize("module", MODULES)


def unit(module):
    """The module or sub-package that the law speaks of: "nn" for "nn.layers", "rules.flaw" for itself."""
    first = module.partition(".")[0]
    return module if first in ROOMS else first


def allowed(name):
    """What the law lets a unit import."""
    if name in BESIDE:
        return set(BESIDE[name].split())
    line = next(number for number, names in enumerate(SPINE) if name in names.split())
    return set(" ".join(SPINE[:line]).split()) | set(SEES_BESIDE.get(name, "").split())


def imports(source, *, lazy=True):
    """The full names of everything that a source imports; ``from a import b`` is "a.b"."""
    found = set()
    for node in ast.walk(ast.parse(source)) if lazy else eager_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def eager_nodes(node):
    """All nodes that are run at import: not those of functions, nor those for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from eager_nodes(child)


def own_imports(source, **options):
    """The modules of this package that a source imports; "" is the package itself, whose names come from all over."""
    found = set()
    for name in imports(source, **options):
        if name == "gc_hooks" or name.startswith("gc_hooks."):
            parts = name.split(".")[1:]
            while parts and ".".join(parts) not in SOURCES:
                parts.pop()
            found.add(".".join(parts))
    return found


def offences(module, source):
    """The imports that the law forbids."""
    return {name for name in own_imports(source) if unit(name) not in allowed(unit(module))}


@each_module
def test_imports_obey_the_law(module):
    """Each module of the spine imports only from those above it, and those beside it only what the table says."""
    assert offences(module, SOURCES[module]) == set()
    assert not any(name.startswith(".") for name in imports(SOURCES[module]))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("intake.tree", "from gc_hooks.intake.matching import norm"),
        ("check", "def f():\n    import gc_hooks.hook"),
        ("report", "from gc_hooks import Verdict"),
        ("nn.trainer", "from gc_hooks.check import check_gradients"),
        ("reporters.jsonl", "if TYPE_CHECKING:\n    from gc_hooks import hook"),
        ("compare", "from gc_hooks.reporters.console import ConsoleReporter"),
        ("cli", "import gc_hooks.hook"),
    ],
)
def test_the_law_sees_an_offence(module, source):
    """An import from below, from the package itself or past a fence is seen, wherever in a module it stands."""
    assert offences(module, source)


def test_the_law_knows_every_module():
    """No module is outside of the table, and the table speaks of no module that is gone."""
    known = " ".join(SPINE).split() + list(BESIDE)
    assert len(known) == len(set(known))
    assert {unit(module) for module in MODULES} == set(known)


def test_data_flow_one_way_from_room_to_room():
    """Traces, intake, measuring, judging, rules, watching: each sees only rooms before it."""
    for module in MODULES:
        here = module.partition(".")[0]
        seen = {name.partition(".")[0] for name in own_imports(SOURCES[module])} & set(ROOMS)
        if here in ROOMS:
            assert seen <= set(ROOMS[: ROOMS.index(here) + 1]), module


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for_and_no_more(room):
    """Its modules are imported by their own names."""
    (docstring,) = ast.parse(SOURCES[room]).body
    assert ast.get_docstring(ast.parse(SOURCES[room]))
    assert isinstance(docstring, ast.Expr)


def test_imports_have_no_cycle():
    """The modules can be put in an order in which each comes after all that it imports."""
    waiting = {module: own_imports(SOURCES[module]) - {module} for module in MODULES}
    while ready := {module for module, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {module: needed for module, needed in waiting.items() if module not in ready}
    assert not waiting


def test_the_hook_loads_reporters_only_when_it_needs_a_default_one():
    """What the table calls lazy is not imported at the top."""
    for module, needed in LAZY:
        assert needed in own_imports(SOURCES[module])
        assert needed not in own_imports(SOURCES[module], lazy=False)


@each_module
def test_names_that_hide_others_are_not_used(module):
    """No module is called typing, torch or utils."""
    assert not {"typing", "torch", "utils"} & set(module.split("."))


def heavy_imports(source, **options):
    return {name.partition(".")[0] for name in imports(source, **options)} & HEAVY


@pytest.mark.parametrize("module", ["", *MODULES])
def test_heavy_packages_are_imported_when_they_are_used(module):
    """Rich, TensorBoard, tensorboardX and torch are imported inside functions, or for type checkers alone."""
    allowed_here = {"tensorboard"} if module in FOR_TENSORBOARD else set()
    assert heavy_imports(SOURCES[module], lazy=False) == allowed_here


@each_module
def test_what_only_tensorboard_imports_is_imported_by_nobody_else(module):
    """The tab's server side is loaded by TensorBoard, not by a training."""
    assert not own_imports(SOURCES[module], lazy=False) & FOR_TENSORBOARD


def test_a_heavy_import_is_seen_where_it_is_run_at_import():
    """An import at the top, in a class or in a try is seen; one in a function or under TYPE_CHECKING is not."""
    for source in (
        "import rich.console",
        "class A:\n    import torch",
        "try:\n    from tensorboardX import x\nfinally: pass",
    ):
        assert heavy_imports(source, lazy=False)
    for source in ("def f():\n    import rich", "if TYPE_CHECKING:\n    from rich import get_console"):
        assert heavy_imports(source)
        assert not heavy_imports(source, lazy=False)


def test_importing_the_package_loads_nothing_heavy():
    """A fresh interpreter that imports gc_hooks has loaded none of the heavy packages, and warned of nothing."""
    code = f"import gc_hooks, sys; assert not {HEAVY!r} & set(sys.modules), sys.modules.keys() & {HEAVY!r}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("name", gc_hooks.__all__)
def test_public_names_exist_and_are_described(name):
    """Each public name can be imported and has a docstring that somebody wrote."""
    described = getattr(gc_hooks, name).__doc__ or ""
    assert described.strip()
    assert not described.startswith(f"{name}(")  # what a dataclass makes up


@pytest.mark.parametrize("name", [*gc_hooks.__all__, *gc_hooks.nn.__all__, *gc_hooks.adapters.__all__])
def test_public_names_stand_in_the_table_of_the_readme(name):
    """The README's table of public names is complete."""
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    code = " ".join(re.findall("`([^`]+)`", "\n".join(rows)))
    assert re.search(rf"\b{name}\b", code)


def test_all_public_names_are_listed_in_order():
    """`__all__` names what the package imports for its users: sorted, once each, and nothing left out."""
    names = {name.rpartition(".")[2] for name in imports(SOURCES[""])}
    assert sorted(set(gc_hooks.__all__)) == sorted(gc_hooks.__all__)
    assert set(gc_hooks.__all__) == names


@each_module
def test_a_module_can_be_read_in_one_sitting(module):
    """A module has fewer than 350 lines."""
    assert len(SOURCES[module].splitlines()) < 350


def long_functions(source, limit=35):
    """Functions whose body, without the docstring, has more lines than that."""
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return [function.name for function in functions if body_length(function) > limit]


def body_length(function):
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@each_module
def test_a_function_fits_on_a_screen(module):
    """No function's body has more than 35 lines, its docstring left out."""
    assert long_functions(SOURCES[module]) == []


def test_a_long_function_is_seen():
    """36 lines are too many, 35 and a docstring are not; a function inside a class is looked at too."""
    body = "\n        x = 1"
    assert long_functions(f"class A:\n    def f(self):{36 * body}") == ["f"]
    assert long_functions(f'class A:\n    def f(self):\n        """Doc."""{35 * body}') == []


def global_draws(source):
    """Uses of a global random state: NumPy's, however it was imported, and Python's."""
    attributes = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    used = {
        found[1] for name in attributes | imports(source) if (found := re.match(r"(?:np|numpy)\.random\.(\w+)", name))
    }
    return (used - NO_DRAW) | {name for name in imports(source) if re.match(r"random\b", name)}


@each_module
def test_no_global_random_state_is_used(module):
    """Nothing seeds, reads or draws from a global random state, but for the one place that puts it back."""
    assert bool(global_draws(SOURCES[module])) == (module in GLOBAL_STATE)


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
    """However it is spelt, and a generator of one's own is none."""
    assert global_draws(source)
    assert not global_draws("generator = np.random.default_rng(0)\ngenerator.normal()")
