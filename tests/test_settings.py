import math
import re
from typing import Any

import pytest

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.settings import SelfRegSettings, check_places


def refusal(configuration: dict[str, Any]) -> str:
    with pytest.raises(SelfRegError) as caught:
        SelfRegSettings.from_plans(configuration)
    return str(caught.value)


@pytest.mark.parametrize("configuration", [{}, {"selfreg": {}}, {"batch_size": 2, "inherits_from": "3d_fullres"}])
def test_defaults_are_the_papers(configuration: dict[str, Any]) -> None:
    settings = SelfRegSettings.from_plans(configuration)
    assert settings.weights == {"scr": 0.015, "ifd": 0.015}
    assert settings == SelfRegSettings()


def test_given_settings_are_read_and_the_others_keep_their_defaults() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"lambda_scr": 0.1}})
    assert settings.weights == {"scr": 0.1, "ifd": 0.015}


def test_whole_numbers_become_floats() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"lambda_scr": 0, "lambda_ifd": 1}})
    assert settings.weights == {"scr": 0.0, "ifd": 1.0}
    assert all(isinstance(weight, float) for weight in settings.weights.values())


def test_unknown_setting_is_named_with_the_known_ones() -> None:
    message = refusal({"selfreg": {"lambda_src": 0.1}})
    assert re.fullmatch(
        r"SelfReg: plans key 'selfreg\.lambda_src' is unknown; known: lambda_scr, lambda_ifd(, \w+)*", message
    )


@pytest.mark.parametrize("name", ["lambda_scr", "lambda_ifd"])
@pytest.mark.parametrize("value", [True, False, "0.1", None, [0.1], {"weight": 0.1}, 1j])
def test_a_weight_must_be_a_number(name: str, value: Any) -> None:
    assert refusal({"selfreg": {name: value}}) == f"SelfReg: plans key 'selfreg.{name}' must be a number, got {value!r}"


@pytest.mark.parametrize("name", ["lambda_scr", "lambda_ifd"])
@pytest.mark.parametrize("value", [-0.1, -1, math.nan, math.inf, -math.inf, 10**400])
def test_a_weight_must_be_finite_and_at_least_zero(name: str, value: float) -> None:
    expected = f"SelfReg: plans key 'selfreg.{name}' must be finite and at least 0, got {value!r}"
    assert refusal({"selfreg": {name: value}}) == expected


@pytest.mark.parametrize("value", [0.015, "lambda_scr", None, True, ["lambda_scr"]])
def test_the_key_must_hold_settings_by_name(value: Any) -> None:
    assert refusal({"selfreg": value}) == f"SelfReg: plans key 'selfreg' must hold settings by name, got {value!r}"


@pytest.mark.parametrize("configuration", [{"selfreg": 1}, {"selfreg": {"x": 1}}, {"selfreg": {"lambda_scr": -1}}])
def test_a_refusal_is_one_line(configuration: dict[str, Any]) -> None:
    assert "\n" not in refusal(configuration)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        SelfRegSettings().taps = "stages"  # type: ignore[misc]


@pytest.mark.parametrize("value", ["blocks", None, 1, ["stages"]])
def test_taps_must_be_one_of_the_known(value: Any) -> None:
    expected = f"SelfReg: plans key 'selfreg.taps' must be one of stages, first_and_last, got {value!r}"
    assert refusal({"selfreg": {"taps": value}}) == expected


@pytest.mark.parametrize("name", ["encoder_stages", "decoder_stages"])
@pytest.mark.parametrize("value", [1, "1", [-1], [1.0], [True], [""], [["1"]], {"1": 1}])
def test_stages_must_be_listed_by_index_or_name(name: str, value: Any) -> None:
    expected = f"SelfReg: plans key 'selfreg.{name}' must list stage indices from 0, or modules' names, got {value!r}"
    assert refusal({"selfreg": {name: value}}) == expected


def test_a_stage_cannot_be_named_twice() -> None:
    expected = "SelfReg: plans key 'selfreg.encoder_stages' names a stage twice: [1, 1]"
    assert refusal({"selfreg": {"encoder_stages": [1, 1]}}) == expected


def test_stages_are_kept_in_the_order_of_the_forward_pass() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"encoder_stages": [3, 1], "decoder_stages": None}})
    assert (settings.encoder_stages, settings.decoder_stages) == ((1, 3), None)
    settings = SelfRegSettings.from_plans({"selfreg": {"encoder_stages": ["stem", "block"]}})
    assert settings.encoder_stages == ("stem", "block")


@pytest.mark.parametrize("value", [0, "", ["decoder"], True])
def test_the_teacher_must_be_a_name(value: Any) -> None:
    expected = f"SelfReg: plans key 'selfreg.teacher' must be a module's name, got {value!r}"
    assert refusal({"selfreg": {"teacher": value}}) == expected


@pytest.mark.parametrize(
    ("plans", "place"),
    [
        ({"selfreg": {"lambda_scr": 0.1}, "configurations": {"2d": {}}}, "selfreg"),
        ({"configurations": {"selfreg": {}, "2d": {}}}, "configurations.selfreg"),
        ({"configurations": {"2d": {"architecture": {"selfreg": {}}}}}, "configurations.2d.architecture.selfreg"),
        (
            {"configurations": {"2d": {"architecture": {"arch_kwargs": {"selfreg": {}}}}}},
            "configurations.2d.architecture.arch_kwargs.selfreg",
        ),
        ({"foo": {"selfreg": {}}}, "foo.selfreg"),
    ],
)
def test_the_key_where_it_would_be_ignored_is_refused(plans: dict[str, Any], place: str) -> None:
    with pytest.raises(SelfRegError, match=rf"^SelfReg: plans key '{re.escape(place)}' would be ignored; move it into"):
        check_places(plans)


def test_the_key_in_a_configuration_is_in_its_place() -> None:
    check_places({"configurations": {"2d": {"selfreg": {"lambda_scr": 0.1}}, "3d_fullres": {"inherits_from": "2d"}}})
    check_places({"configurations": {"2d.small": {"selfreg": {"lambda_scr": 0.1}}}})


def test_settings_as_plans_are_read_back() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"lambda_scr": 0.1, "encoder_stages": [2, 1]}})
    assert SelfRegSettings.from_plans({"selfreg": settings.as_plans()}) == settings
    named = SelfRegSettings.from_plans({"selfreg": {"decoder_stages": ["up.1", 0], "teacher": "up.2"}})
    assert SelfRegSettings.from_plans({"selfreg": named.as_plans()}) == named


def test_settings_are_logged_with_stages_where_they_are_chosen() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"lambda_scr": 0.1, "encoder_stages": [2, 1]}})
    assert str(settings) == "lambda_scr 0.1, lambda_ifd 0.015, taps stages, encoder_stages [1, 2]"


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None, [1]])
def test_every_must_be_a_whole_number_of_steps(value: Any) -> None:
    expected = f"SelfReg: plans key 'selfreg.every' must be a whole number of steps from 1, got {value!r}"
    assert refusal({"selfreg": {"every": value}}) == expected


def test_every_is_read_written_and_named_in_the_log() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"every": 4}})
    assert settings.as_plans()["every"] == 4
    assert str(settings).endswith(", every 4 steps")
    assert "every" not in str(SelfRegSettings())


@pytest.mark.parametrize("value", ["mean", "Drawn", None, True, ["drawn"]])
def test_scr_channels_must_be_one_of_the_known(value: Any) -> None:
    expected = f"SelfReg: plans key 'selfreg.scr_channels' must be one of drawn, expected, got {value!r}"
    assert refusal({"selfreg": {"scr_channels": value}}) == expected


def test_scr_channels_are_read_written_and_named_in_the_log() -> None:
    settings = SelfRegSettings.from_plans({"selfreg": {"scr_channels": "expected"}})
    assert settings.as_plans()["scr_channels"] == "expected"
    assert str(settings).endswith(", scr_channels expected")
    assert SelfRegSettings().scr_channels == "drawn"
    assert "scr_channels" not in str(SelfRegSettings())


@pytest.mark.parametrize("key", ["SelfReg", "self_reg", "SELF-REG"])
def test_a_key_that_is_nearly_selfreg_is_refused(key):
    plans = {"configurations": {"2d": {key: {"lambda_scr": 0.1}}}}
    with pytest.raises(SelfRegError, match=rf"plans key 'configurations\.2d\.{key}' would be ignored; write 'selfreg'"):
        check_places(plans)
