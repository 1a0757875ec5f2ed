"""The package's shape: who may import whom, and what stays unloaded until it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

import exposure_bias as eb

ROOT = Path(eb.__file__).parent

# Each module imports only from those before it; between the files of one sub-package the order is
# free.
ORDER = (
    "errors",
    "checking",
    "strangers",
    "states",
    "files",
    "clipping",
    "schedules",
    "levels",
    "samplers",
    "jackknife",
    "results",
    "paths",
    "data",
    "run",
    "autoregression",
    "contexts",
    "denoisers",
    "oracles",
    "remedies",
    "adapters",
    "streams",
    "statistics",
    "recording",
    "references",
    "diagnostics",
    "running",
    "true_states",
    "observer",
    "fidelity",
    "training",
    "experiments",
    "plots",
    "reporting",
    "__init__",
    "cli",
    "__main__",
)
WITH_TORCH = {
    "paths",
    "contexts",
    "denoisers",
    "oracles",
    "remedies",
    "adapters",
    "streams",
    "running",
    "true_states",
    "observer",
    "fidelity",
    "training",
    "experiments",
    "__init__",
}
TORCH_FREE = {*ORDER} - WITH_TORCH
READS_WEIGHTS = "files.weights"  # the one reader of files that needs torch
OUTSIDE = {"analyses", "figures", "benchmarks", "tests"}
SLOW = ("torch", "diffusers", "matplotlib", "sklearn", "pandas")


def dotted(path: Path) -> str:
    """exposure_bias/statistics/law.py -> statistics.law; the __init__.py of a sub-package -> the
    sub-package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {dotted(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(source: str, package: str, known: set[str]) -> Iterator[str]:
    """What source imports at any depth, except for type checking.

    package: what its relative imports start from. Yields names of `known`, "__init__" for the
    public names, and the top-level name of what lies outside."""
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        ):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            yield from (resolve(alias.name, known) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (resolve(f"{base}.{alias.name}", known) for alias in node.names)


def resolve(name: str, known: set[str]) -> str:
    top, _, inside = name.partition(".")
    if top != "exposure_bias":
        return top
    return next((m for m in (inside, inside.rpartition(".")[0]) if m in known), "__init__")


def imports_of(module: str) -> set[str]:
    path = FILES[module]
    package = ".".join(["exposure_bias", *path.parent.relative_to(ROOT).parts])
    return set(imports(path.read_text(), package, set(FILES)))


def room(module: str) -> str:
    """The module or sub-package of `ORDER` that a file belongs to."""
    name = module.partition(".")[0]
    if name not in ORDER:
        pytest.fail(
            f"exposure_bias/{name} has no place yet: add it to ORDER in {__file__}, below all that"
            " it imports"
        )
    return name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import numpy as np, exposure_bias.files", {"numpy", "files"}),
        ("from exposure_bias import files, load", {"files", "__init__"}),
        ("from exposure_bias.statistics.law import law", {"statistics.law"}),
        ("from exposure_bias.statistics import law, other", {"statistics.law", "statistics"}),
        ("def f():\n  from exposure_bias.files import write_bytes", {"files"}),
        ("if TYPE_CHECKING:\n  import torch\nelse:\n  import numpy", {"numpy"}),
        ("from .law import law\nfrom ..files import write_bytes", {"statistics.law", "files"}),
        ("from . import law\nfrom .. import files", {"statistics.law", "files"}),
        ("import analyses.study", {"analyses"}),
    ],
)
def test_every_kind_of_import_is_seen(source: str, expected: set[str]) -> None:
    known = {"__init__", "files", "statistics", "statistics.law"}
    assert set(imports(source, "exposure_bias.statistics", known)) == expected


def test_imports_come_from_above() -> None:
    for module in FILES:
        above = ORDER[: ORDER.index(room(module))]
        for target in imports_of(module):
            assert target not in OUTSIDE, f"{module} imports {target}: the package never does"
            if target in FILES and room(target) != room(module):
                assert room(target) in above, (
                    f"{module} imports {target}, which stands below it in ORDER (design §5)"
                )


def test_no_cycles() -> None:
    graph = {module: imports_of(module) & FILES.keys() - {module} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {', '.join(error.args[1])}")


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


SAMPLERS = {
    "Sampler",
    "OneStep",
    "DDPM",
    "DDIM",
    "Euler",
    "Heun",
    "SchedulerSampler",
    "Trapezoid",
}


def test_nobody_asks_a_sampler_for_its_class() -> None:
    """Every question about a sampler is a member of the protocol, so that a stranger's fits in
    (design §5)."""
    for module, path in FILES.items():
        for call in calls_of(ast.parse(path.read_text()), "isinstance"):
            nodes = list(ast.walk(call.args[1]))
            classes = {node.id for node in nodes if isinstance(node, ast.Name)}
            classes |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
            assert not classes & SAMPLERS, f"{module}: {ast.unparse(call)}"


# What an attribute of a dataset may be compared with: words of a fixed vocabulary, never of a
# sentence.
VOCABULARY = {"FID", "yes", "no"}


def test_no_result_depends_on_the_wording_of_a_message() -> None:
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare) and reads_a_text(node):
                assert compared_words(node) <= VOCABULARY, f"{module}: {ast.unparse(node)}"


def reads_a_text(node: ast.Compare) -> bool:
    """Whether a comparison looks into a dataset's attributes, other than for a key of theirs."""
    reads = any(
        isinstance(n, ast.Attribute) and n.attr in ("attrs", "description") for n in ast.walk(node)
    )
    membership = all(isinstance(op, ast.In | ast.NotIn) for op in node.ops)
    asks_for_a_key = membership and isinstance(node.left, ast.Constant)
    return reads and not (asks_for_a_key and isinstance(node.comparators[0], ast.Attribute))


def compared_words(node: ast.Compare) -> set[str]:
    """The texts in a comparison, except those that are keys of a look-up."""
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    slices = [n.slice for n in ast.walk(node) if isinstance(n, ast.Subscript)]
    keys = {s.value for s in slices if isinstance(s, ast.Constant)}
    return {value for value in constants if isinstance(value, str)} - keys


def test_a_run_is_described_once() -> None:
    """Whatever is recorded about a run stands in `Run`: nothing else turns one into JSON or
    compares two."""
    fields = {"parameterisation", "weights", "spacing", "exact_teacher"}
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                keys = {k.value for k in node.keys if isinstance(k, ast.Constant)}
                assert not len(keys & fields) > 2 or module == "recording", (
                    f"{module} describes a run again"
                )


def test_every_public_name_exists() -> None:
    missing = []
    for name in eb.__all__:
        try:
            getattr(eb, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name} ({error})")
    assert not missing


def run(code: str, *forbidden: str) -> list[str]:
    """The lines that Python code prints in a new process.

    The code calls check(what) after what it does; the test fails there if one of the forbidden
    modules is loaded."""
    check = f"""
import sys
def check(what):
    found = [m for m in {forbidden!r} if m in sys.modules]
    if found:
        sys.exit(f"{{what}} loads {{', '.join(found)}}")
"""
    done = subprocess.run([sys.executable, "-c", check + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_check_itself() -> None:
    with pytest.raises(AssertionError, match="this loads torch"):
        run("import torch; check('this')", *SLOW)


def test_importing_the_package_is_quick() -> None:
    run("import exposure_bias; check('import exposure_bias')", *SLOW)


def test_modules_that_work_without_torch_do_not_import_it() -> None:
    code = f"""
from importlib import import_module
for module in {[m for m in FILES if room(m) in TORCH_FREE and m != READS_WEIGHTS]!r}:
    import_module("exposure_bias." + module)
    check(module)
"""
    run(code, "torch", "diffusers")


def test_analysing_a_recording_loads_no_network(tmp_path: Path) -> None:
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 0.1, eb.schedules.linear(1000))
    images = np.random.default_rng(0).normal(0, 0.3, (32, 1, 4, 4)).astype(np.float32)
    data = eb.load_data(images, value_range=None)
    eb.record(model, data, steps=4, streams=("forward", "chain", "teacher")).save(
        tmp_path / "run.nc"
    )
    code = f"""
import inspect
from functools import partial
from importlib import import_module
from exposure_bias.recording import Recording, load
functions = partial(inspect.getmembers, predicate=inspect.isfunction)
recording = load({str(tmp_path / "run.nc")!r})
check("load")
for module in {[m for m in FILES if room(m) == "diagnostics"]!r}:
    for name, function in functions(import_module("exposure_bias." + module)):
        takes = [p.annotation for p in inspect.signature(function).parameters.values()]
        takes = takes[: 2 if takes[:2] == [Recording, Recording] else 1]
        ours = function.__module__.endswith(module) and not name.startswith("_")
        if takes and all(t is Recording for t in takes) and ours:
            function(*[recording] * len(takes))
            check(name)
            print(name)
"""
    analysed = run(code, "torch", "diffusers", "matplotlib", "sklearn")
    assert {"spectrum", "state_error"} <= set(analysed)


def test_help_is_quick() -> None:
    code = """
from exposure_bias.cli import main
sys.argv = ["eb-analyze", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code
check("eb-analyze --help")
print(len(sys.modules))
"""
    *text, modules = run(code, *SLOW)
    assert "error-hist" in "\n".join(text)
    assert int(modules) < 400
