"""What a browser may have opened, and what it may not."""

import os
from pathlib import Path

import pytest

from workbench.access import ALLOW_HUB, MODELS, allowed_model, hub_allowed, model_folders


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
