import pytest
from pydantic import ValidationError

from sidestream.policy import documents
from sidestream.policy.documents import KINDS, LLMProvider, OpenAIConfig, Strict, Timeouts

MODELS = [model for model in vars(documents).values() if isinstance(model, type) and issubclass(model, Strict)]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("100ms", 0.1),
        ("2s", 2.0),
        ("1m", 60.0),
        ("2h", 7200.0),
        ("1m30s", 90.0),
        ("1h1m1s1ms", 3661.001),
        ("0.5s", 0.5),
        ("1.5m", 90.0),
        ("0h1s", 1.0),
        ("1s1s", 2.0),
    ],
)
def test_a_duration_is_numbers_with_units(written, seconds):
    assert Timeouts.model_validate({"request": written}).request == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["", "1", "s", "1 s", "-1s", "1d", "1S", "1s ", "1,5s", ".5s", "1.s", "0s", 1, 1.0, None, True]
)
def test_other_text_is_no_duration(written):
    with pytest.raises(ValidationError, match="a duration is"):
        Timeouts.model_validate({"request": written})


def test_fields_are_written_in_camel_case():
    names = {field.alias for model in MODELS for field in model.model_fields.values()}

    assert [name for name in names if "_" in name or not name[0].islower()] == []
    assert {
        "openAIConfig",
        "apiKeyFrom",
        "routeSpecificConfigs",
        "providerHost",
        "hashOn",
        "firstByte",
        "caFile",
    } <= names


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_part_is_strict_and_frozen(model):
    assert model.model_config["strict"]
    assert model.model_config["frozen"]
    assert model.model_config["extra"] == ("ignore" if model is documents.Metadata else "forbid")


def test_a_document_of_kubernetes_may_say_more_of_itself():
    document = LLMProvider.model_validate(
        {
            "apiVersion": "istio.alibabacloud.com/v1beta1",
            "kind": "LLMProvider",
            "metadata": {
                "name": "alpha",
                "uid": "1-2-3",
                "generation": 7,
                "labels": {"a": "b"},
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {"host": "a.example"},
            "status": {"conditions": [{"type": "Accepted", "observedGeneration": 7}]},
        }
    )

    assert document.metadata.qualified == "default/alpha"
    assert document.status == {"conditions": [{"type": "Accepted", "observedGeneration": 7}]}


def test_null_means_absent():
    document = LLMProvider.model_validate(
        {
            "apiVersion": "istio.alibabacloud.com/v1beta1",
            "kind": "LLMProvider",
            "metadata": {"name": "alpha"},
            "spec": {"host": "a.example", "workloadSelector": None},
            "status": None,
        }
    )

    assert document.spec.workload_selector is None


def test_parameters_keep_their_types():
    written = {
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["a", None],
        "logit_bias": {"1": -100},
        "seed": None,
        "user": "1",
    }

    config = OpenAIConfig.model_validate({"parameters": written})

    assert config.parameters == written
    assert type(config.parameters["temperature"]) is int


def test_a_literal_key_is_in_no_representation_and_no_dump():
    config = OpenAIConfig.model_validate({"apiKey": "sk-marker"})

    assert config.api_key == "sk-marker"
    assert "sk-marker" not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json(by_alias=True)}"


def test_the_kinds_are_those_of_the_mesh():
    assert sorted(KINDS) == ["LLMProvider", "LLMRoute"]
    assert {model.__name__: kind for kind, model in KINDS.items()} == {kind: kind for kind in KINDS}
