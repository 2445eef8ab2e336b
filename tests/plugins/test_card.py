"""Cards: what a TOML must say, and what is said where it does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from uamix_bench.plugins import registry
from uamix_bench.plugins.card import NAME_PATTERN, ModelCard, TaskCard, read_card, trained_on
from uamix_bench.util.errors import BadInputError

MODEL = """
name = "hum"
title = "Hum"
licence = "MIT"
sample_rate = 16_000
embedding_dim = 8
parameters = 12
"""
TASK = 'name = "hum"\ntitle = "Hum"\nlicence = "MIT"\nversion = "1"\nclip_seconds = 5.0\nlabel = "a"\ngroup = "b"\n'


def card(folder: Path, text: str | bytes) -> Path:
    path = folder / "hum.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_card_is_read_and_cannot_be_changed(tmp_path: Path) -> None:
    found = read_card(card(tmp_path, MODEL + 'pretrained_on = ["AudioSet"]\n[[files]]\nname = "a.pth"\n'), ModelCard)
    assert (found.name, found.parameters, found.pretrained_on) == ("hum", 12, ("AudioSet",))
    assert found.files[0].name == "a.pth"
    assert found.needs_weights
    with pytest.raises(ValidationError, match="frozen"):
        found.parameters = 13  # type: ignore[misc]
    assert read_card(card(tmp_path, TASK), TaskCard).splits is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (MODEL.replace("title", "titel"), "field 'title': Field required; correct the card"),
        (MODEL + "colour = 1\n", "field 'colour': Extra inputs are not permitted; correct the card"),
        (MODEL.replace("16_000", "0"), "field 'sample_rate': Input should be greater than 0; correct the card"),
        (MODEL.replace("16_000", '"fast"'), "field 'sample_rate': Input should be a valid integer"),
        (MODEL + 'default_weights = "hum-tiny"\n', ": default_weights 'hum-tiny' are not among the weights"),
        (MODEL + '[[weights]]\nid = "hum-tiny"\nfile = "w"\n', "field 'weights.0.licence': Field required"),
        (MODEL + "name\n", "is not valid TOML"),
        (b"\xff\xfe" + MODEL.encode(), "is not valid TOML"),
    ],
)
def test_a_faulty_card_is_one_line_that_names_the_field(tmp_path: Path, text: str | bytes, line: str) -> None:
    path = card(tmp_path, text)
    with pytest.raises(BadInputError) as caught:
        read_card(path, ModelCard)
    assert line in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["a = " + "[" * 3_000, "a = " + "9" * 5_000, "a = \xe4"])
def test_toml_beyond_all_measure_is_no_card(tmp_path: Path, text: str) -> None:
    (tmp_path / "hum.toml").write_text(text, encoding="latin-1")
    with pytest.raises(BadInputError, match="is not valid TOML"):
        read_card(tmp_path / "hum.toml", ModelCard)


def test_a_missing_card_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"hum.toml: no card .*; put NAME.toml beside the module"):
        read_card(tmp_path / "hum.toml", ModelCard)


@pytest.mark.parametrize("name", ["beats", "uamix-tiny", "local/my data+1", "a.b_c", "m2d/80x608p16x16"])
def test_names_that_can_be_folders(name: str) -> None:
    assert re.match(NAME_PATTERN, name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/../b", "/a", "a/", "a//b", "-a", "a\nb", "a\\b", "\u202eevil", "é"])
def test_names_that_cannot(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="field 'name'"):
        read_card(
            card(tmp_path, MODEL.replace('"hum"', repr(name) if "\n" not in name else f'"""{name}"""', 1)), ModelCard
        )


def test_reading_cards_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from uamix_bench.plugins import registry\n"
        "registry.models(), registry.tasks(), registry.find_model('uamix'), registry.find_task('esc50')\n"
        "print(*sorted(set(sys.modules) & {'torch', 'timm', 'pandas', 'numpy'}))\n"
        "print(*(name for name in sys.modules if name.startswith(('uamix_bench.baselines', 'uamix_bench.tasks'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
    assert done.stderr == ""


def test_a_model_says_that_it_was_never_trained_or_nothing_is_known(tmp_path: Path) -> None:
    for text, words in (("[]", "unknown"), ('["none"]', "none"), ('["A", "B"]', "A, B")):
        found = read_card(card(tmp_path, f"{MODEL}pretrained_on = {text}\n"), ModelCard)
        assert trained_on(found.pretrained_on) == words
    with pytest.raises(BadInputError, match="'none' stands alone"):
        read_card(card(tmp_path, MODEL + 'pretrained_on = ["none", "A"]\n'), ModelCard)


def test_the_cards_of_what_is_not_trained_say_so() -> None:
    cards = {name: plugin.card for name, plugin in registry.models().items() if not plugin.card.reference}
    said = {name: card.pretrained_on for name, card in cards.items()}
    assert {name for name, training in said.items() if training == ("none",)} == {"logmel", "random"}
    assert all(said.values())
