"""The documentation of the configuration is what the settings say of themselves."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from dispatcher.config import Settings, parse
from docs import generate_configuration as generate

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("path", "made"), [(generate.PAGE, generate.page), (generate.SAMPLE, generate.sample)]
)
def test_what_is_written_is_up_to_date(path: Path, made):
    written = path.read_text(encoding="utf-8")
    assert written == made(), "run: python docs/generate_configuration.py"


def test_every_key_has_its_meaning_in_the_page():
    page = generate.page()
    for section in generate.SECTIONS:
        assert f"## `{generate.header(section)}`" in page
        for field in section.fields():
            assert generate.docstrings(section.kind)[field.name] in page, field.name


def test_every_table_of_the_settings_has_a_section():
    def tables(kind: msgspec.inspect.Type) -> set[type]:
        match kind:
            case msgspec.inspect.StructType():
                below = [tables(field.type) for field in kind.fields]
                return {kind.cls}.union(*below)
            case msgspec.inspect.DictType():
                return tables(kind.value_type)
            case msgspec.inspect.UnionType(types):
                return set[type]().union(*map(tables, types))
            case _:
                return set()

    documented = {section.kind for section in generate.SECTIONS}
    documented |= {*generate.SOURCES, *generate.TABLES}
    assert tables(msgspec.inspect.type_info(Settings)) - {Settings} == documented


def test_the_smallest_configuration_of_the_page_works():
    [text] = re.findall(r"```toml\n(.*?)```", generate.page(), re.DOTALL)
    assert (
        parse(text, base=Path("/")).accounts["cn-prod"].quota
        == tomllib.loads(text)["accounts"]["cn-prod"]["quota"]
    )


def test_what_the_page_links_to_exists():
    for link in re.findall(r"\]\(([^)h][^)]*)\)", generate.page()):
        assert (generate.PAGE.parent / link).resolve().is_file(), link
