from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    loader = SourceFileLoader("hack_generate", str(TOP / "hack" / "generate"))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", ["crds", "charts/vaultbrix/crds"])
def test_the_committed_definitions_are_those_of_the_models(generate: ModuleType, folder: str) -> None:
    committed = {path.name: path.read_bytes() for path in (TOP / folder).iterdir()}
    assert committed == {name: text.encode() for name, text in generate.definitions().items()}


def test_the_committed_reference_is_that_of_the_models(generate: ModuleType) -> None:
    assert (TOP / "docs" / "reference.md").read_bytes() == generate.reference().encode()


def test_nothing_else_is_generated_without_helm(generate: ModuleType) -> None:
    kinds = {f"{folder}/{name}" for name in generate.definitions() for folder in ("crds", "charts/vaultbrix/crds")}
    found = {str(path.relative_to(TOP)) for path in generate.wanted(with_helm=False)}
    assert found == kinds | {"docs/reference.md", "charts/vaultbrix/templates/user-roles.yaml"}


def test_the_committed_roles_of_users_are_those_of_the_table(generate: ModuleType) -> None:
    path = TOP / "charts/vaultbrix/templates/user-roles.yaml"
    assert path.read_text() == generate.wanted(with_helm=False)[path]
