"""Where models of the Hub come from: its cache and folders, what is refused, and what results say of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from uamix_bench import load_model
from uamix_bench.embeddings.model_key import model_key
from uamix_bench.models.contract import check
from uamix_bench.models.model import AudioModel
from uamix_bench.util.errors import BadInputError, BenchError, MachineError, OwnCodeError, UsageError

from . import huggingface as small

pytest.importorskip("transformers", reason="transformers is not installed (the extra hf)")

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
CLIP = np.random.default_rng(0).uniform(-0.1, 0.1, 8_000).astype(np.float32)

CODE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

class OwnConfig(PreTrainedConfig):
    model_type = "own-sounds"

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(160, 8)
        self.post_init()
    def forward(self, input_values, output_hidden_states=False):
        return BaseModelOutput(last_hidden_state=self.linear(input_values.unfold(1, 160, 160)))
"""
AUTO = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.folder("wav2vec2-group", tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "my-encoder"))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a folder into an empty cache of the Hub, without a network, as the revision of an id."""
    import huggingface_hub.constants as constants
    import transformers.dynamic_module_utils as modules

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(modules, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def put(folder: Path, commit: str = COMMIT, ref: str = "main", name: str = "some/encoder") -> Path:
        repository = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
        return Path(shutil.copytree(folder, repository / "snapshots" / commit))

    return put


@pytest.fixture
def own_code(tmp_path: Path) -> Path:
    """A model whose code lies beside it."""
    folder = tmp_path / "own-code"
    folder.mkdir()
    (folder / "own.py").write_text(CODE)
    (folder / "config.json").write_text(json.dumps({"model_type": "own-sounds", "auto_map": AUTO}))
    small.extractor("hubert").save_pretrained(folder)
    torch.manual_seed(0)
    save_file({"linear.weight": torch.randn(8, 160), "linear.bias": torch.randn(8)}, folder / "model.safetensors")
    return folder


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_file(path).items()}  # the tests write to the file


def load(reference: object, **options: object) -> AudioModel:
    return load_model(f"hf:{reference}", device="cpu", **options)  # type: ignore[arg-type]


def refused(reference: object, kind: type[BenchError], *words: str, **options: object) -> None:
    with pytest.raises(kind) as caught:
        load(reference, **options)
    assert type(caught.value) is kind
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_id_is_found_in_the_cache_at_the_commit_of_its_revision(folder: Path, cached: Callable[..., Path]) -> None:
    own = load(folder)
    cached(folder)
    tensors = tensors_of(folder / "model.safetensors")
    save_file({name: 2 * value for name, value in tensors.items()}, folder / "model.safetensors")
    cached(folder, OTHER, "v2")
    first, second = load("some/encoder"), load("some/encoder@v2")
    for model, commit in ((first, COMMIT), (second, OTHER)):
        assert model.identity is not None
        assert (model.identity.name, model.identity.repository) == ("some/encoder", f"some/encoder@{commit}")
        assert model.source is not None
        assert model.source.name == f"hf:some/encoder@{commit}"  # what another process loads, whatever main is by then
    assert own.identity is not None
    assert first.identity is not None
    assert (own.identity.name, own.identity.repository) == ("my-encoder", None)
    assert own.identity.weights_sha256 == first.identity.weights_sha256
    assert np.array_equal(own.embed([CLIP], small.RATE), first.embed([CLIP], small.RATE))
    assert not np.allclose(own.embed([CLIP], small.RATE), second.embed([CLIP], small.RATE))


def test_what_is_not_in_the_cache_is_named_with_the_command_that_fetches_it(
    folder: Path, cached: Callable[..., Path]
) -> None:
    refused("some/encoder@v3", MachineError, "some/encoder@v3", "hf download some/encoder --revision v3")
    snapshot = cached(folder)
    (snapshot / "model.safetensors").unlink()
    refused("some/encoder", MachineError, "hf download some/encoder")
    (snapshot.parents[1] / ".no_exist" / COMMIT).mkdir(parents=True)
    (snapshot.parents[1] / ".no_exist" / COMMIT / "model.safetensors").touch()
    refused("some/encoder", BadInputError, "has no model.safetensors", "convert it to safetensors where you trust it")


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "harmed",)

    torch.save(Harm(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, BadInputError, "has no model.safetensors", "convert it to safetensors where you trust it")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("", ("hf:ID_OR_FOLDER[@REVISION]",)),
        ("./absent", ("no such folder",)),
        ("a/b/c", ("is neither a folder nor an id",)),
        ("some/encoder@main", ("needs", "commit")),
    ],
)
def test_what_is_no_reference_is_refused(reference: str, words: tuple[str, ...]) -> None:
    code = reference.endswith("main")
    with pytest.raises(BenchError) as caught:
        load(reference, trust_remote_code=code)
    assert code or words[0] in str(caught.value)
    assert caught.value.exit_code == (3 if "absent" in reference else 2)


def test_an_unknown_family_is_refused_with_the_known_ones(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')
    refused(folder, UsageError, "'bert'", "audio-spectrogram-transformer", "wav2vec2-bert", "whisper")


def test_all_json_decides_the_digest_and_the_cache_and_nothing_else_does(folder: Path) -> None:
    def digests() -> tuple[object, ...]:
        model = load(folder)
        assert model.identity is not None
        return model.identity.weights_sha256, model_key(model).fingerprint

    before = digests()
    (folder / "README.md").write_text("words")
    (folder / "pytorch_model.bin").write_bytes(b"no")
    assert digests() == before
    (folder / "more.json").write_text("{}")
    after = digests()
    assert not set(after) & set(before)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert not set(digests()) & {*before, *after}


def test_layer_and_version_of_transformers_decide_the_cache(folder: Path) -> None:
    import transformers

    keys = [model_key(load(folder, layer=layer)) for layer in ("last", "1", "mean")]
    assert len({key.fingerprint for key in keys}) == 3
    assert keys[0].packages == f"transformers {transformers.__version__}"


def test_shards_and_halves_give_what_one_whole_file_gives(folder: Path) -> None:
    expected = load(folder).embed([CLIP], small.RATE)
    tensors = tensors_of(folder / "model.safetensors")
    parts = (dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2]))
    (folder / "model.safetensors").unlink()
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name)
    table = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert np.array_equal(load(folder).embed([CLIP], small.RATE), expected)
    (folder / names[1]).unlink()
    refused(folder, BadInputError, names[1])
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    refused(folder, BadInputError, "names no safetensors files beside it")
    index.unlink()
    save_file({name: value.half() for name, value in tensors.items()}, folder / "model.safetensors")
    model = load(folder)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert np.allclose(model.embed([CLIP], small.RATE), expected, atol=0.02)


def test_damaged_folders_are_bad_input(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole, tensors = path.read_bytes(), tensors_of(path)
    path.write_bytes(whole[: len(whole) // 2])
    refused(folder, BadInputError, "truncated or damaged")
    lost = "encoder.layers.0.attention.k_proj.weight"
    save_file({name: value for name, value in tensors.items() if name != lost}, path)
    refused(folder, BadInputError, "lacks 1 tensors", lost)
    save_file({**tensors, lost: torch.zeros(3, 3)}, path)
    refused(folder, BadInputError, "my-encoder")
    save_file({**tensors, lost: torch.full_like(tensors[lost], torch.nan)}, path)
    refused(folder, BadInputError, lost)
    path.write_bytes(whole)
    (folder / "preprocessor_config.json").unlink()
    refused(folder, BadInputError, "my-encoder")
    (folder / "config.json").write_text("{")
    refused(folder, BadInputError, "config.json", "is not valid JSON")


def test_the_head_of_a_fine_tuned_model_is_passed_over(folder: Path) -> None:
    expected = load(folder).embed([CLIP], small.RATE)
    tensors = tensors_of(folder / "model.safetensors")
    tuned = {f"wav2vec2.{name}": value for name, value in tensors.items()}
    save_file({**tuned, "lm_head.weight": torch.zeros(5, 32)}, folder / "model.safetensors")
    assert np.array_equal(load(folder).embed([CLIP], small.RATE), expected)


def test_older_names_of_tensors_are_read(folder: Path) -> None:
    expected = load(folder).embed([CLIP], small.RATE)
    tensors = tensors_of(folder / "model.safetensors")
    norm = "pos_conv_embed.conv.parametrizations.weight.original"
    older = {name.replace(f"{norm}0", "pos_conv_embed.conv.weight_g"): value for name, value in tensors.items()}
    older = {name.replace(f"{norm}1", "pos_conv_embed.conv.weight_v"): value for name, value in older.items()}
    assert len(older.keys() - tensors.keys()) == 2
    save_file(older, folder / "model.safetensors")
    assert np.array_equal(load(folder).embed([CLIP], small.RATE), expected)


def test_the_encoder_of_a_model_for_transcription_is_found(tmp_path: Path) -> None:
    folder = small.folder("whisper", tmp_path)
    expected = load(folder).embed([CLIP], small.RATE)
    tensors = tensors_of(folder / "model.safetensors")
    save_file({f"model.{name}": value for name, value in tensors.items()}, folder / "model.safetensors")
    assert np.array_equal(load(folder).embed([CLIP], small.RATE), expected)


def test_the_readme_says_what_a_model_was_trained_on(folder: Path) -> None:
    def said() -> tuple[object, object]:
        model = load(folder)
        assert model.identity is not None
        return model.identity.pretrained_on, model.identity.licence

    assert said() == ((), "not stated")
    (folder / "README.md").write_text("---\nlicense: mit\ndatasets:\n- librispeech_asr\n- superb\n---\n# Words\n")
    assert said() == (("librispeech_asr", "superb"), "mit")
    (folder / "README.md").write_text("---\n: [\n---\n")
    assert said() == ((), "not stated")


def test_a_choice_that_a_model_has_not_is_refused_with_those_that_it_has(folder: Path) -> None:
    refused(folder, UsageError, "--layer 3", "last, mean, 0, 1, 2", layer="3")
    refused(folder, UsageError, "--pooling cls", pooling="cls")
    with pytest.raises(UsageError, match="logmel has no such layer"):
        load_model("logmel", layer="1")
    with pytest.raises(UsageError, match="does not apply to logmel"):
        load_model("logmel", trust_remote_code=True)
    with pytest.raises(UsageError, match="does not go with hf:"):
        load_model(f"hf:{folder}", folder / "model.safetensors")


def test_a_folder_that_cannot_name_results_asks_for_a_label(folder: Path) -> None:
    odd = folder.rename(folder.with_name("_odd"))
    refused(odd, UsageError, "_odd", "--name LABEL")
    model = load(odd, label="even")
    assert model.identity is not None
    assert model.identity.name == "even"


def test_code_of_a_repository_runs_on_request_of_one_commit_and_the_record_says_so(
    own_code: Path, cached: Callable[..., Path]
) -> None:
    snapshot = cached(own_code)
    refused("some/encoder", UsageError, "'own-sounds'", "--trust-remote-code", "full commit hash")
    for reference in ("some/encoder", "some/encoder@main", f"some/encoder@{COMMIT[:12]}", own_code):
        refused(reference, UsageError, "--trust-remote-code", "commit", trust_remote_code=True)
    model = load(f"some/encoder@{COMMIT}", trust_remote_code=True)
    assert model.identity is not None
    assert (model.identity.remote_code, model.identity.repository) == (True, f"some/encoder@{COMMIT}")
    tensors = tensors_of(own_code / "model.safetensors")
    frames = torch.from_numpy(CLIP).unfold(0, 160, 160)
    expected = (frames @ tensors["linear.weight"].T + tensors["linear.bias"]).mean(dim=0)
    assert np.allclose(model.embed([CLIP], small.RATE)[0], expected, atol=1e-5)
    with pytest.raises(OwnCodeError, match=r"the code that comes with the model: raises .* for 5 samples"):
        model.embed([CLIP[:5]], small.RATE)
    assert [one.name for one in check(model) if not one.passed] == ["extremes"]
    digest = model.identity.weights_sha256
    (snapshot / "own.py").write_text(CODE + "\n# another\n")
    again = load(f"some/encoder@{COMMIT}", trust_remote_code=True)
    assert again.identity is not None
    assert again.identity.weights_sha256 != digest


def test_code_of_another_repository_is_never_run(own_code: Path, cached: Callable[..., Path]) -> None:
    auto = {"AutoModel": "else/where--own.OwnModel"}
    (own_code / "config.json").write_text(json.dumps({"model_type": "own-sounds", "auto_map": auto}))
    cached(own_code)
    refused(f"some/encoder@{COMMIT}", BadInputError, "code of another repository", trust_remote_code=True)


def test_known_families_need_no_code_and_run_none(folder: Path, cached: Callable[..., Path]) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "auto_map": {"AutoModel": "own.OwnModel"}}))
    (folder / "own.py").write_text("raise SystemExit('it was run')")
    cached(folder)
    for trusted in (False, True):
        model = load(f"some/encoder@{COMMIT}", trust_remote_code=trusted)
        assert model.identity is not None
        assert not model.identity.remote_code


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    refused(folder, MachineError, "transformers", "uamix-bench[hf]")
