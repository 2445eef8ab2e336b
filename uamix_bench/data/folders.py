"""Clip table of the sounds below a folder: class folders, splits above them, and sounds of unsupported formats."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from uamix_bench.data.clip_table import ClipTable
from uamix_bench.util.errors import BadInputError
from uamix_bench.util.files import unreadable
from uamix_bench.util.text import listed

AUDIO_SUFFIXES = frozenset(".wav .wave .aif .aiff .aifc .flac .ogg .oga .opus .mp3".split())  # what audio.py decodes
# Names of recordings; those not among the above are counted and named, so that no folder shrinks without a word.
SOUND_SUFFIXES = AUDIO_SUFFIXES | frozenset(
    ".rf64 .w64 .bwf .aiffc .caf .m4a .m4b .m4r .mp4 .m4v .mov .3gp .3g2 .aac .adts .alac .wma"
    " .wmv .asf .webm .weba .mka .mkv .ogv .ogx .spx .mogg .mp1 .mp2 .mpa .mpga .mpg .mpeg .ac3 .eac3 .dts .amr .awb"
    " .au .snd .sph .nist .voc .gsm .vox .ra .ram .rm .ape .wv .tta .tak .shn .mpc .dsf .dff .avi .flv .pcm".split()
)
_DOCUMENTS = frozenset(  # what folders of no class hold
    ".csv .tsv .txt .json .jsonl .md .rst .xml .html .yaml .yml .toml .py .ipynb .sh .pdf .png .jpg .gif .svg".split()
)
_LINK = "link to nothing"
_WHOLE = re.compile(r"^(-?\d+)\.0+$")  # a whole number as JSON may write it
_PARTS = frozenset("train training dev development val valid validation test testing eval evaluation holdout".split())
_BESIDE = frozenset("set data audio wav sounds clips meta split clean other curated noisy verified unverified".split())
_FOLD = re.compile(r"(?:fold|split|cv)s?[-_ ]?\d+")

Parts = tuple[str, ...]  # of a path relative to the root


class Remark(NamedTuple):
    """Remark on a clip table for readers of its scores: a word that names the kind, and a sentence."""

    code: str
    text: str

    def __str__(self) -> str:
        """The remark as one line of a record's notes."""
        return f"{self.code}: {self.text}"


class Unread(NamedTuple):
    """A clip that is a sound by its name but is not read."""

    clip: str
    label: str
    kind: str  # its ending, or what it is

    @property
    def reason(self) -> str:
        """Reason for leaving the clip out."""
        return self.kind if self.kind == _LINK else f"{self.kind} is not read"


class Several(NamedTuple):
    """Label column of clips with several classes: its name in the list, and the text between the classes."""

    column: str
    separator: str


class Listing(NamedTuple):
    """A clip table with what is known of it.

    Attributes:
        clips: The clip table.
        remarks: Remarks on it.
        unread: Sounds that are not read.
        several: Label column of clips with several classes; None if each has one.
        names: Names of classes by label, if the user gave them.
    """

    clips: ClipTable
    remarks: tuple[Remark, ...] = ()
    unread: tuple[Unread, ...] = ()
    several: Several | None = None
    names: Mapping[str, str] = {}


def class_folders(root: Path) -> Listing:
    """Lists every sound below every sub-folder; the sub-folder's name is the label. Hidden names are skipped.

    Sub-folders that are all named like splits or folds, and hold sub-folders of the same names, are splits; the folders
    in them are then the class folders. Links to folders are followed at every depth. A dead link or a pipe with the
    name of a sound is listed too, so that a data set never shrinks silently.

    Returns:
        The clip table, in which every clip is its own group.

    Raises:
        BadInputError: There is no sound; a link leads in a circle; or folders are named like splits and hold no
            class folders of the same names.
        MachineError: A folder cannot be read.
    """
    read, unread, remarks = _find(root)
    below = [parts for parts in (*read, *unread) if len(parts) > 1]
    if not below:
        remedy = "give a folder with one sub-folder per class, or a CSV"
        raise BadInputError(root, "no sound in any sub-folder", remedy)
    if loose := len(read) + len(unread) - len(below):
        remarks.append(Remark("folders", f"{_count(loose, 'sound')} in no class folder and left out"))
    level, more = _class_level(root, below)
    remarks += _without_sounds(root, below, level)
    return _listing(root, (p for p in read if len(p) > 1), (p for p in unread if len(p) > 1), level, remarks + more)


def sounds(root: Path) -> Listing:
    """Lists every sound anywhere below a folder. The first sub-folder, if any, is the label.

    Returns:
        The clip table, as of :func:`class_folders` but without splits.

    Raises:
        BadInputError: There is no sound, or a link leads in a circle.
        MachineError: A folder cannot be read.
    """
    read, unread, remarks = _find(root)
    if not read and not unread:
        raise BadInputError(root, "no sound in it", f"sounds end in {', '.join(sorted(AUDIO_SUFFIXES))}")
    return _listing(root, read, unread, 0, remarks)


def walk(root: Path) -> Iterator[Parts]:
    """Files anywhere below a folder, relative to it. Hidden ones are skipped; links to folders are followed.

    Raises:
        BadInputError: A link leads to a folder that holds it.
        MachineError: A folder cannot be read.
    """
    stack: list[tuple[Parts, tuple[str, ...]]] = [((), (os.path.realpath(root),))]
    while stack:
        parts, trail = stack.pop()  # with the real places of the folder and of those above it
        folder = os.path.join(root, *parts)  # noqa: PTH118 - half the time of Path, and there are 300,000 files
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise unreadable(Path(folder), error) from error
        for entry in found:
            linked = entry.is_symlink()
            if not (os.path.isdir(entry.path) if linked else entry.is_dir()):  # noqa: PTH112 - a link in a circle is none
                yield (*parts, entry.name)
                continue
            real = os.path.realpath(entry.path) if linked else os.path.join(trail[-1], entry.name)  # noqa: PTH118
            if linked and any(Path(place).is_relative_to(real) for place in trail):
                raise BadInputError(entry.path, "is a link to a folder that holds it", "remove the link")
            stack.append(((*parts, entry.name), (*trail, real)))


def composed(name: str) -> str:
    """Unicode normal form (NFC) of a name, as file systems compose accents differently."""
    return unicodedata.normalize("NFC", name)


def tally(unread: Sequence[Unread], labels: Iterable[str]) -> str:
    """Line that counts the sounds that are not read, by kind, and names the classes that lose all clips.

    Args:
        unread: Clips that are not read, at least one.
        labels: Classes of the clips that are read.
    """
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(Counter(one.kind for one in unread).items()))
    lost = sorted({one.label for one in unread} - {*labels, ""})
    words = f"{_count(len(unread), 'sound')} not read ({kinds})"
    return words + (f", and no clip of {listed(lost)} is left" if lost else "")


def doubtful_labels(labels: Iterable[str]) -> list[Remark]:
    """Remarks on labels that are one but for their spelling, as ``1`` and ``1.0``, and on those with a separator."""
    spellings: dict[str, list[str]] = {}
    labels = sorted(labels)
    for label in labels:
        spelling = "".join(unicodedata.normalize("NFKC", label).casefold().split())
        spellings.setdefault(_WHOLE.sub(r"\1", spelling), []).append(label)
    alike = [" and ".join(map(repr, those)) for those in spellings.values() if len(those) > 1]
    text = "are scored as different classes: they differ in case, blanks, Unicode form or a final .0 only"
    remarks = [Remark("labels", f"{listed(alike)} {text}")] if alike else []
    if several := [repr(label) for label in labels if ";" in label]:
        text = f"{listed(several, 3)} hold ';': each is one class where no --label-separator of 'finetune' parts it"
        remarks.append(Remark("separators", text))
    return remarks


def _find(root: Path) -> tuple[list[Parts], list[Parts], list[Remark]]:
    """Sounds below a folder that are read, sounds that are not, and a remark on copies of the former in the latter."""
    read, other = [], []
    for parts in walk(root):
        ending = _ending(parts)
        if ending in AUDIO_SUFFIXES:
            read.append(parts)
        elif ending in SOUND_SUFFIXES or (not ending and not (root.joinpath(*parts)).exists()):
            other.append(parts)
    stems = {(*parts[:-1], _stem(parts)) for parts in read}
    unread = [parts for parts in other if (*parts[:-1], _stem(parts)) not in stems]
    if copies := len(other) - len(unread):
        text = f"{_count(copies, 'sound')} not read and taken for a copy of the one of the same name beside it"
        return read, unread, [Remark("folders", text)]
    return read, unread, []


def _class_level(root: Path, below: Iterable[Parts]) -> tuple[int, list[Remark]]:
    """Index of the path part that is the class, and remarks on it: 0, or 1 if the first part is a split."""
    inner: dict[str, set[str]] = {}
    mixed = False  # sounds beside the inner folders, or instead of them
    for parts in below:
        inner.setdefault(parts[0], set()).update(parts[1:-1][:1])
        mixed = mixed or len(parts) == 2
    tops = sorted(inner)
    if len(tops) == 1 and not mixed and len(inner[tops[0]]) > 1:
        reason = f"holds one folder alone ({tops[0]}), and that holds folders ({listed(sorted(inner[tops[0]]))})"
        raise BadInputError(root, reason, f"if those are the classes, give {root / tops[0]}")
    named = [top for top in tops if names_a_split(top)]
    times = Counter(name for names in inner.values() for name in names)
    if named == tops:
        if not mixed and len(times) > 1 and all(any(times[name] > 1 for name in names) for names in inner.values()):
            text = (
                f"{listed(tops)} are read as splits, what they hold as classes (few-shot episodes draw from all splits)"
            )
            return 1, [Remark("splits", text)]
        reason = f"its folders are named like splits ({listed(tops)}), and what they hold is not the same class folders"
        remedy = "give a folder with one sub-folder per class, or a CSV with columns path,label,split"
        raise BadInputError(root, reason, remedy)
    if len(named) > 1:
        return 0, [Remark("splits", f"{listed(named)} are named like splits and are taken for classes")]
    alike = sorted(name for name, count in times.items() if count == len(tops) > 1)
    if not mixed and len(alike) > 1:
        text = f"every class folder holds folders of the same names, which are not used ({listed(alike)})"
        return 0, [Remark("splits", f"{text}; the classes are {listed(tops)}")]
    return 0, []


def _without_sounds(root: Path, below: Iterable[Parts], level: int) -> list[Remark]:
    """A remark that names the folders beside splits and classes in which there is no sound, or nothing at all."""
    held = {parts[:depth] for parts in below for depth in (1, 2)}
    above = [(), *sorted({parts[:1] for parts in held})] if level else [()]
    there = ((*parts, one.name) for parts in above for one in root.joinpath(*parts).iterdir() if one.is_dir())
    found = [parts for parts in there if parts not in held and not parts[-1].startswith((".", "__"))]
    endings = {parts: {_ending(file) for file in walk(root.joinpath(*parts))} for parts in sorted(found)}
    lost = ["/".join(parts) for parts in endings if not endings[parts] or endings[parts] - _DOCUMENTS]
    text = "holds no sound and is no class" if len(lost) == 1 else "hold no sound and are no classes"
    return [Remark("folders", f"{listed(lost)} {text}")] if lost else []


def names_a_split(name: str) -> bool:
    """Test for a folder named like a split or fold: ``train``, ``test_set``, ``audio-train``, ``fold3``."""
    folded = name.casefold()
    words = [word.removesuffix("set") or word for word in re.findall(r"[^\W\d_]+", folded)]
    parts = _PARTS.intersection(words)
    return bool(_FOLD.fullmatch(folded) or (parts and not set(words) - _PARTS - _BESIDE))


def _listing(
    root: Path, read: Iterable[Parts], unread: Iterable[Parts], level: int, remarks: Sequence[Remark]
) -> Listing:
    rows, lost = [], []
    for parts in read:
        clip = composed("/".join(parts))
        label = composed(parts[level]) if len(parts) > 1 else ""
        rows.append((clip, os.path.join(root, *parts), label, clip, composed(parts[0]) if level else ""))  # noqa: PTH118
    for parts in sorted(unread):
        label = composed(parts[level]) if len(parts) > 1 else ""
        lost.append(Unread(composed("/".join(parts)), label, _ending(parts) or _LINK))
    return Listing(ClipTable.of_rows(rows), tuple(remarks), tuple(lost))


def _ending(parts: Parts) -> str:
    return os.path.splitext(parts[-1])[1].lower()  # noqa: PTH122


def _stem(parts: Parts) -> str:
    return os.path.splitext(parts[-1])[0]  # noqa: PTH122


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)} {'are' if number != 1 else 'is'}"
