"""Checkpoints: official files open bit for bit, hostile ones run nothing, damaged ones are named."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import pathlib
import pickle
import random
import re
import struct
import subprocess
import sys
import traceback
import types
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from uamix_bench.models import checkpoint as checkpoint_module
from uamix_bench.models.checkpoint import load_state, read_checkpoint, write_safetensors
from uamix_bench.util.errors import BadInputError, MachineError

LEGACY_PREFIX = b"".join(
    pickle.dumps(part, protocol=2)
    for part in (
        torch.serialization.MAGIC_NUMBER,
        torch.serialization.PROTOCOL_VERSION,
        {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
    )
)


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "stem.weight": torch.randn(4, 3, generator=generator),
        "stem.bias": torch.randn(4, generator=generator).half(),
        "steps": torch.tensor(7),
    }


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def edit_pickle(path: Path, edit: Callable[[bytes], bytes]) -> Path:
    """Rewrites data.pkl of a torch file and gives it a right checksum."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, edit(part) if name.endswith("/data.pkl") else part)
    return path


def refusal(path: Path) -> str:
    """The one line that reading `path` ends with; torch's advice is neither in it nor in the traceback."""
    with pytest.raises(BadInputError) as caught:
        read_checkpoint(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    assert "weights_only" not in "".join(traceback.format_exception(caught.value))
    return line.removeprefix(f"{path}: ")


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value), key


# --- an independent reader: pure Python, stubs for every class, numpy for the numbers


class _Anything:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


STORAGE_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "DoubleStorage": "<f8"}


class OracleUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}/data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if name == "_rebuild_tensor_v2":
            return self.rebuild
        return STORAGE_DTYPES.get(name) or type(name, (_Anything,), {})

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, dtype, key, _, _ = pid
        return np.frombuffer(self.archive.read(f"{self.folder}/data/{key}"), dtype)

    @staticmethod
    def rebuild(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
        byte_strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, byte_strides)


def oracle(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        content = OracleUnpickler(archive, archive.namelist()[0].split("/")[0]).load()
    content = content.get("model", content)
    return {key: value for key, value in content.items() if isinstance(value, np.ndarray)}


GOLDENS = {
    "audiomae/audiomae_small.pth": ("argparse.Namespace", "pathlib.PosixPath"),
    "beats/beats_small.pt": (),
    "m2d/m2d_vit_base-80x608p16x16-221006-mr7/checkpoint-300.pth": ("argparse.Namespace",),
    "m2d/m2d_vit_base-80x608p16x16-230101-stats_enconly/checkpoint-300.pth": (),
    "mae_ast/mae_ast_small.pt": (),
    "mae_ast/mae_ast_small_frame_fp16.pt": (),
    "maskspec/maskspec_small.pth": ("argparse.Namespace",),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_official_files_open_as_the_oracle_reads_them(name: str, test_data: Path) -> None:
    path = test_data / "goldens" / name
    checkpoint = read_checkpoint(path)
    expected = oracle(path)
    assert checkpoint.tensors.keys() == expected.keys()
    for key, value in expected.items():
        assert checkpoint.tensors[key].numpy().dtype == value.dtype
        np.testing.assert_array_equal(checkpoint.tensors[key].numpy(), value, err_msg=key)
    assert checkpoint.stubbed == GOLDENS[name]
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    json.dumps(checkpoint.extras, allow_nan=False)  # plain data


def test_settings_of_official_files_become_plain_data(test_data: Path) -> None:
    goldens = test_data / "goldens"
    arguments = read_checkpoint(goldens / "audiomae/audiomae_small.pth").extras["args"]
    assert arguments["mask_ratio"] == 0.8
    assert arguments["output_dir"] == "experiments/0"  # a PosixPath in the file
    assert read_checkpoint(goldens / "beats/beats_small.pt").extras["cfg"]["max_distance"] == 800
    meta = json.loads((goldens / "full_keys/keys_full_mae_ast.json").read_text())["meta"]
    assert read_checkpoint(goldens / "mae_ast/mae_ast_small.pt").extras["cfg"]["model"].keys() == (
        meta["cfg"]["model"].keys()
    )


# --- where the state dict stands, and what stands beside it


@pytest.mark.parametrize("layout", ["model", "state_dict", "module", "bare"])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_layout_opens(tmp_path: Path, layout: str, zipped: bool) -> None:
    content = {**weights(), "epoch": 3} if layout == "bare" else {layout: weights(), "epoch": 3}
    path = saved(tmp_path / "m.pth", content, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.tensors, weights())
    assert checkpoint.extras == {"epoch": 3}
    assert checkpoint.metadata == {}
    assert checkpoint.stubbed == ()


KEYS = ("model_state_dict", "model_state", "net", "weights", "params", "teacher")


@pytest.mark.parametrize("key", [*KEYS, "anything", "model_ema"])
def test_the_only_state_dict_is_found_under_any_key(tmp_path: Path, key: str) -> None:
    content = {key: weights(), "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}}
    for path in (saved(tmp_path / "m.pth", content), saved(tmp_path / "t.pth", (3, {"lr": 0.1}, content))):
        checkpoint = read_checkpoint(path)
        assert_same(checkpoint.tensors, weights())
        assert checkpoint.extras["epoch"] == 3
        assert "remarks" not in checkpoint.metadata
    for pair in ((weights(), {"state": {}}), [weights(), 0.5], {"model": {"state_dict": weights()}}):
        assert_same(read_checkpoint(saved(tmp_path / "n.pth", pair)).tensors, weights())


def other_weights() -> dict[str, Tensor]:
    return {name: value + 1 for name, value in weights().items()}


def test_several_state_dicts_are_named_and_one_is_taken_by_key(tmp_path: Path) -> None:
    content = {"student": weights(), "critic": other_weights(), "epoch": 3}
    path = saved(tmp_path / "m.pth", content)
    assert refusal(path).startswith("holds several state dicts, under 'student', 'critic'; save one of them alone")
    for key in ("student", "critic"):
        checkpoint = read_checkpoint(path, key=key)
        assert_same(checkpoint.tensors, content[key])
        assert checkpoint.extras["epoch"] == 3
    assert_same(
        read_checkpoint(saved(tmp_path / "t.pth", [content, weights()]), key="0.critic").tensors, other_weights()
    )
    assert refusal(saved(tmp_path / "n.pth", {"net": weights(), "params": weights()})).startswith("holds several state")
    with pytest.raises(BadInputError, match="holds no tensors under 'epoch'; keys that hold some: 'student', 'critic'"):
        read_checkpoint(path, key="epoch")
    write_safetensors(tmp_path / "m.safetensors", weights(), {})
    with pytest.raises(BadInputError, match="is a safetensors file, which has no key 'model'"):
        read_checkpoint(tmp_path / "m.safetensors", key="model")


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_a_moving_average_beside_the_weights_is_taken_and_said(tmp_path: Path, key: str) -> None:
    average = {f"module.{name}": value for name, value in other_weights().items()}
    path = saved(tmp_path / "m.pth", {key: weights(), "model_ema": average})
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.tensors, average)
    assert checkpoint.metadata["remarks"] == (
        f"the weights are those under 'model_ema'; '{key}' holds others of the same names (to evaluate those, save "
        f"read_checkpoint(path, key='{key}').tensors in a file)"
    )
    assert_same(read_checkpoint(path, key=key).tensors, weights())
    assert read_checkpoint(path, key=key).metadata == {}
    equal = read_checkpoint(saved(tmp_path / "m.pth", {key: weights(), "model_ema": weights()}))
    assert equal.metadata == {}
    foreign = read_checkpoint(saved(tmp_path / "m.pth", {key: weights(), "model_ema": {"gain": torch.ones(2)}}))
    assert_same(foreign.tensors, weights())
    assert foreign.metadata == {}
    student = read_checkpoint(saved(tmp_path / "m.pth", {"teacher": weights(), "student": other_weights()}))
    assert_same(student.tensors, weights())
    assert "those under 'teacher'; 'student' holds others" in student.metadata["remarks"]


def test_a_state_dict_is_found_below_other_keys(tmp_path: Path) -> None:
    nested = {"checkpoint": {"cfg": {"width": 4}, "model": weights()}, "best": 0.5}
    found = read_checkpoint(saved(tmp_path / "m.pth", nested))
    assert_same(found.tensors, weights())
    assert (found.extras["cfg"], found.extras["best"]) == ({"width": 4}, 0.5)
    assert_same(read_checkpoint(saved(tmp_path / "m.pth", {"data": [{"weights": weights()}]})).tensors, weights())
    by_name = {name: {"exp_avg": value.clone(), "step": torch.ones(1)} for name, value in weights().items()}
    beside = {"encoder": weights(), "loss": torch.tensor(0.3), "optimizer": {"state": by_name}}
    found = read_checkpoint(saved(tmp_path / "m.pth", beside))
    assert_same(found.tensors, weights())
    assert found.metadata == {}
    inner = read_checkpoint(saved(tmp_path / "m.pth", {"model": weights(), "ema": {"shadow": other_weights()}}))
    assert_same(inner.tensors, weights())
    assert "'ema.shadow' holds others of the same names" in inner.metadata["remarks"]
    arrays = {"model": {name: value.numpy() for name, value in weights().items()}}
    assert "numpy" in refusal(saved(tmp_path / "m.pth", arrays))


def test_shared_references_are_looked_through_once(tmp_path: Path) -> None:
    inner: Any = {"gain": torch.ones(1)}
    for _ in range(3):
        inner = {f"k{at}": inner for at in range(2_000)}  # 8e9 ways to one tensor
    assert "no state dict" in refusal(saved(tmp_path / "m.pth", {"x": inner}))


def test_a_part_of_a_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    for name in ("model-00002-of-00003.safetensors", "pytorch_model-00002-of-00003.bin"):
        write_safetensors(tmp_path / name, weights(), {})
        assert refusal(tmp_path / name) == "is part 2 of 3 of a checkpoint; join its parts in one file"
    write_safetensors(tmp_path / "model-00001-of-00001.safetensors", weights(), {})
    assert_same(read_checkpoint(tmp_path / "model-00001-of-00001.safetensors").tensors, weights())


PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "encoder.",
    "module._orig_mod.",
    "_orig_mod.model.encoder.",
    "model.model.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_load_state_looks_behind_the_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    source, module = network(), network()
    tensors = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    load_state(module, {"head.weight": torch.ones(2), **tensors}, path=tmp_path / "m.pth", what="x")
    assert_same(dict(module.state_dict()), dict(source.state_dict()))


def test_prefixes_that_real_wrappers_write(tmp_path: Path) -> None:
    source, module = network(), network()
    for wrapped in (nn.DataParallel(source), torch.compile(source), nn.DataParallel(torch.compile(source))):
        load_state(module, wrapped.state_dict(), path=tmp_path / "m.pth", what="x")
        assert_same(dict(module.state_dict()), dict(source.state_dict()))
        nn.init.zeros_(module[0].weight)


def test_other_prefixes_are_named(tmp_path: Path) -> None:
    full, path = network().state_dict(), tmp_path / "m.pth"
    with pytest.raises(BadInputError, match=r"its keys begin with 'net.encoder.', which no known wrapper puts there"):
        load_state(network(), {f"net.encoder.{key}": value for key, value in full.items()}, path=path, what="x")
    both = {f"{prefix}{key}": value for prefix in ("model.", "encoder.") for key, value in full.items()}
    with pytest.raises(BadInputError, match=r"holds the tensors of x under 'encoder.' and 'model.'; save one of them"):
        load_state(network(), both, path=path, what="x")
    load_state(network(), {**both, **full}, path=path, what="x")  # the bare ones are meant
    both = {f"{prefix}{key}": value for prefix in ("student.", "teacher.") for key, value in full.items()}
    with pytest.raises(BadInputError, match=r"begin with 'student.' or 'teacher.', which .*; save one of them without"):
        load_state(network(), both, path=path, what="x")
    some = {"net.0.weight": full["0.weight"], "net.other": torch.ones(2)}  # one of four: of another model
    with pytest.raises(BadInputError, match=r"holds no tensor of x \(its keys: net.0.weight, net.other\)"):
        load_state(network(), some, path=path, what="x")


def test_other_weights_under_a_prefix_are_said(tmp_path: Path) -> None:
    source, module, path = network(), network(), tmp_path / "m.pth"
    own = {f"model.{key}": value for key, value in source.state_dict().items()}
    average = {f"ema_model.{key}": value + 1 for key, value in source.state_dict().items()}
    with pytest.warns(UserWarning, match=r"are those under 'model.'; under 'ema_model.' are others of the same names"):
        load_state(module, {**own, **average}, path=path, what="x")
    assert_same(dict(module.state_dict()), dict(source.state_dict()))
    equal = {f"ema_model.{key}": value.clone() for key, value in source.state_dict().items()}
    with warnings.catch_warnings(action="error"):
        load_state(module, {**own, **equal}, path=path, what="x")


def test_integers_are_no_weights(tmp_path: Path) -> None:
    coded = {key: (100 * value).to(torch.int8) for key, value in network().state_dict().items()}
    with pytest.raises(BadInputError, match=r"holds 8 of 9 encoder tensors as int8"):
        load_state(network(), coded, path=tmp_path / "m.pth", what="x")


def test_parameters_come_without_gradients_and_optimizer_tensors_are_left_out(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    content = {
        "model": dict(layer.named_parameters()),
        "optimizer": {"state": {0: {"step": 4, "exp_avg": torch.ones(2)}}, "lists": [torch.ones(1), 5]},
        "dtype": torch.float16,
        "betas": (0.9, 0.95),
    }
    checkpoint = read_checkpoint(saved(tmp_path / "m.pth", content))
    assert not any(tensor.requires_grad for tensor in checkpoint.tensors.values())
    assert torch.equal(checkpoint.tensors["weight"], layer.weight.detach())
    assert checkpoint.extras == {
        "optimizer": {"state": {0: {"step": 4}}, "lists": [5]},
        "dtype": "torch.float16",
        "betas": (0.9, 0.95),
    }


def test_classes_of_missing_modules_become_plain_data(tmp_path: Path) -> None:
    """Omegaconf's containers (which point at their parents) and dataclasses of packages that are not here."""
    names = ("omegaconf", "omegaconf.dictconfig", "omegaconf.nodes", "fairseqx", "fairseqx.tasks")
    modules = {name: types.ModuleType(name) for name in names}
    modules["omegaconf"].__path__ = modules["fairseqx"].__path__ = []

    def cls(module: str, name: str) -> Any:
        made = type(name, (), {"__module__": module})
        setattr(modules[module], name, made)
        return made

    DictConfig = cls("omegaconf.dictconfig", "DictConfig")
    AnyNode = cls("omegaconf.nodes", "AnyNode")
    TaskConfig = cls("fairseqx.tasks", "TaskConfig")

    def filled(kind: Any, /, **state: Any) -> Any:
        made = kind()
        made.__dict__.update(state)
        return made

    config = filled(DictConfig, _metadata={"ref_type": Any, "object_type": dict}, _parent=None)
    config.__dict__["_content"] = {"layers": filled(AnyNode, _val=12, _parent=config)}
    content = {
        "model": weights(),
        "cfg": config,
        "task": filled(TaskConfig, rate=16000, kind=TaskConfig, root=pathlib.PurePosixPath("/data/x")),
        "args": argparse.Namespace(out=pathlib.PosixPath("out/1"), seeds=[1, 2]),
    }
    before, allowed = set(sys.modules), torch.serialization.get_safe_globals()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        path = saved(tmp_path / "m.pth", content)
    checkpoint = read_checkpoint(path)
    assert not [name for name in set(sys.modules) - before if name.startswith(("omegaconf", "fairseqx"))]
    assert_same(checkpoint.tensors, weights())
    assert checkpoint.extras == {
        "cfg": {"layers": 12},
        "task": {"rate": 16000, "kind": "fairseqx.tasks.TaskConfig", "root": "/data/x"},
        "args": {"out": "out/1", "seeds": [1, 2]},
    }
    assert {"omegaconf.dictconfig.DictConfig", "fairseqx.tasks.TaskConfig"} <= set(checkpoint.stubbed)
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


@pytest.mark.parametrize("multiarray", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_numpy_values_beside_the_weights_do_no_harm(tmp_path: Path, multiarray: bytes) -> None:
    content = {"model": weights(), "best": np.float64(0.5), "curve": np.arange(3.0), "epoch": 3}
    path = saved(tmp_path / "m.pth", content)
    edit_pickle(path, lambda text: text.replace(b"numpy._core.multiarray", multiarray))
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.tensors, weights())
    assert checkpoint.extras["epoch"] == 3
    assert f"{multiarray.decode()}.scalar" in checkpoint.stubbed


def test_settings_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    wide: list[Any] = []
    for _ in range(40):
        wide = [wide, wide]  # 2^40 values by reference
    deep: list[Any] = []
    for _ in range(100):
        deep = [deep]
    for settings in (wide, deep):
        path = saved(tmp_path / "m.pth", {"model": weights(), "cfg": settings})
        assert "nested without end" in refusal(path)
    ring: list[Any] = [1]
    ring.append(ring)
    path = saved(tmp_path / "m.pth", {"model": weights(), "cfg": ring})
    assert read_checkpoint(path).extras == {"cfg": [1, None]}


# --- pickles that are meant to do harm


def op(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *arguments: Any) -> bytes:
    """Opcodes that call `function`; an argument is opcodes (bytes) or a value to be pickled (text, list)."""
    packed = (a if isinstance(a, bytes) else pickle.dumps(a, protocol=2)[2:-1] for a in arguments)
    return function + b"(" + b"".join(packed) + b"tR"


SYSTEM = op("posix", "system")
PAYLOADS: dict[str, Callable[[str], bytes]] = {  # each gets the folder, and is armed to leave the file `ran` there
    "posix.system": lambda d: call(SYSTEM, f"touch {d}/ran"),
    "os.system": lambda d: call(op("os", "system"), f"touch {d}/ran"),
    "eval": lambda d: call(op("__builtin__", "eval"), f"open('{d}/ran', 'w')"),
    "exec": lambda d: call(op("builtins", "exec"), f"open('{d}/ran', 'w')"),
    "open": lambda d: call(op("builtins", "open"), f"{d}/ran", "w"),
    "import": lambda d: call(op("builtins", "__import__"), "planted"),
    "getattr": lambda d: call(
        call(op("builtins", "getattr"), call(op("builtins", "__import__"), "os"), "system"), f"touch {d}/ran"
    ),
    "getoutput": lambda d: call(op("subprocess", "getoutput"), f"touch {d}/ran"),
    "check_call": lambda d: call(op("subprocess", "check_call"), ["touch", f"{d}/ran"]),
    "importlib": lambda d: call(op("importlib", "import_module"), "planted"),
    "runpy": lambda d: call(op("runpy", "run_path"), f"{d}/planted.py"),
    "torch.hub": lambda d: call(op("torch.hub", "_load_local"), d, "entry"),
    "partial": lambda d: call(call(op("functools", "partial"), SYSTEM, f"touch {d}/ran")),
    "map": lambda d: call(op("builtins", "list"), call(op("builtins", "map"), SYSTEM, [f"touch {d}/ran"])),
    "attrgetter": lambda d: call(
        call(call(op("operator", "attrgetter"), "system"), call(op("importlib", "import_module"), "os")),
        f"touch {d}/ran",
    ),
    "copyfile": lambda d: call(op("shutil", "copyfile"), f"{d}/planted.py", f"{d}/ran"),
    "FileHandler": lambda d: call(op("logging", "FileHandler"), f"{d}/ran"),  # spelt as a class, yet it acts
    "timeit": lambda d: call(op("timeit", "timeit"), f"open('{d}/ran', 'w')", "pass", op("time", "time"), 1),
    "numpy": lambda d: call(
        op("numpy.testing._private.utils", "runstring"), f"open('{d}/ran', 'w')", {"__name__": "x"}
    ),
    "from_type": lambda d: call(
        op("torch._tensor", "_rebuild_from_type_v2"), SYSTEM, op("builtins", "int"), (f"touch {d}/ran",), None
    ),
    "import by class": lambda d: op("planted", "Evil") + b")\x81",
    "setstate": lambda d: op("planted", "Evil") + b")\x81}b",
    "class call": lambda d: call(op("planted", "Evil"), 1),
}


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path with modules that leave the file `ran` when they are imported or called."""
    leave = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    evil = "class Evil:\n    def __init__(self, *a): pass\n    def __setstate__(self, state): pass\n"
    (tmp_path / "planted.py").write_text(leave + evil)
    (tmp_path / "hubconf.py").write_text(leave + "def entry(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    yield tmp_path
    sys.modules.pop("planted", None)


@pytest.mark.parametrize("name", PAYLOADS)
def test_malicious_pickles_are_refused_and_never_run(name: str, trap: Path) -> None:
    payload = PAYLOADS[name](str(trap)) + b"."
    raw = trap / "raw.pth"
    raw.write_bytes(b"\x80\x02" + payload)
    legacy = trap / "legacy.pth"
    legacy.write_bytes(LEGACY_PREFIX + b"\x80\x02" + payload + pickle.dumps([], protocol=2))
    zipped = edit_pickle(saved(trap / "zip.pth", {"model": weights()}), lambda _: b"\x80\x02" + payload)
    beside = saved(trap / "beside.pth", {"model": weights()})  # good weights, and the payload rides along
    edit_pickle(beside, lambda text: text[:-1] + b"X\x04\x00\x00\x00evil" + payload[:-1] + b"s.")

    assert "bare pickle" in refusal(raw)
    lines = {path: refusal(path) for path in (legacy, zipped)}
    if "planted\nEvil" in payload.decode("latin1"):  # spelt as a class: an inert stub, or no state dict
        assert "planted.Evil" in lines[legacy]
        assert lines[zipped].startswith("holds a pickled planted.Evil, no state dict")
        assert_same(read_checkpoint(beside).tensors, weights())
    else:
        assert all(line.startswith("refused: the pickle asks for ") for line in lines.values())
        assert refusal(beside).startswith("refused: the pickle asks for ")
    assert not (trap / "ran").exists()
    assert "planted" not in sys.modules

    with contextlib.suppress(Exception):  # the control: plain pickle runs it (some fail after the deed)
        pickle.loads(b"\x80\x02" + payload)
    assert (trap / "ran").exists()


def test_refusal_names_the_global(trap: Path) -> None:
    path = saved(trap / "m.pth", {"model": weights()})
    edit_pickle(path, lambda _: b"\x80\x02" + PAYLOADS["posix.system"](str(trap)) + b".")
    expected = "refused: the pickle asks for posix.system, which no model file needs; do not use this file"
    assert refusal(path) == expected


def test_nothing_is_spawned_imported_or_compiled_by_audit(trap: Path) -> None:
    paths = []
    for name in ("posix.system", "exec", "import", "check_call", "setstate"):
        text = b"\x80\x02" + PAYLOADS[name](str(trap)) + b"."
        paths.append(edit_pickle(saved(trap / f"{len(paths)}.pth", {"model": weights()}), lambda _, t=text: t))
    good = saved(trap / "good.pth", {"model": weights(), "args": argparse.Namespace(x=1)})
    edit_pickle(good, bytes)  # read first, so that what reading itself imports is there before the hook
    script = """
import sys
from pathlib import Path
from uamix_bench.models.checkpoint import read_checkpoint
from uamix_bench.util.errors import BadInputError, MachineError
good, *paths = map(Path, sys.argv[1:])
seen = []
read_checkpoint(good)
sys.addaudithook(lambda event, arguments: seen.append(event))
for path in paths:
    try:
        read_checkpoint(path)
    except BadInputError:
        continue
    raise SystemExit(f"{path} was accepted")
print(*sorted(set(seen)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, good, *paths],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(checkpoint_module.__file__).parent.parent,
    )
    events = set(done.stdout.split())
    assert "open" in events  # the hook listens
    assert not events & {"exec", "compile", "import", "os.system", "subprocess.Popen", "os.exec", "os.fork"}
    assert not {event for event in events if event.startswith(("socket.", "ctypes.", "shutil.", "os.posix"))}
    assert not (trap / "ran").exists()


def test_mutated_pickles_end_in_one_line_or_in_tensors(tmp_path: Path) -> None:
    draw = random.Random(0)
    original = saved(tmp_path / "m.pth", {"model": weights(), "args": argparse.Namespace(lr=0.1, name="x")})
    content = original.read_bytes()
    refused = 0
    for _ in range(300):
        original.write_bytes(content)

        def mutate(text: bytes) -> bytes:
            mutant = bytearray(text)
            for _ in range(draw.choice((1, 2, 8))):
                mutant[draw.randrange(len(mutant))] = draw.randrange(256)
            return bytes(mutant)

        edit_pickle(original, mutate)
        try:
            read_checkpoint(original)
        except BadInputError:
            refused += 1
    assert 100 < refused < 300


# --- files that are not what they claim


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; download it again"),
        (
            b"\n<!DOCTYPE html><html>Sign in</html>",
            "is an HTML page, not a checkpoint; download the file itself",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a git-lfs pointer"),
        (b"hello there", "is a text file"),
        (b"\x1f\x8b\x08\x00" + b"\x00" * 20, "is a gzip archive"),
        (b"\x93NUMPY\x01\x00", "is neither a safetensors nor a torch file"),
        (pickle.dumps({"model": 1}), "is a bare pickle"),
        (b"PK\x03\x04" + b"\x00" * 600, "truncated (the zip directory is missing); download it again"),
        (b"\x00" * 257 + b"ustar" + b"\x00" * 300, "is a tar archive"),
    ],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "X.pth"
    path.write_bytes(content)
    assert refusal(path).startswith(said)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.pth").startswith("no such file")
    assert refusal(tmp_path).startswith("is a folder without model.safetensors")
    write_safetensors(tmp_path / "model.safetensors", weights(), {})
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.path == tmp_path / "model.safetensors"
    assert_same(checkpoint.tensors, weights())


def test_archives_without_a_state_dict(tmp_path: Path) -> None:
    module = saved(tmp_path / "module.pth", nn.Linear(2, 2))
    assert refusal(module).startswith("holds a pickled torch.nn.modules.linear.Linear, no state dict")
    inside = saved(tmp_path / "inside.pth", {"model": nn.Linear(2, 2)})
    assert refusal(inside).startswith("holds a pickled torch.nn.modules.linear.Linear, no state dict")
    assert refusal(saved(tmp_path / "list.pth", [1, 2])).startswith("holds no state dict")
    assert refusal(saved(tmp_path / "dict.pth", {"model": {"a": 1}})).startswith("holds no state dict")
    script = tmp_path / "script.pt"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(script))
    assert refusal(script).startswith("is a TorchScript archive")
    other = tmp_path / "release.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("m2d/checkpoint-300.pth", b"x")
    assert "unpack it" in refusal(other)


def test_old_format_with_settings_and_other_protocols(tmp_path: Path) -> None:
    content = {"model": weights(), "args": argparse.Namespace(x=1)}
    old = saved(tmp_path / "old.pth", content, _use_new_zipfile_serialization=False)
    assert refusal(old).startswith("is in torch's old format and holds argparse.Namespace objects; save its")
    new = saved(tmp_path / "protocol4.pth", content, pickle_protocol=4)
    assert refusal(new).startswith("holds a pickle of another protocol")


# --- damage


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_torch_files(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path / "m.pth", {"model": weights()}, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (1, 20, len(whole) // 10, len(whole) // 2, len(whole) * 9 // 10, len(whole) - 1):
        path.write_bytes(whole[:length])
        line = refusal(path)
        assert length < 30 or line.startswith("truncated"), (length, line)


@pytest.mark.parametrize("version", ["2.9.1", "1.13.1+cu117"])
def test_a_torch_with_known_holes_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    path = saved(tmp_path / "m.pth", {"model": weights()})
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(MachineError, match=re.escape(f"torch: {version} reads no file safely; install 2.10")):
        read_checkpoint(path)


def test_a_name_that_is_no_text_is_damage(tmp_path: Path) -> None:
    """The flag that says names are UTF-8, set in an entry whose extra field is then taken for one."""
    path = saved(tmp_path / "m.pth", {"model": weights()})
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x03\x04", 4)
    content[second + 7] |= 0x08
    content[second + 30] = 0x80
    path.write_bytes(content)
    assert refusal(path).startswith("truncated or damaged")


def test_flipped_bytes_are_found_or_harmless(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", {"model": weights()})
    whole = path.read_bytes()
    stored = weights()["stem.weight"].numpy().tobytes()
    in_tensor = whole.index(stored)
    positions = [in_tensor, in_tensor + len(stored) - 1, *random.Random(0).sample(range(len(whole)), 150)]
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        if position in range(in_tensor, in_tensor + len(stored)):
            assert "does not match its checksum" in refusal(path)
            continue
        try:
            tensors = read_checkpoint(path).tensors
        except BadInputError:
            continue
        assert_same(tensors, weights())


def test_bombs_are_refused_before_torch_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("torch was asked to load it")

    path = saved(tmp_path / "m.pth", {"model": {"w": torch.zeros(1_000_000)}})
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    monkeypatch.setattr(torch, "load", never)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    assert path.stat().st_size < 20_000
    assert refusal(path).startswith("holds compressed entries")

    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
        big = max(archive.infolist(), key=lambda entry: entry.file_size)
        for index in range(3):  # the directory lists the same bytes again and again
            again = zipfile.ZipInfo(f"{big.filename}{index}")
            again.header_offset, again.CRC = big.header_offset, big.CRC
            again.file_size = again.compress_size = big.file_size
            archive.filelist.append(again)
        archive._didModify = True
    assert refusal(path).startswith("holds overlapping entries")


@pytest.mark.parametrize("zipped", [True, False])
def test_expanded_tensors_are_refused(tmp_path: Path, zipped: bool) -> None:
    content = {"model": {"w": torch.zeros(1).expand(10**12)}}
    path = saved(tmp_path / "m.pth", content, _use_new_zipfile_serialization=zipped)
    assert path.stat().st_size < 3000
    assert refusal(path).startswith("w has more elements (1000000000000) than the file holds")


def test_unusual_tensors_are_refused(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    meta = torch.empty(10**9, device="meta")
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    for tensor in (sparse, meta, quantised):
        path = saved(tmp_path / "m.pth", {"model": {"odd": tensor}})
        assert refusal(path).startswith("odd is not a plain dense tensor")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    broken = torch.ones(3, 4, dtype=dtype)
    broken[1, 2] = value
    for path in (tmp_path / "m.pth", tmp_path / "m.safetensors"):
        if path.suffix == ".pth":
            saved(path, {"model": {**weights(), "head.weight": broken}})
        else:
            write_safetensors(path, {**weights(), "head.weight": broken}, {})
        assert refusal(path).startswith("head.weight holds NaN or infinite values")


def test_a_sum_that_overflows_is_not_mistaken_for_infinity(tmp_path: Path) -> None:
    large = {"w": torch.full((8,), 3e38), "h": torch.full((8,), 65504.0, dtype=torch.float16)}
    assert_same(read_checkpoint(saved(tmp_path / "m.pth", large)).tensors, large)


# --- safetensors


def test_safetensors_round_trip_is_deterministic(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {**weights(), "b": shared, "a": shared.T, "same": shared}  # strided and sharing memory
    metadata = {f"key{index}": "ü" * index for index in range(8)}
    first = write_safetensors(tmp_path / "1.safetensors", tensors, metadata)
    second = write_safetensors(
        tmp_path / "2.safetensors", dict(reversed(tensors.items())), dict(reversed(metadata.items()))
    )
    whole = (tmp_path / "1.safetensors").read_bytes()
    assert whole == (tmp_path / "2.safetensors").read_bytes()
    assert first == second == hashlib.sha256(whole).hexdigest()
    assert_same(safetensors.torch.load_file(tmp_path / "1.safetensors"), tensors)  # the library's own reader
    checkpoint = read_checkpoint(tmp_path / "1.safetensors")
    assert_same(checkpoint.tensors, tensors)
    assert (checkpoint.metadata, checkpoint.sha256, checkpoint.extras) == (metadata, first, {})


def forged(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F6_E3M2", "F3"])
def test_types_that_torch_lacks_are_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "m.safetensors"
    bits = 4 * int(kind[1])
    path.write_bytes(forged({"w": {"dtype": kind, "shape": [4], "data_offsets": [0, bits // 8]}}, bytes(bits // 8)))
    assert re.match(r"(w is of the type float4_e2m1fn_x2|holds values of the type F\w+), which", refusal(path))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint64, torch.complex64])
def test_types_that_torch_has_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"w": torch.ones(3).to(dtype)}
    for path in (tmp_path / "m.safetensors", tmp_path / "m.pth"):
        write_safetensors(path, tensors, {}) if path.suffix == ".safetensors" else saved(path, tensors)
        assert read_checkpoint(path).tensors["w"].dtype == dtype


def test_damaged_safetensors_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, weights(), {"a": "b"})
    whole = path.read_bytes()

    def entry(start: int, stop: int) -> dict[str, Any]:
        return {"dtype": "F32", "shape": [(stop - start) // 4], "data_offsets": [start, stop]}

    damaged = {
        "cut": whole[:-1],
        "half": whole[: len(whole) // 2],
        "longer": whole + b"\0",
        "header cut": whole[:40],
        "overlap": forged({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12),
        "hole": forged({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20),
        "size": struct.pack("<Q", 2**63) + whole[8:],
        "wide": forged({"a": {**entry(0, 8), "shape": [10**12]}}, b"\0" * 8),
        "no json": struct.pack("<Q", 8) + b"{not it}",
    }
    for name, content in damaged.items():
        path.write_bytes(content)
        assert refusal(path).startswith("truncated or damaged"), name

    padding = json.dumps({"__metadata__": {"x": "y" * 9 * 2**20}}).encode()
    path.write_bytes(struct.pack("<Q", len(padding)) + padding)
    assert "claims a header of 9437" in refusal(path)
    path.write_bytes(forged({f"t{i}": entry(4 * i, 4 * i + 4) for i in range(20_001)}, b"\0" * 80_004))
    assert refusal(path).startswith("holds 20001 tensors")


# --- into a module


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_load_state_fills_every_tensor_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = network().double().eval()
    source[1].running_mean.normal_()
    tensors = {**source.state_dict(), "decoder.weight": torch.ones(9)}
    clip = torch.randn(5, 3)
    plain, light = network().eval(), None
    with torch.device("meta"):
        light = network().eval()
    light[0].weight.requires_grad_(False)
    kept = plain[0].weight
    for module in (plain, light):
        load_state(module, tensors, path=tmp_path / "m.pth", what="AudioMAE")
        floating = [value for value in module.state_dict().values() if value.is_floating_point()]
        assert all(value.dtype == torch.float32 and not value.is_meta for value in floating)
        torch.testing.assert_close(module(clip), source(clip.double()).float())
    assert plain[0].weight is kept  # optimizers that hold it stay right
    assert not light[0].weight.requires_grad
    assert light[2].weight.requires_grad


def test_load_state_on_meta_does_not_share_memory_with_the_checkpoint(tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(2, 3).T, "bias": torch.zeros(3)}
    with torch.device("meta"):
        module = nn.Linear(2, 3)
    load_state(module, tensors, path=tmp_path / "m.pth", what="x")
    with torch.no_grad():
        module.weight.add_(1)
        module.bias.add_(1)
    assert torch.equal(tensors["weight"], torch.ones(3, 2))
    assert torch.equal(tensors["bias"], torch.zeros(3))
    assert module.weight.is_contiguous()


def test_load_state_names_what_is_missing_or_misshapen(tmp_path: Path) -> None:
    module, path = network(), tmp_path / "m.pth"
    before = {key: value.clone() for key, value in module.state_dict().items()}
    full = network().state_dict()
    for key, value in full.items():  # each key in turn, missing and misshapen
        with pytest.raises(BadInputError) as caught:
            load_state(module, {k: v for k, v in full.items() if k != key}, path=path, what="AudioMAE")
        expected = f"{path}: lacks 1 of 9 encoder tensors ({key}); this is no whole checkpoint of AudioMAE"
        assert str(caught.value) == expected
        longer = torch.zeros(*value.shape, 2)
        with pytest.raises(BadInputError) as caught:
            load_state(module, {**full, key: longer}, path=path, what="AudioMAE")
        assert f"({key} is {list(longer.shape)}, expected {list(value.shape)})" in str(caught.value)
    with pytest.raises(BadInputError, match=r"holds no tensor of AudioMAE \(its keys: a0, a1, a2, a3, a4 and 4 more\)"):
        load_state(module, {f"a{index}": torch.ones(2) for index in range(9)}, path=path, what="AudioMAE")
    assert_same(dict(module.state_dict()), before)  # a refusal changes nothing


@pytest.mark.parametrize(
    ("size", "kind", "reason"),
    [
        (1 << 20, BadInputError, "far more memory than it has bytes"),
        (1 << 27, MachineError, "does not fit into memory"),
    ],
)
def test_a_small_file_that_asks_for_all_memory_is_at_fault_itself(
    size: int, kind: type[Exception], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise MemoryError

    path = saved(tmp_path / "file.pth", weights(), _use_new_zipfile_serialization=False)
    os.truncate(path, size)
    monkeypatch.setattr("torch.load", allocate)
    with pytest.raises(kind, match=reason):
        read_checkpoint(path)
