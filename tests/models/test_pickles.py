"""Pickles that ask for memory are refused before torch sees them; what torch.save writes passes, bit for bit."""

from __future__ import annotations

import collections
import pickle
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from uamix_bench.models.checkpoint import read_checkpoint
from uamix_bench.util.errors import BadInputError

from .test_checkpoint import LEGACY_PREFIX, call, edit_pickle, op, saved, weights

HUGE = 3 * 10**9
REBUILD = op("torch._utils", "_rebuild_tensor_v2")


def storage(kind: str, elements: int, key: str = "0") -> bytes:
    identity = (pickle.dumps(value, protocol=2)[2:-1] for value in (key, "cpu", elements))
    return b"(X\x07\x00\x00\x00storage" + op("torch", kind) + b"".join(identity) + b"tQ"


def tensor(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, elements: int = 12) -> bytes:
    return call(REBUILD, storage("FloatStorage", elements), offset, size, stride, False, None)


LIST = pickle.dumps(list(range(2_000)), protocol=2)[2:-1] + b"q\xf0"  # noted as 240, and taken again by h\xf0
TUPLES = b")" + b"q\xf0h\xf0h\xf0\x86" * 60
BOMBS: dict[str, bytes] = {
    "bytearray": call(op("builtins", "bytearray"), HUGE),
    "bytearray of Python 2": call(op("__builtin__", "bytearray"), HUGE),
    "new bytearray": op("builtins", "bytearray") + pickle.dumps((HUGE,), protocol=2)[2:-1] + b"\x81",
    "bytearray of a list": call(op("builtins", "bytearray"), [1, 2]),
    "bytearray in a tensor's clothes": call(
        op("torch._tensor", "_rebuild_from_type_v2"),
        op("builtins", "bytearray"),
        op("torch", "Tensor"),
        (HUGE,),
        None,
    ),
    "Tensor": call(op("torch", "Tensor"), HUGE),
    "FloatTensor": call(op("torch", "FloatTensor"), HUGE),
    "UntypedStorage": call(op("torch.storage", "UntypedStorage"), HUGE),
    "TypedStorage": call(op("torch.storage", "TypedStorage"), HUGE),
    "a storage larger than the file": call(
        REBUILD, storage("FloatStorage", HUGE, key="9"), 0, (1,), (1,), False, None
    ),
    "a tensor larger than its storage": tensor((HUGE,), (1,)),
    "a tensor past its storage's end": tensor((4,), (1,), offset=9),
    "a stride past its storage's end": tensor((2,), (HUGE,)),
    "a negative size": tensor((-1,), (1,)),
    "quantised": call(
        op("torch._utils", "_rebuild_qtensor"),
        storage("QInt8Storage", 4),
        0,
        (HUGE,),
        (0,),
        call(op("torch", "per_tensor_affine"), 1),
        False,
        None,
    ),
    "another device's": call(
        op("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"), tensor((HUGE,), (0,)), None, "cpu", False
    ),
    "a tensor set anew": tensor((1,), (1,))
    + b"("
    + storage("FloatStorage", 12)
    + b"K\x00J\x00\x00\x00\x70\x85K\x01\x85tb",
    "one list in many sets": b"(" + LIST + b"cbuiltins\nset\nq\xf1" + b"h\xf1h\xf0\x85R" * 400 + b"t",
    "one text encoded again and again": b"(X\xd0\x07\x00\x00" + b"a" * 2_000 + b"q\xf0X\x06\x00\x00\x00latin1q\xf1"
    b"c_codecs\nencode\nq\xf2" + b"h\xf2h\xf0h\xf1\x86R" * 400 + b"t",
    "a codec of many letters": call(op("_codecs", "encode"), "a" * 100, "utf-32"),
    "tuples that unfold without end": TUPLES,
    "a key that unfolds without end": b"}" + b")" + b"q\xf0h\xf0h\xf0\x86" * 12 + b"K\x01s",
    "what is called is no function": b"]K\x01\x85R",
}  # fmt: skip


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("torch was asked to load it")

    monkeypatch.setattr(torch, "load", never)


def bombs(folder: Path, payload: bytes) -> list[Path]:
    """Files of both formats, good weights in the one, where the payload stands beside them."""
    legacy = folder / "legacy.pth"
    legacy.write_bytes(LEGACY_PREFIX + b"\x80\x02" + payload + b"." + pickle.dumps([], protocol=2))
    beside = saved(folder / "beside.pth", {"model": weights()})
    return [legacy, edit_pickle(beside, lambda text: text[:-1] + b"X\x04\x00\x00\x00evil" + payload + b"s.")]


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize("name", BOMBS)
def test_what_asks_for_memory_is_refused_before_torch_sees_it(name: str, tmp_path: Path) -> None:
    for path in bombs(tmp_path, BOMBS[name]):
        with pytest.raises(BadInputError, match=r"refused: the pickle .*, which no model file needs; do not use") as it:
            read_checkpoint(path)
        assert len(str(it.value)) < 400


@pytest.mark.parametrize(
    ("payload", "size"),
    [
        (call(op("builtins", "bytearray"), 1_000_000), lambda made: len(made)),
        (call(op("torch", "FloatTensor"), 250_000), lambda made: made.untyped_storage().nbytes()),
        (call(op("torch.storage", "UntypedStorage"), 1_000_000), lambda made: made.nbytes()),
    ],
)
def test_the_bombs_bite(payload: bytes, size: Callable[[Any], int], tmp_path: Path) -> None:
    """Smaller ones are made by torch's own weights-only reader, from files of a thousandth of their size."""
    for path in bombs(tmp_path, payload):
        assert path.stat().st_size < 3_000
        loaded = torch.load(path, weights_only=True)
        assert size(loaded["evil"] if isinstance(loaded, dict) else loaded) >= 1_000_000


@pytest.mark.slow
@pytest.mark.usefixtures("never_loaded")
def test_long_pickles_are_refused_in_time(tmp_path: Path) -> None:
    path = edit_pickle(saved(tmp_path / "m.pth", {"model": weights()}), lambda _: b"\x80\x02" + b"N" * 6_000_000 + b".")
    started = time.perf_counter()
    with pytest.raises(BadInputError, match="5,000,000 operations"):
        read_checkpoint(path)
    assert time.perf_counter() - started < 60


def test_another_spelling_of_an_entry_hides_nothing(tmp_path: Path) -> None:
    """Torch's reader overlooks case: DATA.PKL beside data.pkl might be the one that it takes."""
    path = saved(tmp_path / "m.pth", {"model": weights()})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/DATA.PKL", b"\x80\x02" + BOMBS["bytearray"] + b".")
    with pytest.raises(BadInputError, match="overlapping entries"):
        read_checkpoint(path)


# --- what torch.save writes

tensors = st.sampled_from(
    [
        torch.arange(12.0).reshape(3, 4),
        torch.arange(12.0).reshape(3, 4).T[1:],
        torch.ones(3, 1).expand(3, 50),
        torch.zeros(0, 3),
        torch.tensor(7),
        torch.ones(2, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.uint16),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(5, dtype=torch.bool),
        torch.nn.Parameter(torch.ones(2)),
        torch.empty(10**9, device="meta"),
    ]
)
leaves: st.SearchStrategy[Any] = st.one_of(
    tensors,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.binary(min_size=1, max_size=300),
    st.binary(max_size=300).map(bytearray),
    st.complex_numbers(allow_nan=False),
    st.sets(st.integers(), max_size=4),
    st.sampled_from([torch.float16, torch.Size([2, 3]), torch.device("cpu"), torch.strided]),
)
contents = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4),
        st.dictionaries(st.text(max_size=3), inner, max_size=4).map(collections.OrderedDict),
        st.dictionaries(st.text(max_size=3), st.integers(), max_size=4).map(collections.Counter),
    ),
    max_leaves=12,
)


def check_passes(content: Any, folder: Path) -> None:
    for zipped in (True, False):
        beside = {"first": content, "again": [content, content]}
        path = saved(folder / "m.pth", {"model": weights(), "rest": beside}, _use_new_zipfile_serialization=zipped)
        try:
            torch.load(path, weights_only=True)
        except Exception:  # of its old format torch itself reads neither empty bytes nor the younger types
            assert not zipped
            continue
        checkpoint = read_checkpoint(path)
        assert checkpoint.tensors.keys() == weights().keys()
        assert all(torch.equal(checkpoint.tensors[key], value) for key, value in weights().items())
        assert len(checkpoint.extras["rest"]) == 1 + (not isinstance(content, torch.Tensor))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=contents)
def test_what_torch_saves_passes(content: Any, tmp_path: Path) -> None:
    check_passes(content, tmp_path)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=contents)
def test_much_that_torch_saves_passes(content: Any, tmp_path: Path) -> None:
    check_passes(content, tmp_path)


def test_a_file_that_is_refused_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """Torch keeps the sparse tensors of a load that failed, and blames the next file for them."""
    good = saved(tmp_path / "good.pth", {"model": weights(), "rest": torch.eye(3).to_sparse()})
    content = {"model": weights(), "rest": [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.uint16)]}
    bad = saved(tmp_path / "bad.pth", content, _use_new_zipfile_serialization=False)
    for _ in range(20):
        with pytest.raises(BadInputError):
            read_checkpoint(bad)
        assert not torch._utils._sparse_tensors_to_validate
        assert read_checkpoint(good).tensors.keys() == weights().keys()


def test_training_states_pass(tmp_path: Path) -> None:
    """Of optimisers with moments, tensors that share memory, attributes of a parameter, hooks of a state dict."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    module[0].weight.note = "decayed"
    optimiser = torch.optim.AdamW(module.parameters(), amsgrad=True)
    module(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    shared = torch.arange(8.0)
    content = {
        "model": module.state_dict(),
        "parameters": list(module.parameters()),
        "optimizer": optimiser.state_dict(),
        "views": [shared, shared[2:], shared.view(2, 4).T],
        "random": torch.get_rng_state(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    for zipped in (True, False):
        path = saved(tmp_path / "m.pth", content, _use_new_zipfile_serialization=zipped)
        assert read_checkpoint(path).tensors.keys() == module.state_dict().keys()
