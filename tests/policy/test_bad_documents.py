"""What is wrong with a file, a head, or a provider is reported with file, line, document, field, and what to do."""

import pytest

from tests.policy.bad import ALPHA, Bad, bad, bad_config, bad_outliers, bad_text, check, named
from tests.policy.written import compiled, config, provider

HEAD = "apiVersion: istio.alibabacloud.com/v1beta1\n"

SYNTAX = [
    bad_text("a bracket that never closes", "a: [1, 2 # here", "not YAML"),
    bad_text("a quote that never closes", "a: 'b # here", "not YAML"),
    bad_text("two colons", "a: b: c # here", "not YAML", "mapping values are not allowed"),
    bad_text("a tab in front", "a:\n\tb: 1 # here", "not YAML", "tab", "indent with spaces"),
    bad_text("a tab deeper down", "a:\n  b: 1\n  \tc: 1 # here", "not YAML"),
    bad_text("a key twice", "a: 1\nb: 1\na: 2 # here", "'a' stands twice", "remove one"),
    bad_text("a key twice, deep down", "a:\n  - b: {c: 1}\n    b: 2 # here", "'b' stands twice"),
    bad_text("a key that is a list", "? [a] # here\n: b", "a key is a list or mapping"),
    bad_text("a tag of a program", "a: !!python/object:os.system {} # here", "tag", "python/object", "remove it"),
    bad_text("a tag of somebody's", "a: !Ref b # here", "the tag !Ref is not known", "remove it"),
    bad_text("an alias of nothing", "a: *b # here", "*b refers to nothing"),
    bad_text("an anchor within itself", "a: &b [*b] # here", "*b refers to nothing"),
    bad_text("an anchor twice", "a: &b 1\nc: &b 2 # here", "&b stands twice", "rename"),
    bad_text("nesting without end", f"{'[' * 200}{']' * 200} # here", "nested more than 100 deep"),
    bad_text("a character that no text has", "a: \x07 # here", "control characters are not allowed", "remove"),
    bad_text("a number without end", f"a: {'9' * 5000} # here", "a number of that length"),
    bad_text(
        "a list instead of a mapping", "- kind: LLMProvider # here", "a document is a mapping", "apiVersion, kind"
    ),
    bad_text("a word instead of a mapping", "hello # here", "a document is a mapping"),
]

HEADS = [
    bad(
        "the API of somebody else",
        provider().replace("istio.alibabacloud.com/v1beta1", "istio.io/v1 # here"),
        "apiVersion",
        "a policy document has apiVersion: istio.alibabacloud.com/v1beta1",
    ),
    bad(
        "another version",
        provider().replace("v1beta1", "v1 # here"),
        "apiVersion",
        "only istio.alibabacloud.com/v1beta1 is known",
    ),
    bad(
        "no apiVersion",
        "kind: LLMProvider # here\nmetadata: {name: alpha}\nspec: {host: a.example}\n",
        "apiVersion",
        "a policy document has apiVersion",
    ),
    bad(
        "neither apiVersion nor kind",
        "metadata: {name: alpha} # here\nspec: {host: a.example}\n",
        "apiVersion",
        "and a kind",
        document="document default/alpha",
    ),
    bad(
        "a kind with a typing error",
        HEAD + "kind: LLMProvder # here\nmetadata: {name: alpha}\nspec: {host: a.example}\n",
        "kind",
        "unknown kind 'LLMProvder'",
        "did you mean 'LLMProvider'?",
        "known here: LLMProvider, LLMRoute",
        document="LLMProvder default/alpha",
    ),
    bad(
        "a kind that is a list",
        HEAD + "kind: [LLMProvider] # here\nmetadata: {name: alpha}\n",
        "kind",
        "unknown kind",
        document="['LLMProvider'] default/alpha",
    ),
    bad(
        "no kind",
        HEAD.strip() + " # here\nmetadata: {name: alpha}\nspec: {host: a.example}\n",
        "kind",
        "is required: one of LLMProvider, LLMRoute",
        document="document default/alpha",
    ),
    bad(
        "a List",
        "apiVersion: v1 # here\nkind: List\nitems: []\n",
        "apiVersion",
        "a List is not read",
        "separate its items with '---'",
        document="List default/?",
    ),
    bad(
        "no metadata",
        HEAD.strip() + " # here\nkind: LLMProvider\nspec: {host: a.example}\n",
        "metadata",
        "is required",
        document="LLMProvider default/?",
    ),
    bad(
        "no name",
        HEAD + "kind: LLMProvider\nmetadata: {namespace: default} # here\nspec: {host: a.example}\n",
        "metadata.name",
        "is required",
        document="LLMProvider default/?",
    ),
    bad(
        "a name that is a number",
        HEAD + "kind: LLMProvider\nmetadata: {name: 7} # here\nspec: {host: a.example}\n",
        "metadata.name",
        "must be text",
        "quotes",
        document="LLMProvider default/7",
    ),
    bad(
        "no spec",
        HEAD.strip() + " # here\nkind: LLMProvider\nmetadata: {name: alpha}\n",
        "spec",
        "is required",
    ),
    bad(
        "a spec that is a list",
        HEAD + "kind: LLMProvider\nmetadata: {name: alpha}\nspec: [host] # here\n",
        "spec",
        "must be a mapping",
    ),
]

PROVIDERS = [
    bad("no host", provider("path: /v1").replace("spec:", "spec: # here"), "spec.host", "is required"),
    bad("an empty host", provider("host: '' # here"), "spec.host", "must not be empty"),
    bad("a host that is a number", provider("host: 7 # here"), "spec.host", "must be text", "quotes"),
    bad("a host with a scheme", provider("host: https://a.example # here"), "spec.host", "no host", "without scheme"),
    bad("a host with a path", provider("host: a.example/v1 # here"), "spec.host", "no host", "and path"),
    bad("a host with a port", provider("host: a.example:8443 # here"), "spec.host", "no host", "port"),
    bad("a host with spaces", provider("host: a example # here"), "spec.host", "no host"),
    bad("a host that is a template", provider("host: '*.example' # here"), "spec.host", "no host"),
    bad(
        "a field with a typing error",
        provider("host: a.example\nconfig: {} # here"),
        "spec.config",
        "unknown field",
        "did you mean 'configs'?",
    ),
    bad("a field of nothing", provider("host: a.example\nxyzzy: 1 # here"), "spec.xyzzy", "unknown field"),
    bad(
        "a field of another part",
        provider("host: a.example\nmodel: gpt-4o # here"),
        "spec.model",
        "unknown field",
        "belongs to another part",
    ),
    bad("a key that is no text", provider("host: a.example\n7: 1 # here"), "spec[7]", "keys should be strings"),
    bad("a path without a slash", provider("host: a.example\npath: v1/chat # here"), "spec.path", "starts with '/'"),
    bad("a path with a space", provider("host: a.example\npath: /v1/ch at # here"), "spec.path", "visible ASCII"),
    bad(
        "a path that is a whole address",
        provider("host: a.example\npath: https://a.example/v1 # here"),
        "spec.path",
        "starts with '/'",
    ),
    bad(
        "port 0",
        provider("host: a.example\nendpoint: {port: 0} # here"),
        "spec.endpoint.port",
        "greater than or equal to 1",
    ),
    bad(
        "port 70000",
        provider("host: a.example\nendpoint: {port: 70000} # here"),
        "spec.endpoint.port",
        "less than or equal to 65535",
    ),
    bad(
        "a port in quotes",
        provider("host: a.example\nendpoint: {port: '443'} # here"),
        "spec.endpoint.port",
        "whole number",
        "without quotes",
    ),
    bad(
        "an endpoint with a scheme",
        provider("host: a.example\nendpoint: {host: 'http://127.0.0.1'} # here"),
        "spec.endpoint.host",
        "no host or address",
        "without scheme and port",
    ),
    bad(
        "an endpoint's host with a port",
        provider("host: a.example\nendpoint: {host: '127.0.0.1:8443'} # here"),
        "spec.endpoint.host",
        "no host or address",
        "without scheme and port",
    ),
    bad(
        "an IPv6 endpoint with a port",
        provider("host: a.example\nendpoint: {host: '[::1]:8443'} # here"),
        "spec.endpoint.host",
        "no host or address",
    ),
    bad(
        "TLS of a mode that there is not",
        provider("host: a.example\nendpoint: {tls: {mode: MUTUAL}} # here"),
        "spec.endpoint.tls.mode",
        "'SIMPLE' or 'DISABLE'",
    ),
    bad(
        "an SNI with a scheme",
        provider("host: a.example\nendpoint: {tls: {sni: 'https://b.example'}} # here"),
        "spec.endpoint.tls.sni",
        "no host name",
    ),
    bad(
        "a CA file that is not there",
        provider("host: a.example\nendpoint: {tls: {caFile: ca.crt}} # here"),
        "spec.endpoint.tls.caFile",
        "/nonexistent/ca.crt can't be read",
        "No such file",
    ),
    bad(
        "labels that are numbers",
        provider("host: a.example\nworkloadSelector: {labels: {version: 2}} # here"),
        "spec.workloadSelector.labels.version",
        "must be text",
    ),
    bad(
        "a selector without labels",
        provider("host: a.example\nworkloadSelector: {} # here"),
        "spec.workloadSelector.labels",
        "is required",
    ),
]

CONFIGS = [
    bad_config("an empty model", "model: '' # here", ".model", "must not be empty"),
    bad_config("stream as text", "stream: 'yes' # here", ".stream", "true or false, without quotes"),
    bad_config("stream as YAML once had it", "stream: yes # here", ".stream", "true or false, without quotes"),
    bad_config(
        "a field in the wrong case", "apikey: ${K} # here", ".apikey", "unknown field", "did you mean 'apiKey'?"
    ),
    bad_config(
        "a field as Python has it", "api_key: ${K} # here", ".api_key", "unknown field", "did you mean 'apiKey'?"
    ),
    bad_config(
        "a key from two places",
        "apiKey: ${K}\napiKeyFrom: {env: K} # here",
        ".apiKeyFrom",
        "apiKey is given as well",
        "keep one",
    ),
    bad_config(
        "a key from nowhere",
        "apiKeyFrom: {} # here",
        ".apiKeyFrom",
        "exactly one of secretKeyRef, file, env",
        "found none",
    ),
    bad_config(
        "a key from a file and a variable",
        "apiKeyFrom: {file: key, env: K} # here",
        ".apiKeyFrom",
        "exactly one of",
        "found file and env",
    ),
    bad_config(
        "half a reference to a secret",
        "apiKeyFrom: {secretKeyRef: {name: k}} # here",
        ".apiKeyFrom.secretKeyRef.key",
        "is required",
    ),
    bad_config(
        "a secret of Kubernetes, out of a folder",
        "apiKeyFrom: {secretKeyRef: {name: keys, key: alpha}} # here",
        ".apiKeyFrom",
        "Secret 'keys' can't be read from a folder",
        "use file or env",
    ),
    bad_config(
        "a key that is half a variable", "apiKey: sk-${K} # here", ".apiKey", "either a literal or exactly ${NAME}"
    ),
    bad_config("a variable without a name", "apiKey: ${} # here", ".apiKey", "exactly ${NAME}"),
    bad_config("a variable with a default", "apiKey: '${K:-none}' # here", ".apiKey", "exactly ${NAME}"),
    bad_config("two variables", "apiKey: ${K}${L} # here", ".apiKey", "exactly ${NAME}"),
    bad_config("an empty key", "apiKey: '' # here", ".apiKey", "must not be empty"),
    bad_config("a key of nothing but space", "apiKey: '  ' # here", ".apiKey", "the key is empty"),
    bad_config(
        "a key with a line break",
        'apiKey: "sk-1\\r\\nx-admin: 1" # here',
        ".apiKey",
        "no header may hold",
        "line breaks",
    ),
    bad_config("a key that is not ASCII", "apiKey: sk-é # here", ".apiKey", "no header may hold", "non-ASCII"),
    bad_config("a variable that is not set", "apiKey: ${UNSET} # here", ".apiKey", "UNSET is not set", "set it"),
    bad_config("an apiKeyFrom that is not set", "apiKeyFrom: {env: UNSET} # here", ".apiKeyFrom", "UNSET is not set"),
    bad_config(
        "a key file that is not there",
        "apiKeyFrom: {file: key} # here",
        ".apiKeyFrom",
        "/nonexistent/key can't be read",
    ),
    bad_config(
        "a key file that can't be", 'apiKeyFrom: {file: "k\\0y"} # here', ".apiKeyFrom", "can't be the name of a file"
    ),
    bad_config("a model as a parameter", "parameters: {model: m} # here", ".parameters.model", "use the field `model`"),
    bad_config(
        "stream as a parameter", "parameters: {stream: true} # here", ".parameters.stream", "use the field `stream`"
    ),
    bad_config(
        "messages as a parameter", "parameters: {messages: []} # here", ".parameters.messages", "they are the client's"
    ),
    bad_config(
        "removing messages", "parameters: {messages: null} # here", ".parameters.messages", "they are the client's"
    ),
    bad_config(
        "a parameter that JSON has no word for", "parameters: {t: .nan} # here", ".parameters.t", "JSON cannot express"
    ),
    bad_config(
        "infinity in a parameter", "parameters: {t: [{u: 1e999}]} # here", ".parameters.t", "JSON cannot express"
    ),
    bad_config(
        "a parameter with a key that is no text",
        "parameters: {t: {1: 2}} # here",
        ".parameters.t",
        "key that is no text",
    ),
    bad_config("mapping a model to nothing", "modelMapping: {a: ''} # here", ".modelMapping.a", "must not be empty"),
]


OUTLIERS = [
    bad_outliers(
        "no errors in a row", "consecutive5xxErrors: 0", ".consecutive5xxErrors", "greater than or equal to 1"
    ),
    bad_outliers("half an error", "consecutive5xxErrors: 1.5", ".consecutive5xxErrors", "whole number"),
    bad_outliers("errors in quotes", "consecutive429Errors: '5'", ".consecutive429Errors", "whole number"),
    bad_outliers("no rate limits in a row", "consecutive429Errors: 0", ".consecutive429Errors", "equal to 1"),
    bad_outliers("an interval without a unit", "interval: 10", ".interval", "a number and a unit"),
    bad_outliers("no interval", "interval: 0s", ".interval", "longer than nothing"),
    bad_outliers("a negative ejection", "baseEjectionTime: -1s", ".baseEjectionTime", "a number and a unit"),
    bad_outliers(
        "a maximum below the base",
        "{baseEjectionTime: 2m, maxEjectionTime: 1m}",
        ".maxEjectionTime",
        "shorter than baseEjectionTime",
        "raise one or lower the other",
    ),
    bad_outliers(
        "a base above the default maximum", "baseEjectionTime: 10m", ".maxEjectionTime", "shorter than baseEjectionTime"
    ),
    bad_outliers(
        "a field as Istio has it",
        "consecutiveGatewayErrors: 5",
        ".consecutiveGatewayErrors",
        "unknown field",
    ),
    bad_outliers(
        "a field in the wrong case",
        "consecutive5XxErrors: 5",
        ".consecutive5XxErrors",
        "unknown field",
        "did you mean 'consecutive5xxErrors'?",
    ),
    bad("a switch", provider("host: a.example\noutlierDetection: true # here"), "spec.outlierDetection", "mapping"),
]


@pytest.mark.parametrize("case", [*SYNTAX, *HEADS, *PROVIDERS, *CONFIGS, *OUTLIERS], ids=named)
def test_one_error_is_reported_once_at_its_place_with_what_to_do(case: Bad):
    check(case)


def test_text_that_is_not_utf8_is_reported_with_the_byte():
    (problem,) = compiled(b"a: caf\xe9").problems

    assert str(problem) == "1.yaml: error: not UTF-8 (byte 6): save the file as UTF-8"


def test_text_as_windows_once_saved_it_is_reported():
    (problem,) = compiled(ALPHA.encode("utf-16")).problems

    assert "save the file as UTF-8" in problem.message


@pytest.mark.parametrize("key", ["sk-1\nx-admin: 1", "sk 1", "sk-é", "sk-\x00", "\ud800", "", " \n"])
def test_a_key_from_a_variable_must_be_fit_for_a_header(key):
    (problem,) = compiled(config("apiKey: ${K}"), environment={"K": key}).problems

    assert (problem.line, problem.field) == (9, "spec.configs.defaultConfig.openAIConfig.apiKey")
    assert "no header may hold" in problem.message or "the key is empty" in problem.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"sk-1\nx-admin: 1\n", "no header may hold"),
        (b"\n", "the key is empty"),
        (b"\xff", "is not UTF-8 text"),
        (b"sk-\xc3\xa9", "no header may hold"),
    ],
)
def test_a_key_from_a_file_must_be_fit_for_a_header(tmp_path, content, words):
    (tmp_path / "key").write_bytes(content)

    (problem,) = compiled(config("apiKeyFrom: {file: key}"), folder=tmp_path).problems

    assert problem.field == "spec.configs.defaultConfig.openAIConfig.apiKeyFrom"
    assert words in problem.message


def test_a_key_file_that_is_a_folder_is_reported(tmp_path):
    (problem,) = compiled(config("apiKeyFrom: {file: .}"), folder=tmp_path).problems

    assert "can't be read: Is a directory" in problem.message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"hello",
        "Käse".encode(),
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    ],
    ids=["nothing", "an empty line", "a word", "no ASCII", "no certificate", "a private key"],
)
def test_a_ca_file_that_holds_no_certificate_is_reported(tmp_path, content):
    (tmp_path / "ca.crt").write_bytes(content)
    text = provider("host: a.example\nendpoint: {tls: {caFile: ca.crt}}")

    (problem,) = compiled(text, folder=tmp_path).problems

    assert (problem.line, problem.field) == (6, "spec.endpoint.tls.caFile")
    assert "ca.crt holds no CA certificate in PEM" in problem.message


def test_foreign_text_in_a_message_is_cut():
    compilation = compiled(provider(f"host: {'a/' * 5000}"))

    (problem,) = compilation.problems
    assert len(problem.message) < 400
