"""Every reader of files from outside as a function of bytes: it refuses them by a BenchError, or what it gives holds.

`corpus` makes what the mutants are made of, and whatever the reader needs beside its file; `read` writes the bytes
where the reader looks and checks what comes back. Both work below one folder.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from uamix_bench.util.errors import BenchError, UsageError


class Reader(NamedTuple):
    """`corpus(folder)` gives seeds; `read(content, folder)` reads; `tokens` are bytes with a meaning in this format."""

    corpus: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], None]
    tokens: tuple[bytes, ...]


_NUMBERS = tuple(struct.pack("<I", number) for number in (0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF))
_TEXT = (b"\x00", b"\n", b"\r\n", b'"', b",", b"\xff\xfe", b"\xef\xbb\xbf", b"../", b"/etc/passwd", b"\xc3\x28", b"#")
_JSON = (b"{", b"}", b"[", b"]", b"[" * 3_000, b"NaN", b"1e999", b"-1", b"9" * 5_000, b"null", b'""', b"\\ud800")


def _any_of(*reads: Callable[[], object]) -> None:
    """Reads in several ways, each of which may refuse; raises the first refusal where all do."""
    refused = []
    for read in reads:
        try:
            read()
        except BenchError as error:
            refused.append(error)
    if len(refused) == len(reads):
        raise refused[0]


def _written(content: bytes, path: Path) -> Path:
    path.write_bytes(content)
    return path


# --- sounds


def _sounds(folder: Path) -> list[bytes]:
    import soundfile

    kinds = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "IMA_ADPCM"), ("RF64", "PCM_24"), ("FLAC", "PCM_16")]
    kinds += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AIFF", "ULAW")]
    steps = np.random.default_rng(0).integers(-8_000, 8_000, (2_400, 2)) / 2**15
    seeds = []
    for container, subtype in [*kinds, ("WAV", "GSM610"), ("WAV", "G721_32")]:
        file = io.BytesIO()
        sound = steps[:, 0] if subtype[0] == "G" else steps
        soundfile.write(file, sound, 16_000, format=container, subtype=subtype)
        seeds.append(file.getvalue())
    wav, flac, vorbis, opus, mp3 = seeds[0], *seeds[4:8]
    bare = mp3[mp3.index(mp3[:2], 50) :]
    length = wav.index(b"data") + 4
    wrapped = wav[:20] + b"\x55\0" + wav[22:length] + struct.pack("<I", len(bare)) + bare
    unfinished = wav[:length] + bytes(4) + wav[length + 4 :]
    return [
        *seeds,
        bare,
        mp3 * 2,
        wrapped,
        unfinished,
        flac * 2,
        flac[:21] + b"\xf0" + bytes(4) + flac[26:],
        vorbis * 2,
        opus * 2,
    ]


def _read_sound(content: bytes, folder: Path) -> None:
    from uamix_bench.data.audio import probe, read, segments

    path = _written(content, folder / "sound")
    info = probe(path)
    whole = read(path, None)
    assert len(whole.samples) == info.frames
    assert np.isfinite(whole.samples).all()
    part = read(path, 22_050, max_seconds=0.02, offset=min(0.01, info.duration_s / 2))
    assert 0 < len(part.samples) <= 441
    if info.duration_s < 60:
        assert all(len(segment) <= 1_600 for segment in segments(path, 16_000, 0.1))


# --- checkpoints


def _state() -> dict[str, Any]:
    import torch

    return {
        "stem.weight": torch.arange(12.0).reshape(4, 3),
        "stem.bias": torch.ones(4).half(),
        "steps": torch.tensor(7),
    }


def _checkpoints(folder: Path) -> list[bytes]:
    import torch
    from safetensors.torch import save

    seeds = [save(_state(), {"cfg": "{}", "recipe": "x"})]
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        file = io.BytesIO()
        torch.save({"model": _state(), "epoch": 3, "args": {"lr": 0.1, "names": ["a", ("b", None)]}}, file, **options)
        seeds.append(file.getvalue())
    return seeds


def _read_checkpoint(content: bytes, folder: Path) -> None:
    import torch

    from uamix_bench.models.checkpoint import read_checkpoint

    found = read_checkpoint(_written(content, folder / "checkpoint"))
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert all(torch.isfinite(value.double()).all() for value in found.tensors.values() if value.is_floating_point())
    assert sum(value.numel() * value.itemsize for value in found.tensors.values()) <= 20 * len(content)
    json.dumps(found.extras, default=str)


def _pickles(folder: Path) -> list[bytes]:
    import argparse
    import collections

    import torch

    contents: list[Any] = [
        {"model": _state(), "args": argparse.Namespace(lr=0.1, out=Path("a/b"))},
        collections.OrderedDict(_state()),
        {"cfg": {"layers": 2}, "model": _state(), "best": np.float64(0.5), "dtype": torch.float16},
    ]
    seeds = []
    for content in contents:
        torch.save(content, folder / "seed.pt")
        with zipfile.ZipFile(folder / "seed.pt") as archive:
            seeds.append(archive.read("seed/data.pkl"))
    return seeds


def _read_pickle(content: bytes, folder: Path) -> None:
    """The bytes are the pickle of a file of torch.save that is right in all else, its checksums too."""
    file = io.BytesIO()
    with zipfile.ZipFile(folder / "seed.pt") as old, zipfile.ZipFile(file, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, content if entry.filename == "seed/data.pkl" else old.read(entry))
    _read_checkpoint(file.getvalue(), folder)


_OPCODES = tuple(op.code.encode("latin-1") for op in pickletools.opcodes)
_CALLS = (
    b"cposix\nsystem\n",
    b"ctorch\nload\n",
    b"cbuiltins\nbytearray\n",
    b"cbuiltins\nset\n",
    b"ctorch\nFloatTensor\n",
)
_CALLS += tuple(
    name + b"J\x00\x00\x00\x7f\x85R0" for name in _CALLS[2:]
)  # called with two thousand millions, and dropped


def _headers(folder: Path) -> list[bytes]:
    from safetensors.torch import save

    blob = save(_state(), {"cfg": "{}"})
    length = struct.unpack("<Q", blob[:8])[0]
    (folder / "values").write_bytes(blob[8 + length :])
    return [blob[8 : 8 + length]]


def _read_header(content: bytes, folder: Path) -> None:
    """The bytes are the header of a safetensors file, its length before it and the values behind it."""
    blob = struct.pack("<Q", len(content)) + content + (folder / "values").read_bytes()
    _read_checkpoint(blob, folder)


def _settings(folder: Path) -> list[bytes]:
    """BEATs' and MAE-AST's settings, as a converted file has them in its metadata, and their weights beside."""
    from uamix_bench.models.checkpoint import write_safetensors

    from ..baselines import official

    seeds = []
    for name, cfg, state in (
        ("beats", official.beats_cfg(official.TINY), official.beats_state),
        ("mae-ast", official.mae_ast_cfg(official.TINY)["model"], official.mae_ast_state),
    ):
        write_safetensors(folder / f"{name}.safetensors", state(cfg), {})
        seeds.append(json.dumps(cfg).encode())
    return seeds


def _read_settings(content: bytes, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    from uamix_bench import load_model

    def read(name: str) -> None:
        path = folder / f"with-settings-{name}.safetensors"
        save_file(load_file(folder / f"{name}.safetensors"), path, {"cfg": content.decode("utf-8", "ignore")})
        model = load_model(name, path, device="cpu")
        assert model.embed([np.ones(4_000, np.float32)], 16_000).shape == (1, model.embedding_dim)

    _any_of(lambda: read("beats"), lambda: read("mae-ast"))


# --- lists


def _lists(folder: Path) -> list[bytes]:
    for name in ("a.wav", "b.wav", "c.wav", "Yabcdefghijk.wav"):
        (folder / name).touch()
    rows = [("path", "label", "group", "split"), ("a.wav", "x", "1", "train"), ("b.wav", "y, z", "2", "test")]
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    audioset = b"# Segments\n# num_ytids=1\n# YTID, start_seconds, end_seconds, positive_labels\n"
    audioset += b'abcdefghijk, 0.000, 10.000, "/m/1"\n'
    return [text.getvalue().encode(), b"path,label\r\na.wav,x\r\nc.wav,y\r\n", b"a.wav\n# b.wav\nc.wav\n", audioset]


def _read_list(content: bytes, folder: Path) -> None:
    from uamix_bench.data.task import load_task
    from uamix_bench.tuning.sounds import find_data

    as_list, as_text = _written(content, folder / "list.csv"), _written(content, folder / "list.txt")
    _any_of(
        lambda: _check_table(load_task(str(as_list)).table),
        lambda: _check_table(find_data(str(as_list)).table),
        lambda: _check_table(find_data(str(as_text)).table),
    )


def _check_table(table: Any) -> None:
    assert len(table)
    assert len(set(table["clip"])) == len(table)
    assert not table.to_pandas().isna().any().any()


_OFFICIAL = {
    "esc50": "ESC-50-master/meta/esc50.csv",
    "fsdkaggle2018": "FSDKaggle2018.meta/test_post_competition_scoring_clips.csv",
    "nsynth": "nsynth-train/examples.json",
    "speech-commands": "testing_list.txt",
    "voxceleb1": "iden_split.txt",
}


def _official_lists(folder: Path) -> list[bytes]:
    """The lists of small stand-ins of the data sets; the name of the data set and a line feed before each."""
    from uamix_bench.plugins import registry

    seeds = []
    for name, file in _OFFICIAL.items():
        root = folder / "data" / name
        registry.find_task(name).load()().miniature(root, classes=2, clips_per_class=2, seconds=0.05)
        (path,) = root.rglob(file)
        seeds.append(name.encode() + b"\n" + path.read_bytes())
    return seeds


def _read_official_list(content: bytes, folder: Path) -> None:
    from uamix_bench.data.task import load_task

    name, _, text = content.partition(b"\n")
    file = _OFFICIAL.get(name.decode("latin-1"))
    if file is None:
        raise UsageError("fuzz", "no such data set")
    (path,) = (folder / "data" / name.decode()).rglob(file)
    original = path.read_bytes()
    try:
        path.write_bytes(text)
        _check_table(load_task(name.decode(), folder / "data").table)
    finally:
        path.write_bytes(original)


# --- records


def _records(folder: Path) -> list[bytes]:
    from uamix_bench.records.record import record_text

    from ..comparison.test_timings import file
    from ..sample_records import few_shot, finetuned, training

    timings = {"machine_info": {"cpu": {"count": 2}}, **file([1.0, 2.0, 3.0]).model_dump(mode="json")}
    return [record_text(record()).encode() for record in (few_shot, training, finetuned)] + [
        json.dumps(timings).encode()
    ]


def _read_record(content: bytes, folder: Path) -> None:
    from uamix_bench.comparison.sides import read_side
    from uamix_bench.records.store import ResultStore, load_record

    path = _written(content, folder / "record.json")
    side = read_side(path)
    if side.timings is None:
        record = load_record(path)
        stored = ResultStore(folder / "store").write(record)
        assert load_record(stored) == record
        stored.unlink()


# --- configuration


def _configurations(folder: Path) -> list[bytes]:
    run = b'model = "logmel"\nway = [2, 3]\nq = "auto"\nseed = 1\ngroup-disjoint = true\nclip-seconds = 0.5\n'
    more = b'# \xc3\xa4\nk = 1\nname = """a\nb"""\ndevice = \'cpu\'\nlimit = 0x10\nset = ["a=1"]\n'
    cards = [Path(__file__).parents[2] / name for name in ("baselines/uamix.toml", "tasks/esc50.toml")]
    return [run, more.replace(b"set = ", b"# "), *(card.read_bytes() for card in cards)]


def _read_configuration(content: bytes, folder: Path) -> None:
    import click

    from uamix_bench.cli import cli
    from uamix_bench.cli.errors import Session
    from uamix_bench.plugins.card import ModelCard, TaskCard, read_card

    path = _written(content, folder / "run.toml")

    def read(name: str) -> None:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        try:
            command.make_context(name, ["--config", str(path)], obj=Session())
        except click.ClickException as error:
            raise UsageError(path, error.format_message()) from error

    _any_of(
        lambda: read("fewshot"),
        lambda: read("finetune"),
        lambda: read("pretrain"),
        lambda: read_card(path, ModelCard),
        lambda: read_card(path, TaskCard),
    )


def _recipes(folder: Path) -> list[bytes]:
    from uamix_bench.tuning.recipe import PRETRAIN, TUNE

    return [PRETRAIN["tiny"].model_dump_json().encode(), TUNE["tiny"].model_dump_json().encode()]


def _read_recipe(content: bytes, folder: Path) -> None:
    from uamix_bench.cli.training import find
    from uamix_bench.tuning.recipe import PretrainRecipe, TuneRecipe

    path = _written(content, folder / "recipe.json")

    def read(kind: Any) -> None:
        recipe = find({}, str(path), kind)
        assert kind.model_validate_json(recipe.model_dump_json()) == recipe

    _any_of(lambda: read(PretrainRecipe), lambda: read(TuneRecipe))


READERS = {
    "sound": Reader(
        _sounds,
        _read_sound,
        (
            *_NUMBERS,
            b"data",
            b"fmt ",
            b"OggS",
            b"fLaC",
            b"ID3\4\0\0\0\0\1\1",
            b"TAG",
            b"Info",
            b"VBRI",
            b"FORM",
            b"SSND",
            b"COMM",
            b"\xff\xfb\x90\0",
            b"\xff\xf8",
        ),
    ),
    "checkpoint": Reader(
        _checkpoints, _read_checkpoint, (*_NUMBERS, b"PK\x03\x04", b"PK\x01\x02", b"data.pkl", *_JSON)
    ),
    "pickle": Reader(_pickles, _read_pickle, (*_NUMBERS, *_OPCODES, *_CALLS)),
    "header": Reader(_headers, _read_header, (*_JSON, b"F64", b"I8", b"data_offsets", b"shape", b"__metadata__")),
    "settings": Reader(_settings, _read_settings, (*_JSON, b"1000000", b"0.5", b"0")),
    "list": Reader(_lists, _read_list, _TEXT),
    "official list": Reader(_official_lists, _read_official_list, (*_TEXT, *_JSON)),
    "record": Reader(_records, _read_record, (*_JSON, *_TEXT)),
    "configuration": Reader(
        _configurations, _read_configuration, (*_TEXT, *_JSON, b"[[a]]", b"a.b = 1", b"inf", b"nan")
    ),
    "recipe": Reader(_recipes, _read_recipe, _JSON),
}
