"""The tree of the tests is that of the package: who knows a module knows where its tests are."""

from pathlib import Path

import dispatcher

PACKAGE = Path(dispatcher.__file__).parent
TESTS = Path(__file__).parent

WITHOUT_TESTS_OF_THEIR_OWN = {
    "config/problems.py": "one named tuple",
    "core/effects.py": "nouns only",
    "core/model.py": "nouns only",
    "core/rules.py": "nouns only",
    "core/views.py": "nouns only",
    "emulator/refusals.py": "a tree of names; each test that meets one tests it",
    "engine/forms.py": "each test of a send, a watched run or a notice tests its form",
    "version.py": "one string",
    "ports.py": "shapes only: tests/contracts holds every implementation to them",
    "web/ports.py": "shapes only",
    "web/routes.py": "shapes only: tests/web/test_openapi.py holds the table to what is served",
}

BESIDE_THE_MODULES = {
    "core/test_cost.py": "what a decision costs, counted in operations of the whole core",
    "core/test_promises.py": "what the whole core promises, under any order of stimuli",
}

BESIDE_THE_PACKAGE = {
    "benchmarks": "that the benchmarks run",
    "contracts": "one suite for each port, run on every implementation",
    "crash": "what survives kill -9 and power cuts",
    "deploy": "the files under deploy/",
    "docs": "the documents and the scripts that write them",
    "real": "against software nobody here wrote",
    "simulation": "the whole against a simulated cloud, in virtual time",
}


def modules() -> set[str]:
    """Return the modules that have code of their own, by their path inside the package."""
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


def twin(module: str) -> Path:
    path = TESTS / module
    return path.with_name(f"test_{path.name}")


def test_every_module_has_its_tests_at_its_own_place():
    missing = {module for module in modules() if not twin(module).is_file()}
    missing -= WITHOUT_TESTS_OF_THEIR_OWN.keys()
    assert not missing, "no tests: " + " ".join(sorted(missing))


def test_no_exception_outlives_its_reason():
    gone = WITHOUT_TESTS_OF_THEIR_OWN.keys() - modules()
    tested = {module for module in WITHOUT_TESTS_OF_THEIR_OWN if twin(module).is_file()}
    assert gone | tested == set()


def test_every_test_has_its_module():
    strays = set()
    for path in TESTS.rglob("test_*.py"):
        place = path.relative_to(TESTS)
        if len(place.parts) == 1 or place.parts[0] in BESIDE_THE_PACKAGE:
            continue
        if str(place) in BESIDE_THE_MODULES:
            continue
        module = place.with_name(path.name.removeprefix("test_"))
        package = place.parent / path.stem.removeprefix("test_") / "__init__.py"
        if not (PACKAGE / module).is_file() and not (PACKAGE / package).is_file():
            strays.add(str(place))
    assert strays == set()
