from dataclasses import replace

import numpy as np
import pytest

from engine.perturbation.screen import Screen
from engine.training.recipes.perturbation.measured import ScreenSource, require_controls
from engine.training.recipes.perturbation.split import Split
from storage.errors import InputError
from tests.perturbation.screens import small_store


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Screen:
    store = small_store(tmp_path_factory.mktemp("screen"))
    return ScreenSource(store, "target", "non-targeting", "line").open()


def test_no_held_out_target_is_trained_on_combinations_included(screen: Screen) -> None:
    split = Split.of(screen, "perturbation", named=["G1"])
    trained = {gene for _, label in split.training(screen) for gene in screen.targets(label)}
    assert "G1" not in trained
    assert {label for _, label in split.validation(screen)} == {"G1", "G0+G1"}
    assert not set(split.training(screen)) & set(split.validation(screen))
    everything = [group for group in screen.groups if group[1] != screen.control]
    assert sorted(split.training(screen) + split.validation(screen)) == sorted(everything)


def test_no_cell_of_a_held_out_context_is_trained_on_but_its_controls_are_known(screen: Screen) -> None:
    split = Split.of(screen, "context", named=["right"])
    assert {context for context, _ in split.training(screen)} == {"left"}
    assert {context for context, _ in split.validation(screen)} == {"right"}


def test_the_share_is_drawn_by_the_seed(screen: Screen) -> None:
    drawn = [Split.of(screen, "perturbation", share=0.4, seed=seed).held_out for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert all(len(one) == 2 for one in drawn)
    assert Split.of(screen, "perturbation", share=0).held_out == ()


def test_splits_that_cannot_be_are_refused(screen: Screen) -> None:
    with pytest.raises(InputError, match="has no such perturbation"):
        Split.of(screen, "perturbation", named=["NOPE"])
    with pytest.raises(InputError, match="nothing is left"):
        Split.of(screen, "perturbation", named=["G0", "G1", "G2", "G3", "X1"])
    alone = ScreenSource(screen.where, "target", "non-targeting").open()
    with pytest.raises(InputError, match="one context"):
        Split.of(alone, "context")
    with pytest.raises(InputError, match="no cell has the control label"):
        ScreenSource(screen.where, "target", "ctrl").open()
    with pytest.raises(InputError, match="no column 'guide'"):
        ScreenSource(screen.where, "guide", "non-targeting").open()
    with pytest.raises(InputError, match="names both"):
        ScreenSource(screen.where, "target", "non-targeting", "target").open()


def test_a_context_without_control_cells_is_refused(screen: Screen) -> None:
    require_controls(screen)
    lost = (screen.contexts == "left") & (screen.perturbations == screen.control)
    without = replace(screen, perturbations=np.where(lost, "G0", screen.perturbations))
    with pytest.raises(InputError, match=r"no control cells \('non-targeting'\) in context left"):
        require_controls(without)
