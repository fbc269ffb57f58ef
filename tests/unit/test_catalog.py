"""Names to endpoints: every way to write a model, the choice in its order, refusals, and that no key shows."""

import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ipyconvexai.errors import (
    ConfigurationError,
    InputError,
    LocalModelError,
    MissingKeyError,
    NoModelError,
    UnknownModelError,
    UnknownProviderError,
)
from ipyconvexai.providers import catalog, local, probing
from ipyconvexai.providers.catalog import CUSTOM, parse, providers, register, unknown_model
from ipyconvexai.providers.choice import choose, doctor_report, list_models, needs_bundled
from ipyconvexai.providers.endpoints import provider_at, resolve
from ipyconvexai.providers.probing import Prober
from ipyconvexai.settings import Secret, Settings

SETTINGS = Settings(path=":memory:")
KEY = "sk-planted-0123456789abcdef"


def nobody(url: str, key: Secret | None) -> None:
    """A probe that no server answers."""


def offering(*names: str) -> Callable[[str, Secret | None], list[str]]:
    return lambda url, key: list(names)


@pytest.fixture(autouse=True)
def _own_register(monkeypatch):
    monkeypatch.setattr(catalog, "_registered", {})


@pytest.fixture
def no_local_model(monkeypatch):
    """An environment in which the weights' package is not installed."""
    monkeypatch.setattr(local, "BUNDLED_PACKAGE", "no_such_package_with_weights")


def parsed(model: str) -> tuple[str, str]:
    provider, name = parse(model)
    return provider.name, name


# ------------------------------------------------------------------------------------------------- parsing
@pytest.mark.parametrize(
    ("written", "provider", "name"),
    [
        ("openai:gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "openai", "gpt-4o-mini"),
        (" OpenAI : gpt-4o-mini ", "openai", "gpt-4o-mini"),
        ("openai:a-model-of-next-year", "openai", "a-model-of-next-year"),
        ("openai:ft:gpt-4o-mini:acme::x1", "openai", "ft:gpt-4o-mini:acme::x1"),
        ("openrouter:openai/gpt-4o-mini", "openrouter", "openai/gpt-4o-mini"),
        ("openrouter/openai/gpt-4o-mini", "openrouter", "openai/gpt-4o-mini"),
        ("openrouter/meta-llama/llama-3.3-70b-instruct:free", "openrouter", "meta-llama/llama-3.3-70b-instruct:free"),
        ("ollama:llama3.2:1b", "ollama", "llama3.2:1b"),
        ("ollama/llama3.2:1b", "ollama", "llama3.2:1b"),
        ("ollama:hf.co/acme/model.gguf", "ollama", "hf.co/acme/model.gguf"),
        ("groq:openai/gpt-oss-20b", "groq", "openai/gpt-oss-20b"),
        ("gemini:gemini-2.5-pro", "google", "gemini-2.5-pro"),
        ("vllm", "vllm", ""),
        ("vllm:", "vllm", ""),
        ("llama.cpp:some-model", "llamacpp", "some-model"),
        ("chef:gpt-4.1-nano", "chef", "gpt-4.1-nano"),
        # the model alone
        ("gpt-4o-mini", "openai", "gpt-4o-mini"),
        ("gpt-4o-mini-2024-07-18", "openai", "gpt-4o-mini-2024-07-18"),
        ("ft:gpt-4o-mini:acme::x1", "openai", "ft:gpt-4o-mini:acme::x1"),
        ("claude-some-9-model", "anthropic", "claude-some-9-model"),
        ("gemini-9-flash", "google", "gemini-9-flash"),
        ("mistral-small-latest", "mistral", "mistral-small-latest"),
        ("llama3.2:1b", "ollama", "llama3.2:1b"),
        ("gpt-oss:20b", "ollama", "gpt-oss:20b"),
        ("meta-llama/llama-3.3-70b-instruct", "openrouter", "meta-llama/llama-3.3-70b-instruct"),
        # files
        ("local", "local", "smollm2-135m"),
        ("local:smollm2-135m", "local", "smollm2-135m"),
        ("local:/models/x.gguf", "local", "/models/x.gguf"),
        ("local/models/x.gguf", "local", "models/x.gguf"),
        ("/models/x.gguf", "local", "/models/x.gguf"),
        ("models/x.GGUF", "local", "models/x.GGUF"),
        ("~/x.gguf", "local", "~/x.gguf"),
        ("C:\\models\\x.gguf", "local", "C:\\models\\x.gguf"),
        ("openai/x.gguf", "local", "openai/x.gguf"),
    ],
)
def test_every_way_to_write_a_model(written, provider, name):
    assert parsed(written) == (provider, name)


@pytest.mark.parametrize("provider", [each for each in providers() if each.default_model], ids=lambda each: each.name)
def test_a_provider_alone_means_its_default_model_which_is_well_known(provider):
    assert parsed(provider.name) == (provider.name, provider.default_model)
    assert provider.default_model in provider.models


@pytest.mark.parametrize(
    ("written", "error", "said"),
    [
        ("opnai:gpt-4o-mini", UnknownProviderError, "openai"),
        ("opnai", UnknownProviderError, "openai"),
        ("antropic/claude-x", UnknownProviderError, "anthropic"),
        ("cluade", UnknownProviderError, "claude"),
        ("gpt-oss:999b", UnknownProviderError, "Known: "),
        ("gpt4o-mini", UnknownModelError, "openai:gpt-4o-mini"),
        ("codestrall-latest", UnknownModelError, "mistral:codestral-latest"),
        ("gtp-4o-mini", UnknownModelError, "Write provider:model, for example openai:gpt-4o-mini."),
        ("zzz", UnknownModelError, "openai:zzz"),
        ("  ", UnknownModelError, "provider:model"),
        ("local:nonsense", UnknownModelError, ".gguf"),
    ],
)
def test_what_is_unknown_gets_the_nearest_names(written, error, said):
    with pytest.raises(error) as caught:
        parse(written)
    assert said in caught.value.cure
    assert not written.strip() or written.strip().removeprefix("local:").split(":")[0].split("/")[0] in str(
        caught.value
    )


def test_a_model_that_the_provider_did_not_know_gets_the_nearest_of_its_own():
    error = unknown_model("openai", "gpt-4o-mimi")
    assert "openai:gpt-4o-mini" in error.cure
    error = unknown_model("ollama", "lama3.2", ["llama3.2:1b", "phi4"])
    assert "ollama:llama3.2:1b" in error.cure
    assert "phi4" not in error.cure
    assert "nowhere" in str(unknown_model("nowhere", "x"))
    assert "openai:gpt-4o-mini or" not in unknown_model("openai", "gpt-4o-mini").cure, "it does not have that one"


def test_parse_starts_nothing_and_asks_nobody(monkeypatch):
    def forbidden(*args: object) -> None:
        raise AssertionError("parse asked")

    monkeypatch.setattr(probing, "ask_models", forbidden)
    monkeypatch.setattr(local, "server_for", forbidden)
    for provider in providers():
        parse(provider.name)


def test_the_bundled_models_alias_is_that_of_its_server():
    assert catalog.BUNDLED == local.BUNDLED_ALIAS


# ------------------------------------------------------------------------------------------------ endpoint
@pytest.mark.parametrize(
    ("model", "environ", "base_url", "identity"),
    [
        ("openai", {"OPENAI_API_KEY": KEY}, "https://api.openai.com/v1", "https://api.openai.com/v1"),
        (
            "openai",
            {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "http://proxy:9/x/"},
            "http://proxy:9/x/",
            "http://proxy:9/x",
        ),
        (
            "azure:mine",
            {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com/"},
            "https://me.openai.azure.com/openai/v1/",
            "https://me.openai.azure.com/openai/v1",
        ),
        (
            "azure:mine",
            {"AZURE_OPENAI_API_KEY": KEY, "AZURE_OPENAI_ENDPOINT": "https://me.openai.azure.com/openai/v1/"},
            "https://me.openai.azure.com/openai/v1/",
            "https://me.openai.azure.com/openai/v1",
        ),
        (
            "chef",
            {"CONVEX_OPENAI_API_KEY": KEY, "CONVEX_OPENAI_BASE_URL": "https://chef.example/openai"},
            "https://chef.example/openai",
            "https://chef.example/openai",
        ),
        ("vllm:m", {"VLLM_BASE_URL": "http://gpu:8000"}, "http://gpu:8000/v1", "http://gpu:8000/v1"),
        ("vllm:m", {"VLLM_BASE_URL": "http://gpu:8000/api/"}, "http://gpu:8000/api/", "http://gpu:8000/api"),
        ("llamacpp:m", {}, "http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
        (
            "vllm:m",
            {"VLLM_BASE_URL": "https://me:hunter2-hunter2@gpu/v1?token=abc"},
            "https://me:hunter2-hunter2@gpu/v1?token=abc",
            "https://gpu/v1",
        ),
    ],
)
def test_the_address_comes_from_the_catalogue_or_its_variable(model, environ, base_url, identity):
    endpoint = resolve(model, settings=SETTINGS, environ=environ, probe=nobody)
    assert endpoint.base_url == base_url
    assert endpoint.identity == identity
    assert "hunter2" not in repr(endpoint)
    assert "abc" not in repr(endpoint)


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0", "http://127.0.0.1:11434/v1"),
        ("0.0.0.0:9999", "http://127.0.0.1:9999/v1"),
        (":9999", "http://127.0.0.1:9999/v1"),
        ("gpu", "http://gpu:11434/v1"),
        ("gpu:9999", "http://gpu:9999/v1"),
        ("gpu:port", "http://gpu:11434/v1"),
        ("http://gpu:9999/", "http://gpu:9999/v1"),
        ("http://gpu", "http://gpu:80/v1"),
        ("https://gpu", "https://gpu:443/v1"),
        ("https://gpu/ollama/", "https://gpu:443/ollama/v1"),
        ("[::1]", "http://[::1]:11434/v1"),
        ("[::]:9999", "http://[::1]:9999/v1"),
    ],
)
def test_ollamas_variable_is_read_as_ollama_reads_it(host, base_url):
    endpoint = resolve("ollama:m", settings=SETTINGS, environ={"OLLAMA_HOST": host}, probe=nobody)
    assert endpoint.base_url == base_url


@pytest.mark.parametrize("provider", [each for each in providers() if each.needs_key], ids=lambda each: each.name)
def test_a_missing_key_is_an_error_that_names_the_variable_and_the_cure(provider):
    with pytest.raises(MissingKeyError) as caught:
        resolve(provider.name, settings=SETTINGS, environ={provider.key_variables[0]: " "}, probe=nobody)
    for variable in provider.key_variables:
        assert variable in caught.value.message
    assert f"export {provider.key_variables[0]}=" in caught.value.cure
    assert "model='local'" in caught.value.cure


def test_the_first_of_two_key_variables_that_is_set_counts():
    both = {"GEMINI_API_KEY": "first-of-two", "GOOGLE_API_KEY": "second-of-two"}
    for environ, key in [(both, "first-of-two"), ({**both, "GEMINI_API_KEY": ""}, "second-of-two")]:
        endpoint = resolve("google", settings=SETTINGS, environ=environ)
        assert endpoint.key is not None
        assert endpoint.key.reveal() == key


@pytest.mark.parametrize("address", [None, KEY, "gpu:8000", "http://", "http://gpu:port", "http://[gpu"])
def test_a_missing_or_wrong_address_names_its_variable_and_not_what_it_holds(address):
    environ = {"AZURE_OPENAI_API_KEY": "k", **({"AZURE_OPENAI_ENDPOINT": address} if address else {})}
    with pytest.raises(ConfigurationError) as caught:
        resolve("azure", settings=SETTINGS, environ=environ)
    assert "AZURE_OPENAI_ENDPOINT" in caught.value.message
    assert not address or address not in str(caught.value)


def test_no_key_shows():
    environ = {"OPENAI_API_KEY": f" {KEY}\n", "VLLM_API_KEY": KEY, "CONVEX_OPENAI_API_KEY": KEY}
    endpoint = resolve("openai", settings=SETTINGS, environ=environ)
    assert endpoint.key is not None
    assert endpoint.key.reveal() == KEY  # without the white space a shell or a file left around it
    prober = Prober(ask=nobody)
    with pytest.raises(NoModelError) as caught:
        resolve("vllm", settings=SETTINGS, environ=environ, probe=prober)
    shown = [repr(endpoint), str(caught.value), repr(vars(prober)), repr(choose(SETTINGS, environ, nobody))]
    shown += [doctor_report(SETTINGS, environ, probe=nobody), repr(list_models(environ=environ, probe=nobody))]
    assert not any(KEY in text for text in shown)
    with pytest.raises(TypeError):
        pickle.dumps(endpoint)


def test_endpoints_are_equal_where_the_answer_would_be():
    one = resolve("openai", settings=SETTINGS, environ={"OPENAI_API_KEY": "one-key-here"})
    assert one == resolve("openai", settings=SETTINGS, environ={"OPENAI_API_KEY": "another-key"})
    assert one != replace(one, model="other")
    assert one.name == "openai:gpt-6-luna"


# ------------------------------------------------------------------------------------------------- base_url
def test_a_custom_address_gets_the_whole_name_and_no_providers_key():
    environ = {"OPENAI_API_KEY": KEY, "MINE": "my-own-key"}
    for model in ("openai/gpt-oss-20b", "gpt-4o-mini", "llama3.2:1b"):
        endpoint = resolve(model, settings=SETTINGS, environ=environ, base_url="http://gpu/v1")
        assert (endpoint.provider, endpoint.model, endpoint.key) == (CUSTOM, model, None)
    endpoint = resolve("m", settings=SETTINGS, environ=environ, base_url="http://gpu/v1", key_variable="MINE")
    assert endpoint.key is not None
    assert endpoint.key.reveal() == "my-own-key"
    with pytest.raises(MissingKeyError, match="THEIRS"):
        resolve("m", settings=SETTINGS, environ=environ, base_url="http://gpu/v1", key_variable="THEIRS")


def test_a_provider_can_be_named_for_a_custom_address():
    environ = {"OPENAI_API_KEY": KEY}
    endpoint = resolve("openai:gpt-4o", settings=SETTINGS, environ=environ, base_url="http://proxy/v1")
    assert (endpoint.provider, endpoint.model, endpoint.base_url) == ("openai", "gpt-4o", "http://proxy/v1")
    assert endpoint.key is not None
    with pytest.raises(MissingKeyError):
        resolve("openai:gpt-4o", settings=SETTINGS, environ={}, base_url="http://proxy/v1")


def test_a_custom_address_without_a_model_is_asked_and_the_setting_does_not_send_a_key_there():
    settings = replace(SETTINGS, model="openai:gpt-4o")
    environ = {"OPENAI_API_KEY": KEY}
    endpoint = resolve(None, settings=settings, environ=environ, base_url="http://gpu/v1", probe=offering("m1", "m2"))
    assert (endpoint.provider, endpoint.model, endpoint.key) == (CUSTOM, "m1", None)
    with pytest.raises(ConfigurationError, match="base_url"):
        resolve("m", settings=SETTINGS, environ={}, base_url="gpu/v1")


@pytest.mark.parametrize(
    ("base_url", "word"),
    [
        ("https://api.groq.com/openai/v1/", "groq"),
        ("http://gpu:9/v1", "llamacpp"),
        ("http://elsewhere/v1", CUSTOM),
        ("http://gw/openai/v1", "openai"),
        ("http://gw/openai/v1/vllm", "vllm"),
        ("http://gw/chef/v1/", "chef"),
        ("http://GW/chef/v1/beta", "chef"),
        ("http://gw/chef/v12", CUSTOM),
        ("http://gw/", CUSTOM),
        ("https://api.openai.com", "openai"),
        ("", CUSTOM),
    ],
)
def test_the_provider_of_a_clients_address(base_url, word, monkeypatch):
    monkeypatch.setenv("LLAMACPP_BASE_URL", "http://gpu:9")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gw/openai/v1")
    monkeypatch.setenv("VLLM_BASE_URL", "http://gw/openai/v1/vllm")
    monkeypatch.setenv("CONVEX_OPENAI_BASE_URL", "http://gw/chef/v1")
    monkeypatch.setenv("OLLAMA_HOST", "http://[half")  # somebody else's mistake
    assert provider_at(base_url) == word


# ------------------------------------------------------------------------------------------------- register
def test_a_registered_provider_is_one_like_the_others():
    register("deepseek", base_url="https://api.deepseek.com", key_variable="DEEPSEEK_API_KEY", default_model="chat-x")
    assert parsed("deepseek") == ("deepseek", "chat-x")
    assert parsed("deepseek:other") == ("deepseek", "other")
    assert parsed("chat-x") == ("deepseek", "chat-x")
    environ = {"DEEPSEEK_API_KEY": KEY}
    assert choose(SETTINGS, environ, nobody).model == "deepseek:chat-x"
    assert resolve(None, settings=SETTINGS, environ=environ).base_url == "https://api.deepseek.com"
    register("deepseek", base_url="http://elsewhere", default_model="chat-y")  # again, as when a cell is run again
    assert parsed("deepseek") == ("deepseek", "chat-y")
    assert choose(SETTINGS, environ, nobody).model != "deepseek:chat-y"  # needs no key now, so no key chooses it


@pytest.mark.parametrize("name", ["openai", "local", "custom", "claude", "My Provider", "a:b", ""])
def test_a_name_that_is_taken_or_odd_is_not_registered(name):
    with pytest.raises(InputError):
        register(name, base_url="http://x/v1")


def test_an_address_that_is_none_is_not_registered():
    with pytest.raises(InputError, match="base_url"):
        register("mine", base_url="localhost:8000")


# ------------------------------------------------------------------------------------------------- refusals
def test_chef_refuses_all_but_chat_completions_with_its_two_models():
    environ = {"CONVEX_OPENAI_API_KEY": KEY, "CONVEX_OPENAI_BASE_URL": "https://chef.example/v1"}
    endpoint = resolve("chef:gpt-5", settings=SETTINGS, environ=environ)
    assert parse("chef")[0].chat_only
    for model in ("gpt-4.1-nano", "gpt-4o-mini"):
        assert endpoint.refuses("/v1/chat/completions", model) is None
        assert endpoint.refuses("/v1/chat/completions/?x=1", model) is None
    said = endpoint.refuses("/v1/chat/completions", "gpt-5")
    assert said is not None
    assert "gpt-4.1-nano and gpt-4o-mini" in said
    assert "'gpt-5'" in said
    for path in ("/v1/responses", "/v1/embeddings", "/v1/models", "/v1/chat/completions/abc", "/", ""):
        said = endpoint.refuses(path, "gpt-4o-mini")
        assert said is not None, path
        assert "chat completions only" in said
    assert endpoint.refuses("/v1/embeddings", None) is not None


def test_others_refuse_nothing():
    endpoint = resolve("openai", settings=SETTINGS, environ={"OPENAI_API_KEY": KEY})
    assert endpoint.refuses("/v1/embeddings", "anything") is None
    assert not parse("openai")[0].chat_only


# ---------------------------------------------------------------------------------------------- the choice
def test_the_setting_comes_first():
    settings = replace(SETTINGS, model="groq/openai/gpt-oss-120b")
    choice = choose(settings, {"OPENAI_API_KEY": KEY, "GROQ_API_KEY": KEY}, nobody)
    assert choice.model == "groq:openai/gpt-oss-120b"
    assert [step.looked_at for step in choice.reasons] == ["setting"]
    assert resolve(None, settings=settings, environ={"GROQ_API_KEY": KEY}).name == "groq:openai/gpt-oss-120b"


def test_a_setting_that_cannot_be_used_is_an_error_and_nothing_else_is_chosen_instead():
    with pytest.raises(MissingKeyError):
        resolve(None, settings=replace(SETTINGS, model="groq"), environ={"OPENAI_API_KEY": KEY})
    choice = choose(replace(SETTINGS, model="groq"), {}, nobody)
    assert "GROQ_API_KEY is not set" in choice.reasons[0].what
    wrong = replace(SETTINGS, model="opnai:x")
    assert choose(wrong, {"OPENAI_API_KEY": KEY}, nobody).model is None
    with pytest.raises(UnknownProviderError, match="openai"):
        resolve(None, settings=wrong, environ={"OPENAI_API_KEY": KEY})


def test_then_the_first_key_in_the_order_of_the_catalogue():
    everything = {variable: KEY for each in providers() for variable in each.key_variables}
    everything |= {"AZURE_OPENAI_ENDPOINT": "https://a.example", "CONVEX_OPENAI_BASE_URL": "https://c.example"}
    order = []
    while True:
        provider = (choose(SETTINGS, everything, offering("tiny")).model or "").partition(":")[0]
        order.append(provider)
        if provider == "ollama":
            break
        for variable in catalog.BY_NAME[provider].key_variables:
            del everything[variable]
    assert order == ["openai", "azure", "google", "anthropic", "groq", "mistral", "openrouter", "chef", "ollama"]


def test_a_key_without_its_address_is_passed_over_with_the_reason():
    choice = choose(SETTINGS, {"AZURE_OPENAI_API_KEY": KEY, "MISTRAL_API_KEY": KEY}, nobody)
    assert choice.model == "mistral:mistral-small-latest"
    azure = next(step for step in choice.reasons if step.looked_at == "azure")
    assert not azure.found
    assert "AZURE_OPENAI_ENDPOINT is not set" in azure.what


def test_then_a_running_ollama_with_its_first_chat_model():
    asked = []

    def probe(url: str, key: Secret | None) -> list[str]:
        asked.append((url, key))
        return ["nomic-embed-text:latest", "llama3.2:1b", "phi4"]

    assert choose(SETTINGS, {"OLLAMA_HOST": "gpu:99"}, probe).model == "ollama:llama3.2:1b"
    assert asked == [("http://gpu:99/api/tags", None)]
    endpoint = resolve(None, settings=SETTINGS, environ={}, probe=probe)
    assert (endpoint.provider, endpoint.model, endpoint.key) == ("ollama", "llama3.2:1b", None)


def test_then_the_local_model_if_its_weights_are_there(tmp_path, monkeypatch):
    folder = tmp_path / "weights_for_this_test"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise ImportError('it is looked up, not imported')")
    (folder / local.BUNDLED_FILE).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(local, "BUNDLED_PACKAGE", folder.name)
    (tmp_path / "xllamacpp").mkdir()  # whether or not the runtime is installed here
    for probe in (nobody, offering(), offering("bge-m3")):
        choice = choose(SETTINGS, {}, probe)
        assert choice.model == "local:smollm2-135m"
        assert choice.reasons[-1].found
        assert [step.found for step in choice.reasons[:-1]] == [False] * (len(choice.reasons) - 1)


@pytest.mark.usefixtures("no_local_model")
def test_with_nothing_to_choose_the_error_lists_the_ways_out():
    choice = choose(SETTINGS, {}, nobody)
    assert choice.model is None
    expected = ["setting", *(each.name for each in providers() if each.needs_key), "ollama", "local"]
    assert [step.looked_at for step in choice.reasons] == expected
    with pytest.raises(NoModelError) as caught:
        resolve(None, settings=SETTINGS, environ={}, probe=nobody)
    for cure in ("OPENAI_API_KEY", "ollama", 'pip install "ipyconvexai[local]"', "ipyconvexai fetch-model"):
        assert cure in caught.value.cure


@pytest.mark.usefixtures("no_local_model")
def test_the_local_model_named_and_not_installed_says_so():
    with pytest.raises(LocalModelError):
        resolve("local", settings=SETTINGS, environ={})
    with pytest.raises(LocalModelError, match="nowhere"):
        resolve("/nowhere/x.gguf", settings=SETTINGS, environ={})


def test_a_server_without_a_model_or_without_an_answer_is_an_error_with_its_cure():
    with pytest.raises(NoModelError, match="pull"):
        resolve("ollama", settings=SETTINGS, environ={}, probe=offering("nomic-embed-text"))
    with pytest.raises(NoModelError, match="VLLM_BASE_URL"):
        resolve("vllm", settings=SETTINGS, environ={}, probe=nobody)
    assert resolve("vllm", settings=SETTINGS, environ={}, probe=offering("m")).model == "m"


# ------------------------------------------------------------------------------------------ asking servers
class _Answers(BaseHTTPRequestHandler):
    pages: dict[str, bytes]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        page = self.pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.end_headers()
        self.wfile.write(b'{"models": []}' if page is None else page)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[_Answers]]]:
    """A server's address, and what it answers and was asked."""
    handler = type("Handler", (_Answers,), {"pages": {}, "asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", handler
    http.shutdown()
    thread.join()
    http.server_close()


def test_servers_are_asked_over_http_with_their_own_key(server):
    address, answers = server
    answers.pages["/api/tags"] = json.dumps({"models": [{"name": "llama3.2:1b"}, {"name": "phi4"}]}).encode()
    answers.pages["/v1/models"] = json.dumps({"object": "list", "data": [{"id": "acme/m"}]}).encode()
    environ = {"OLLAMA_HOST": address, "VLLM_BASE_URL": address, "VLLM_API_KEY": KEY, "OPENAI_API_KEY": "not-theirs"}
    probe = Prober()
    assert resolve("ollama", settings=SETTINGS, environ=environ, probe=probe).model == "llama3.2:1b"
    assert resolve("vllm", settings=SETTINGS, environ=environ, probe=probe).model == "acme/m"
    assert answers.asked == [("/api/tags", None), ("/v1/models", f"Bearer {KEY}")]
    rows = [row[:2] for row in list_models(environ=environ, probe=probe) if row.provider in ("ollama", "vllm")]
    assert rows == [("ollama", "llama3.2:1b"), ("ollama", "phi4"), ("vllm", "acme/m")]
    assert len(answers.asked) == 2  # the list came from what was remembered


@pytest.mark.parametrize("page", [None, b"", b"<html>", b"[]", b'"x"', b'{"models": 7}', b"\xff\xfe"])
def test_another_kind_of_server_at_that_port_is_none(server, page):
    address, answers = server
    if page is not None:
        answers.pages["/api/tags"] = page
    assert Prober()(f"{address}/api/tags", None) is None
    assert answers.asked == [("/api/tags", None)]


def test_odd_entries_of_a_list_are_left_out(server):
    address, answers = server
    answers.pages["/m"] = b'{"data": [7, {"id": null}, {"id": 3}, {"id": "good"}, null]}'
    assert Prober()(f"{address}/m", None) == ["good"]


def test_a_closed_port_is_none(server):
    assert Prober()("http://127.0.0.1:1/api/tags", None) is None


def test_an_answer_holds_for_a_few_seconds():
    now, asked = [0.0], []

    def ask(url: str, key: Secret | None) -> list[str]:
        asked.append(now[0])
        return ["m"]

    probe = Prober(ask, clock=lambda: now[0])
    for now[0] in (0.0, 1.0, 2.9, 3.1, 4.0):
        assert probe("http://x", None) == ["m"]
    assert asked == [0.0, 3.1]
    probe("http://x", Secret("with-a-key"))
    assert asked == [0.0, 3.1, 4.0]


# ------------------------------------------------------------------------------------------ lists and reports
def test_the_list_has_every_default_once_and_says_which_keys_are_set():
    rows = list_models(environ={"GROQ_API_KEY": KEY}, probe=nobody)
    defaults = {row.provider: row.model for row in rows if row.note.startswith("default")}
    assert defaults == {each.name: each.default_model for each in providers() if each.default_model}
    assert all("GROQ_API_KEY is set" in row.note for row in rows if row.provider == "groq")
    assert all("OPENAI_API_KEY is not set" in row.note for row in rows if row.provider == "openai")
    assert {row.provider for row in rows} == {each.name for each in providers()} - {"vllm", "llamacpp"}
    assert list_models("vllm", environ={}, probe=nobody)[0].note == "nothing answers at http://127.0.0.1:8000/v1"
    with pytest.raises(UnknownProviderError, match="openai"):
        list_models("opnai")


def test_the_report_tells_the_choice_and_every_providers_state():
    report = doctor_report(replace(SETTINGS, path="/data/ledger.duckdb"), {"MISTRAL_API_KEY": KEY}, probe=nobody)
    assert "model: mistral:mistral-small-latest" in report
    assert "-> mistral: MISTRAL_API_KEY is set" in report
    assert "ledger: /data/ledger.duckdb" in report
    assert f"Python {sys.version.split()[0]}" in report
    assert "local model: " in report
    for provider in providers():
        assert provider.name in report
        if provider.key_variables and provider.name != "mistral":
            assert f"{' or '.join(provider.key_variables)} is not set" in report


@pytest.mark.usefixtures("no_local_model")
def test_the_report_survives_a_machine_with_nothing():
    report = doctor_report(SETTINGS, {"OLLAMA_HOST": "http://["}, probe=nobody)
    assert "model: none" in report
    assert "fetch-model" in report
    assert "are not installed. Install it:" in report


@pytest.mark.usefixtures("no_local_model")
@pytest.mark.parametrize(
    ("model", "environ", "needed"),
    [
        (None, {}, True),
        (None, {"OPENAI_API_KEY": KEY}, False),
        (None, {"AZURE_OPENAI_API_KEY": KEY}, True),  # without its address it is not chosen
        (None, {"CONVEX_OPENAI_API_KEY": KEY}, True),
        ("local", {"OPENAI_API_KEY": KEY}, True),
        ("local:/models/x.gguf", {}, False),
        ("openai", {}, False),  # its key is missing: an error that says so, and nothing else instead
        ("opnai", {}, False),
    ],
)
def test_when_the_bundled_model_is_the_one_to_use(model, environ, needed):
    assert needs_bundled(replace(SETTINGS, model=model), environ, nobody) is needed


def test_import_is_light():
    heavy = ("openai", "httpx2", "duckdb", "http.client", "difflib", "genai_prices", "ipyconvexai.providers.local")
    code = (
        "import sys, ipyconvexai.providers.endpoints, ipyconvexai.providers.prices; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
