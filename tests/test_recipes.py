"""What the recipes of CONTRIBUTING.md ask for is demanded: each law lists all offenders, and says what to add.

The laws of one kind of part stand beside its other tests: test_rules_laws.py (a rule and a code), test_nn_laws.py (a
layer), test_adapters.py (an adapter), test_reporters.py (a reporter), test_own_methods.py (a method). Here is what all
five have in common: a part that is not made public is found, and so is a public name without documents or a test.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import gc_hooks
import gc_hooks.rules
import gc_hooks.slopes.methods
import test_adapters
from gc_hooks import Method, Reporter, adapters, nn
from gc_hooks.report.diagnosis import Code
from gc_hooks.rules import RULES

ROOT = Path(__file__).parents[1]
NOT_AN_ADAPTER = {"preserve"}
"""Public functions of `gc_hooks.adapters` that attach nothing."""


def modules(package):
    """Import and return all modules of a package, whether anything else imports them or not."""
    names = [
        package.__name__,
        *(found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
    ]
    return [importlib.import_module(name) for name in names if "tensorboard_tab" not in name]


def defined(package, kind):
    """Return what the modules of a package define under a name without underscore and ``kind(object)`` accepts."""
    found = {}
    for module in modules(package):
        for name, thing in vars(module).items():
            if not name.startswith("_") and getattr(thing, "__module__", "") == module.__name__ and kind(thing):
                found[name] = module.__name__
    return found


def returns(annotation):
    """Return a test for functions that say so of what they return."""
    return lambda thing: inspect.isfunction(thing) and thing.__annotations__.get("return") == annotation


def concrete(thing):
    """Return whether this is a class for use: not abstract, and not a base class of others in the package."""
    bases = [kind.__module__ for kind in type.__subclasses__(thing)] if inspect.isclass(thing) else ["gc_hooks"]
    abstract = inspect.isabstract(thing) or getattr(thing, "_is_protocol", False)
    return not abstract and not any(module.startswith("gc_hooks") for module in bases)


def subclasses(kind):
    """Return a test for classes that inherit from a kind."""
    return lambda thing: concrete(thing) and issubclass(thing, kind)


def has_a_gradient(thing):
    """Return whether this is a loss or a penalty."""
    return concrete(thing) and hasattr(thing, "value") and inspect.isfunction(getattr(thing, "gradient", None))


def parts():
    """Return for each kind of part what the package defines, what is listed, and where it has to be listed."""
    methods = {n: m.__name__ for m in modules(gc_hooks.slopes) for n, thing in vars(m).items() if is_method(n, thing)}
    return [
        (defined(nn, subclasses(nn.Layer)) | defined(nn, has_a_gradient), nn.__all__, "gc_hooks/nn/__init__.py"),
        (defined(adapters, returns("Attachment")), [*adapters.__all__, "attach"], "gc_hooks/adapters/__init__.py"),
        (defined(gc_hooks.reporters, subclasses(Reporter)), gc_hooks.__all__, "gc_hooks/__init__.py"),
        (methods | defined(gc_hooks.slopes, returns("Method")), gc_hooks.__all__, "gc_hooks/__init__.py"),
    ]


def is_method(name, thing):
    return isinstance(thing, Method) and not name.startswith("_")


def not_reached():
    """Return a sentence for each rule that is not called, and each part that is not public."""
    called = {rule.__name__ for rule in RULES}
    missing = []
    for name, module in defined(gc_hooks.rules, returns("Iterator[Diagnosis]")).items():
        if name not in called:
            missing.append(
                f"No check calls the rule {name} of {module}: add it to RULES in gc_hooks/rules/__init__.py."
            )
    for found, public, where in parts():
        for name, module in found.items():
            if name not in public:
                missing.append(f"{name} of {module} is not public: import it in {where}, and add it to __all__ there.")
    return missing


def public_names():
    """Return the names that users import, and the codes of the bugs, on which they act."""
    return sorted({*gc_hooks.__all__, *nn.__all__, *adapters.__all__, *Code})


def words(text):
    """Return the words in backticks, code in fences too."""
    return set(re.findall(r"\w+", " ".join(re.findall("`([^`]+)`", text))))


def untold(names, changes, tests):
    """Return a sentence for each public name that the CHANGELOG does not name or no test uses."""
    told, used = words(changes), set(re.findall(r"\w+", tests))
    missing = [
        f"{name} is not in CHANGELOG.md: add a line that begins with its name." for name in names if name not in told
    ]
    return missing + [f"No test uses {name}: add one." for name in names if name not in used]


def untried_adapters(names, shapes):
    """Return a sentence for each adapter with which no trainer of tests/test_adapters.py is attached."""
    attached = " ".join(inspect.getsource(shape.attach) for shape in shapes)
    used = set(re.findall(r"adapters\.(\w+)\(", attached))
    return [
        f"No trainer is attached by adapters.{name}: add a class with its shape to SHAPES in tests/test_adapters.py."
        for name in names
        if name[0].islower() and name not in used | NOT_AN_ADAPTER
    ]


def test_every_part_can_be_reached():
    """A rule is called, and layers, losses, adapters, reporters and methods can be imported by users."""
    assert not not_reached()


def test_every_public_name_has_a_line_in_the_changelog_and_a_test():
    """And a row in the README: test_architecture.py."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    assert not untold(public_names(), (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), tests)


def test_every_adapter_attaches_a_trainer():
    """Whatever the adapter, a trainer of its shape is checked right and wrong, and trains on to the same bits."""
    assert not untried_adapters(adapters.__all__, test_adapters.SHAPES)


def test_a_part_without_anything_is_told_what_it_needs(monkeypatch):
    """The laws can fail, and what is missing already is no concern of this test."""
    before = not_reached()

    def never_heard_of(context):
        yield from ()

    never_heard_of.__annotations__ = {"return": "Iterator[Diagnosis]"}
    never_heard_of.__module__ = "gc_hooks.rules.misplaced"
    monkeypatch.setattr(gc_hooks.rules.misplaced, "never_heard_of", never_heard_of, raising=False)
    newcomer = type("Newcomer", (nn.ReLU,), {"__module__": "gc_hooks.nn.activations"})
    monkeypatch.setattr(nn.activations, "Newcomer", newcomer, raising=False)
    monkeypatch.setattr(gc_hooks.slopes.methods, "newcomer", Method.of(len), raising=False)
    assert [sentence for sentence in not_reached() if sentence not in before] == [
        "No check calls the rule never_heard_of of gc_hooks.rules.misplaced: add it to RULES in "
        "gc_hooks/rules/__init__.py.",
        "Newcomer of gc_hooks.nn.activations is not public: import it in gc_hooks/nn/__init__.py, and add it to "
        "__all__ there.",
        "newcomer of gc_hooks.slopes.methods is not public: import it in gc_hooks/__init__.py, and add it to __all__ "
        "there.",
    ]
    assert untold(["Newcomer"], "`nn.Newcomers`", "Newcomer()") == [
        "Newcomer is not in CHANGELOG.md: add a line that begins with its name."
    ]
    assert untold(["Newcomer"], "`nn.Newcomer`", "Newcomers()") == ["No test uses Newcomer: add one."]
    assert untried_adapters(["newcomer", "flat", "preserve", "Uncertain"], [test_adapters.Flat]) == [
        "No trainer is attached by adapters.newcomer: add a class with its shape to SHAPES in tests/test_adapters.py."
    ]


# The documents


def paths_in(text):
    """Return the paths of files and folders that a document names in backticks or links to."""
    named = {name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name or name.endswith((".md", ".py", ".cfg"))}
    return named | set(re.findall(r"\]\(([^)#:]+)\)", text))


def test_contributing_and_the_decisions_name_files_that_are_there():
    """Each path is found in the repository, or beside the document that names it."""
    documents = [ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "decisions").glob("*.md")]
    missing = {}
    for document in documents:
        for name in paths_in(document.read_text(encoding="utf-8")):
            if not any((folder / name).exists() for folder in (ROOT, ROOT / "gc_hooks", document.parent)):
                missing.setdefault(document.name, []).append(name)
    assert len(documents) > 2
    assert not missing


def test_the_decisions_are_listed():
    """In their order, by the title that each begins with."""
    folder = ROOT / "docs" / "decisions"
    pages = sorted(folder.glob("[0-9]*.md"))
    listed = re.findall(r"\[(\d+): ([^]]+)\]\(([^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    titles = [re.match(r"# (\d+): (.+)\n", page.read_text(encoding="utf-8")).groups() for page in pages]
    assert listed == [(*title, page.name) for title, page in zip(titles, pages, strict=True)]
    assert [int(number) for number, _ in titles] == list(range(1, len(pages) + 1))
