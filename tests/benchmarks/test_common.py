import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def common():
    return load("common")


async def test_rounds_alternate_and_the_first_one_does_not_count(common, monkeypatch):
    calls: list[object] = []

    def contender(name):
        async def make(count):
            calls.append((name, count))

        return make

    clock = iter(range(1000))
    monkeypatch.setattr(common.time, "process_time", lambda: next(clock) ** 2 / 1000)
    monkeypatch.setattr(
        common, "keep_out_of_collections", lambda: calls.append("out of collections")
    )
    contenders = {"a": contender("a"), "b": contender("b")}
    figures = await common.alternate(contenders, {"a": 10, "b": 2}, rounds=3)
    round_ = [("a", 10), ("b", 2)]
    assert calls == [*round_, "out of collections", *round_ * 3]
    # The clock is read once in each warm-up; then a takes 5, 13 and 21 ms, b 9, 17 and 25.
    assert round(figures.cpu_ms("a"), 6) == 1.3
    assert round(figures.cpu_ms("b"), 6) == 8.5
    assert round(figures.times("a", "b"), 6) == round(8.5 / 1.3, 6)


def test_a_plot_is_an_image_with_all_its_lines(tmp_path):
    import xml.etree.ElementTree as ET

    plot = load("plot")
    lines = {"<a>": [(1, 0.5), (1000, 12.0)], "b": [(1, 3.0), (10, 4.0), (1000, 2.0)]}
    plot.write(tmp_path / "p.svg", "A & B", "how many", lines)
    tree = ET.parse(tmp_path / "p.svg")
    kinds = [element.tag.partition("}")[2] for element in tree.iter()]
    assert kinds.count("polyline") == 2
    assert kinds.count("circle") == 5
    texts = [element.text for element in tree.iter() if element.text]
    assert {"A & B", "<a>", "b", "how many", "1,000"} <= set(texts)
