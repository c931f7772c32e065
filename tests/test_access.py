"""What a browser may have opened, and what it may not."""

import os
from pathlib import Path

import pytest

from model import load_model
from model.checkpoints import save_model
from workbench import access
from workbench.access import (
    ALLOW_HUB,
    MODELS,
    STORES,
    allowed_model,
    allowed_store,
    hub_allowed,
    model_folders,
    offered_models,
    store_folders,
)
from workbench.commands.app import _configure
from workbench.session import Workbench


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with one model in it, and another model beside the folder."""
    for place in ("models/mine", "outside/secret"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "config.json").write_text("{}")
    return tmp_path / "models"


def test_bundled_models_and_directories_of_the_folder_are_allowed(folder):
    assert allowed_model("demo/dcformer", [], hub=False) == "demo/dcformer"
    for reference in ("mine", str(folder / "mine")):
        assert allowed_model(reference, [folder], hub=False) == str(folder / "mine")


def test_a_model_directory_may_be_given_itself(folder):
    assert allowed_model(str(folder / "mine"), [folder / "mine"], hub=False) == str(folder / "mine")


@pytest.mark.parametrize(
    "reference",
    ["../outside/secret", "mine/../../outside/secret", "/etc", "~", "nothing here", "C:\\models", "a" * 5000,
     "file:///etc/passwd", "demo/../../x"],
)  # fmt: skip
def test_nothing_outside_the_folder_is_opened(folder, reference):
    with pytest.raises(ValueError, match="may not be opened") as refused:
        allowed_model(reference, [folder], hub=True)
    assert str(folder) not in str(refused.value)


def test_an_absolute_path_outside_is_refused_though_it_is_a_model(folder):
    with pytest.raises(ValueError, match="may not be opened"):
        allowed_model(str(folder.parent / "outside" / "secret"), [folder], hub=False)


@pytest.mark.parametrize("reference", ["", "  ", "mine\0"])
def test_no_name_is_said_to_be_none(folder, reference):
    with pytest.raises(ValueError, match="No model was named"):
        allowed_model(reference, [folder], hub=False)


def test_links_that_leave_the_folder_are_refused_and_links_within_it_are_not(folder):
    (folder / "escape").symlink_to(folder.parent / "outside" / "secret")
    (folder / "again").symlink_to(folder / "mine")
    (folder / "half").mkdir()
    (folder / "half" / "config.json").symlink_to(folder.parent / "outside" / "secret" / "config.json")
    for name in ("escape", "half"):
        with pytest.raises(ValueError, match="may not be opened"):
            allowed_model(name, [folder], hub=False)
    assert allowed_model("again", [folder], hub=False) == str(folder / "again")


def test_links_in_a_circle_are_refused_and_hide_no_other_model(folder):
    (folder / "round").mkdir()
    (folder / "round" / "about").symlink_to(folder / "round" / "again")
    (folder / "round" / "again").symlink_to(folder / "round" / "about")
    for name in ("round", str(folder / "round" / "about")):
        with pytest.raises(ValueError, match="may not be opened"):  # before Python 3.13 a RuntimeError came up
            allowed_model(name, [folder], hub=False)
    assert allowed_model("mine", [folder], hub=False) == str(folder / "mine")


def test_the_hub_is_asked_only_where_that_is_allowed(folder):
    assert allowed_model("some-org/some-model", [folder], hub=True) == "some-org/some-model"
    with pytest.raises(ValueError, match=rf"the Hugging Face hub may not be asked: .* {ALLOW_HUB}=1"):
        allowed_model("some-org/some-model", [folder], hub=False)


def test_a_directory_goes_before_a_hub_id_of_the_same_name(folder):
    (folder / "org" / "model").mkdir(parents=True)
    assert allowed_model("org/model", [folder], hub=True) == str(folder / "org" / "model")


def test_settings_come_from_the_environment(folder):
    given = {MODELS: os.pathsep.join([str(folder), str(folder / "gone"), str(folder / "mine")])}
    assert model_folders(given) == (folder, folder / "mine")
    assert model_folders({}) == ()
    assert [hub_allowed({ALLOW_HUB: value}) for value in ("1", "Yes", "0", "")] == [True, True, False, False]
    assert not hub_allowed({})


def test_folders_given_from_where_the_app_is_started_stay_the_same_when_it_goes_elsewhere(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv(MODELS, os.pathsep.join(["models", "gone"]))
    monkeypatch.setenv(STORES, "./outside/../models")
    bench = Workbench([Path("models")])
    _configure((), (), False)
    monkeypatch.chdir("/")
    assert model_folders() == bench.model_folders == (folder,)
    assert store_folders()[0] == folder
    assert os.environ[MODELS].split(os.pathsep)[1] == str(folder.parent / "gone")  # it may come
    _configure((folder / "mine",), (), False)  # an option goes before the environment
    assert model_folders() == (folder / "mine",)


# -- stores and studies ------------------------------------------------------------------------------


@pytest.fixture
def stores(tmp_path) -> Path:
    """A folder with one store in it, whose labels lie deeper, and a file beside the folder."""
    (tmp_path / "stores" / "mine" / "labels").mkdir(parents=True)
    (tmp_path / "stores" / "mine" / "manifest.json").write_text("{}")
    (tmp_path / "stores" / "mine" / "labels" / "role.json").write_text("{}")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text("{}")
    return tmp_path / "stores"


def test_a_store_is_named_by_its_path_or_within_its_folder(stores):
    for typed in ("mine", str(stores / "mine")):
        assert allowed_store(typed, [stores]) == stores / "mine"


@pytest.mark.parametrize(
    "typed",
    ["", " ", "..", "../outside", "mine/../../outside", "/", "/etc", "/proc/self", "~", "~root", "mine\0", "a" * 9000,
     "\ud800", "file:///etc", "mine/manifest.json", "//etc", "\\\\server\\share", "%2e%2e/outside"],
)  # fmt: skip
def test_no_other_folder_is_opened_as_a_store_and_none_is_named(stores, typed):
    with pytest.raises(ValueError, match="may not be opened") as refused:
        allowed_store(typed, [stores])
    assert str(stores) not in str(refused.value)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize("place", ["escape", "mine/escape.json", "mine/labels/escape.json", "mine/labels/deeper"])
def test_a_link_out_of_the_folder_closes_the_store_at_any_depth(stores, place):
    target = stores.parent / "outside" if "." not in place else stores.parent / "outside" / "secret.json"
    (stores / place).symlink_to(target)
    with pytest.raises(ValueError, match="may not be opened"):
        allowed_store("escape" if place == "escape" else "mine", [stores])


def test_a_folder_with_more_files_than_are_looked_at_is_not_opened(stores, monkeypatch):
    monkeypatch.setattr(access, "MOST_FILES", 2)
    with pytest.raises(ValueError, match="may not be opened"):
        allowed_store("mine", [stores])


def test_folders_of_stores_are_those_given_and_the_workbenchs_own(stores):
    assert store_folders({STORES: str(stores)})[0] == stores
    assert all(folder.name in ("studies", "runs") for folder in store_folders({}))


# -- what a page offers ------------------------------------------------------------------------------


def test_models_that_link_out_of_the_folder_are_neither_offered_nor_loaded(folder):
    model = load_model("demo/dcformer")
    save_model(model, folder.parent / "outside" / "real")
    save_model(model, folder / "real")
    (folder / "escape").symlink_to(folder.parent / "outside" / "real")
    assert offered_models([folder]) == ["demo/dcformer", "demo/transformer", str(folder / "real")]
    assert offered_models([folder / "real"])[2:] == [str(folder / "real")]
    bench = Workbench([folder])
    assert bench.model(str(folder / "real")).cfg.n_layers == model.cfg.n_layers
    for name in ("escape", str(folder / "escape"), str(folder.parent / "outside" / "real"), "../outside/real"):
        with pytest.raises(ValueError, match="may not be opened"):
            bench.model(name)


def test_the_hub_is_not_asked_for_a_name_in_a_link(monkeypatch):
    monkeypatch.delenv(ALLOW_HUB, raising=False)
    asked = []
    monkeypatch.setattr("model.checkpoints.hub.fetch", lambda *given, **more: asked.append(given))
    with pytest.raises(ValueError, match="may not be asked"):
        Workbench().model("some-org/some-model")
    assert asked == []
