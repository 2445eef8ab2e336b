"""Speech for the training corpus: made-up words spoken by espeak-ng and Flite, and recorded prompts of Asterisk.

Digits are a test, so nothing here speaks a number or a letter: a made-up word is drawn again if its phonemes are those
of a number or letter of any language, and a prompt is left out if its text has a number.
"""

from __future__ import annotations

import gzip
import io
import re
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from uamix_bench.data.audio import resample
from uamix_bench.util.arrays import Floats
from uamix_bench.util.errors import BadInputError, MachineError

from .synthesis_signal import SAMPLE_RATE

# Languages of espeak-ng that read Latin letters by rules of their own.
LANGUAGES = (
    "af an bs ca cs cy da de en-gb en-gb-scotland en-us eo es es-419 et eu fi fr-fr ga gd hr ht hu ia id is it ku la "
    "lb lfn lt lv ms mt nb nl pap pl pt pt-br ro sk sl sq sv sw tr"
).split()
PROMPTS = {"it": "it_IT_m_Carlo", "ru": "ru_RU_f_IvrvoiceRU"}  # the others' licence is CC BY-SA

_PROMPTS = Path("/usr/share/asterisk/sounds")
_TRANSCRIPTS = Path("/usr/share/doc/asterisk-core-sounds-it/core-sounds-it.txt.gz")
_ONSETS = "b d f g k l m n p r s t v z ch sh st tr pl br gr fl sk dr kr sp".split()
_NUCLEI = "a e i o u ai au oi ie".split()
_CODAS = ("", "", "", "n", "r", "s", "l", "m", "t", "k", "rn", "st", "ld", "mp")
_NUMBERS = [str(value) for value in (*range(21), *range(30, 100, 10), 100, 200, 1000)]
_LETTERS = list("abcdefghijklmnopqrstuvwxyz")
_MARKS = re.compile(r"\([a-z-]+\)|[\s',_:|%=;~\"!?*-]")  # stress, length, pauses and switches of language
_SHORTEST = 3  # phonemes of a number that may not be part of a longer word of its own language
_ITALIAN_NUMBERS = re.compile(
    r"\d|\b(zero|un[oa']?|due|tre|quattro|cinque|sei|sette|otto|nove|dieci|undici|dodici|\w+dici|dicia\w+|vent\w*|trent\w*|"
    r"\w+ant[ai]|cent[oi]|mill?[ea]|milion[ei]|prim[oa]|second[oa]|terz[oa])\b|\[",
    re.IGNORECASE,
)


class Voice(NamedTuple):
    """Voice of espeak-ng: a language and a variant of the speaker."""

    language: str
    variant: str

    def __str__(self) -> str:
        return f"{self.language}+{self.variant}"


@cache
def variants() -> list[str]:
    """Names of espeak-ng's variants of the speaker."""
    listed = _run(["espeak-ng", "--voices=variant"]).decode().splitlines()[1:]
    return sorted({line.split("!v/")[1].split()[0] for line in listed})


def made_up_word(draw: np.random.Generator) -> str:
    """Draws a word of one to three syllables."""
    syllables = draw.integers(1, 4)
    return "".join(str(draw.choice(_ONSETS)) + str(draw.choice(_NUCLEI)) for _ in range(syllables)) + str(
        draw.choice(_CODAS)
    )


def phonemes(language: str, texts: Sequence[str]) -> list[str]:
    """Phonemes of texts, one clause each, in espeak-ng's notation, without stress, length and pauses."""
    apart = "\n\n".join(texts)  # a blank line ends a clause, and each clause gives a line
    return [
        _MARKS.sub("", line) for line in _run(["espeak-ng", "-q", "-x", "-v", language, apart]).decode().splitlines()
    ]


@cache
def numbers(language: str) -> frozenset[str]:
    """Phonemes of the numbers and letters of a language."""
    return frozenset(phonemes(language, [*_NUMBERS, *_LETTERS])) - {""}


@cache
def all_numbers() -> frozenset[str]:
    """Phonemes of the numbers and letters of all of `LANGUAGES`."""
    return frozenset().union(*map(numbers, LANGUAGES))


def is_number(language: str, spoken: str) -> bool:
    """Test for phonemes that are a number or letter of any language, or that hold a number of their own language."""
    own = (number for number in numbers(language) if len(number) >= _SHORTEST)
    return not spoken or spoken in all_numbers() or any(number in spoken for number in own)


def espeak(voice: Voice, text: str, speed: int, pitch: int) -> Floats | None:
    """Speaks words; None if one of them sounds like a number.

    Args:
        voice: Language and variant.
        text: Words to speak.
        speed: Words a minute.
        pitch: Pitch from 0 to 99.

    Returns:
        (S,) mono samples at 16 kHz, without the silence around them.
    """
    if any(is_number(voice.language, spoken) for spoken in phonemes(voice.language, text.split())):
        return None
    command = ["espeak-ng", "--stdout", "-v", str(voice), "-s", str(speed), "-p", str(pitch), text]
    return _trimmed(_decoded(_run(command)))


def flite(voice: str, text: str, stretch: float, pitch_hz: float) -> Floats | None:
    """Speaks words as :func:`espeak` does, with Flite's American English; `stretch` multiplies durations."""
    if any(is_number("en-us", spoken) for spoken in phonemes("en-us", text.split())):
        return None
    features = ["--setf", f"duration_stretch={stretch}", "--setf", f"int_f0_target_mean={pitch_hz}"]
    return _trimmed(_decoded(_run(["flite", "-voice", voice, *features, "-t", text, "-o", "/dev/stdout"])))


def prompts(language: str) -> Iterator[tuple[str, Floats]]:
    """Name and samples, at 16 kHz, of each recorded prompt without a number.

    The transcripts are those of the Italian prompts; the Russian ones are translations of the same English texts.

    Raises:
        BadInputError: The package of the language is not installed.
    """
    folder = _PROMPTS / PROMPTS[language]
    if not folder.is_dir() or not _TRANSCRIPTS.is_file():
        raise BadInputError(folder, "no such folder", f"install the package asterisk-core-sounds-{language}-wav")
    for line in gzip.decompress(_TRANSCRIPTS.read_bytes()).decode("utf-8-sig").splitlines():
        name, separator, text = line.partition(":")
        path = folder / f"{name.strip()}.wav"
        within = "/" not in name or name.startswith(("dictate/", "followme/"))
        if separator and within and not name.startswith(";") and not _ITALIAN_NUMBERS.search(text) and path.is_file():
            yield name.strip(), _trimmed(_decoded(path.read_bytes()))


def _decoded(content: bytes) -> Floats:
    """Samples of a WAV file, at 16 kHz; its header may give no length, as a stream's does."""
    if not content:
        return np.zeros(0, np.float32)
    samples, rate = soundfile.read(io.BytesIO(_with_length(content)), dtype="float32")
    return resample(samples, rate, SAMPLE_RATE)


def _with_length(content: bytes) -> bytes:
    """WAV file whose header states its true length."""
    start = content.index(b"data") + 4
    size = len(content) - start - 4
    return content[:start] + size.to_bytes(4, "little") + content[start + 4 :]


def _trimmed(samples: Floats) -> Floats:
    """Samples between the first and the last above a hundredth of the peak."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max(initial=0.0))
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def _run(command: list[str]) -> bytes:
    try:
        return subprocess.run(command, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise MachineError(command[0], f"does not run ({error})", f"install the package {command[0]}") from error
