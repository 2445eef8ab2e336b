"""models fetch, ls and info, with the card of a stranger's package whose files a local server has."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from uamix_bench.cli import selection
from uamix_bench.data import fetch
from uamix_bench.models import own_weights
from uamix_bench.plugins import registry
from uamix_bench.util.errors import UsageError

from ..data.test_fetch import CONTENT, SHA256, Server, server as server
from .conftest import Bench

NAME = "stranger-net"
OTHER = hashlib.sha256(b"another").hexdigest()


class Stranger:
    """An installed package with a model card; its module is never to be imported."""

    def __init__(self, site: Path, home: Path) -> None:
        self.site = site
        self.folder = home / "checkpoints" / NAME
        info = site / "stranger_net-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger_net\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[uamix_bench.models]\n{NAME} = stranger_net:Net\n")
        (site / "stranger_net.py").write_text("raise RuntimeError('imported')\n")
        self.lists()

    def lists(self, *files: dict[str, Any]) -> None:
        """Makes these the files of the card."""
        head = f'name = "{NAME}"\ntitle = "Net"\nlicence = "MIT"\nsample_rate = 16_000\nembedding_dim = 2\n'
        entries = ["[[files]]\n" + "".join(f"{key} = {json.dumps(file[key])}\n" for key in file) for file in files]
        (self.site / "stranger_net.toml").write_text(head + "\n".join(entries))
        registry.forget()


@pytest.fixture
def stranger(tmp_path: Path, bench_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield Stranger(tmp_path / "site", bench_home)
    assert "stranger_net" not in sys.modules
    registry.forget()


def offered(server: Server, name: str = "model.pth", **facts: Any) -> dict[str, Any]:
    return {"name": name, "url": f"http://127.0.0.1:{server.server_port}/a/{name}", **facts}


def test_a_file_is_downloaded_pinned_and_then_shown_as_here(bench: Bench, stranger: Stranger, server: Server) -> None:
    stranger.lists(offered(server))
    before = bench("models", "ls", "--json").envelope["items"]
    assert [item["here"] for item in before if item["name"] == NAME] == [[]]
    done = bench("models", "fetch", NAME)
    path = stranger.folder / "model.pth"
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"{path} (pinned)", f"--model {NAME}"]
    assert selection.models(NAME) == [NAME]
    assert path.read_bytes() == CONTENT
    assert json.loads((stranger.folder / "checksums.json").read_text()) == {"model.pth": {"sha256": SHA256}}
    (row,) = [line for line in bench("models", "ls").out.splitlines() if line.startswith(NAME)]
    assert row.endswith("  model.pth")
    (item,) = bench("models", "info", NAME, "--json").envelope["items"]
    assert item["here"] == [str(path)]
    assert f"--model {NAME}\n" in bench("models", "info", NAME).out
    assert bench("models", "fetch", NAME, "--offline").code == 0
    assert len(server.requests) == 1


def test_a_name_alone_needs_weights_until_they_are_fetched(bench: Bench, stranger: Stranger, server: Server) -> None:
    stranger.lists(offered(server))
    done = bench("fewshot", "-m", NAME)
    assert done.code == 2
    assert f"'uamix-bench models fetch {NAME}' gets them" in done.error
    assert NAME not in selection.models("*")


def test_of_several_files_the_first_of_the_card_is_taken(bench: Bench, stranger: Stranger, server: Server) -> None:
    stranger.lists(offered(server, "z.pth"), offered(server, "a.pth"))
    stranger.folder.mkdir(parents=True)
    (stranger.folder / "0-own.pth").write_bytes(CONTENT)
    first, second, own = (stranger.folder / name for name in ("z.pth", "a.pth", "0-own.pth"))
    done = bench("models", "fetch", NAME)
    assert done.out.splitlines()[2:] == [
        f"--model {NAME} takes {first}; of the others:",
        f"--model {NAME}={second}",
        f"--model {NAME}={own}",
    ]
    plugin = registry.models()[NAME]
    with pytest.warns(UserWarning, match=r"of 3 files of weights here stranger-net/z.pth is taken"):
        assert own_weights.fetched(plugin) == first
    stranger.lists(offered(server, "other.pth"))
    with pytest.raises(UsageError, match="has 3 files of weights here"):
        own_weights.fetched(registry.models()[NAME])


def test_a_broken_off_download_goes_on_where_it_was(bench: Bench, stranger: Stranger, server: Server) -> None:
    stranger.lists(offered(server, sha256=SHA256))
    server.breaks_after = [300_000, 0, 0]
    done = bench("models", "fetch", NAME, "--quiet")
    assert done.code == 4
    assert "run it again to continue after 300,000 bytes" in done.error
    assert bench("models", "info", NAME, "--json").envelope["items"][0]["here"] == []
    assert bench("models", "fetch", NAME).out.startswith(f"{stranger.folder / 'model.pth'} (verified)")
    assert server.requests[-1]["Range"] == "bytes=300000-"
    assert (stranger.folder / "model.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("facts", "server_says", "words"),
    [
        ({"sha256": OTHER}, {}, "is not the published"),
        ({"bytes": len(CONTENT) + 1}, {}, "published are 640,001"),
        ({}, {"content": b"<!DOCTYPE html><p>sign in"}, "a web page"),
    ],
)
def test_a_wrong_file_is_not_kept(
    bench: Bench, stranger: Stranger, server: Server, facts: dict[str, Any], server_says: dict[str, Any], words: str
) -> None:
    stranger.lists(offered(server, **facts))
    vars(server).update(server_says)
    done = bench("models", "fetch", NAME)
    assert done.code == 3
    assert words in done.error
    assert not [path for path in stranger.folder.iterdir() if path.suffix == ".pth"]


def test_a_lie_about_the_length_is_an_error_of_the_network(bench: Bench, stranger: Stranger, server: Server) -> None:
    stranger.lists(offered(server))
    server.length = len(CONTENT) + 5
    done = bench("models", "fetch", NAME, "--quiet")
    assert done.code == 4
    assert "broke off; run it again to continue after 640,000 bytes" in done.error
    assert not (stranger.folder / "model.pth").exists()


def test_what_only_a_person_can_get_is_named_and_checked_once_it_is_there(bench: Bench, stranger: Stranger) -> None:
    stranger.lists({"name": "net.pt", "page": "https://example.org/net", "note": "the second link"})
    done = bench("models", "fetch", NAME)
    path = stranger.folder / "net.pt"
    assert (done.code, done.out) == (3, "")
    assert str(path) in done.error
    assert "get net.pt from https://example.org/net (the second link) and put it there" in done.error
    stranger.folder.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert bench("models", "fetch", NAME).out.startswith(f"{path} (pinned)\n")
    path.write_bytes(CONTENT[1:])
    changed = bench("models", "fetch", NAME)
    assert changed.code == 3
    assert "pinned in checksums.json on first use" in changed.error


def test_the_others_come_though_one_needs_a_person(bench: Bench, stranger: Stranger, server: Server) -> None:
    by_hand = [{"name": f"{name}.pt", "page": f"https://example.org/{name}"} for name in ("one", "two")]
    stranger.lists(by_hand[0], offered(server), by_hand[1])
    done = bench("models", "fetch", NAME, "--json")
    assert done.code == 3
    items = done.envelope["items"]
    assert [item["path"] for item in items] == [None, str(stranger.folder / "model.pth"), None]
    assert "https://example.org/two" in items[2]["problem"]
    assert "2 of 3 files" in done.error
    shown = bench("models", "fetch", NAME)
    assert all(shown.out.count(f"{name}.pt: is not here") == 1 for name in ("one", "two"))
    assert "example.org" not in shown.err
    assert bench("models", "fetch", NAME, "model.pth").code == 0
    assert bench("models", "fetch", NAME, "model.pt").error.endswith("did you mean 'model.pth'?")


def test_an_archive_is_unpacked(bench: Bench, stranger: Stranger, server: Server) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("net-80x608p16x16/checkpoint-300.pth", CONTENT)
    server.content = packed.getvalue()
    stranger.lists(offered(server, "net-80x608p16x16-mr7.zip"))
    path = stranger.folder / "net-80x608p16x16-mr7" / "net-80x608p16x16" / "checkpoint-300.pth"
    for _ in range(2):
        done = bench("models", "fetch", NAME)
        assert done.code == 0, done.err
        assert done.out.splitlines()[-1] == f"--model {NAME}"
    assert registry.fetched(registry.models()[NAME].card) == ([path], [])
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_offline_asks_no_server(bench: Bench, stranger: Stranger, server: Server) -> None:
    stranger.lists(offered(server))
    done = bench("models", "fetch", NAME, "--offline")
    assert done.code == 3
    assert "cannot be downloaded offline" in done.error
    assert server.requests == []


def test_beats_says_that_its_links_are_dead_and_its_copies_unverified(bench: Bench) -> None:
    line = bench("models", "fetch", "beats", "BEATs_iter3_plus_AS2M.pt").error
    assert "https://github.com/microsoft/unilm/tree/master/beats" in line
    assert "dead" in line
    assert "unverified" in line
    everything = bench("models", "fetch", "beats", "--json")
    assert everything.code == 3
    assert all("dead" in item["problem"] for item in everything.envelope["items"])


@pytest.mark.parametrize("name", ["logmel", "audiomae-tiny", "audioma"])
def test_what_has_no_files_is_an_error_of_usage(bench: Bench, name: str) -> None:
    done = bench("models", "fetch", name)
    assert done.code == 2
    assert name in done.error
