"""Coverage-guided fuzzing of one reader: ``python guided.py NAME FOLDER [libFuzzer's options]``.

Run in a process of its own, for libFuzzer ends the process it is in: by itself at the first exception that is no
documented error, over ten seconds or 2 GiB.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris


def main() -> None:
    name, folder, options = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    work, corpus = folder / "work", folder / "corpus"
    for path in (work, corpus):
        path.mkdir(parents=True)
    sys.path.insert(0, str(Path(__file__).parents[2]))
    with atheris.instrument_imports(include=["uamix_bench", "zipfile", "tomllib"]):
        from tests.fuzz.readers import READERS
        from tests.fuzz.sandbox import watch
        from uamix_bench.util.errors import BenchError

        reader = READERS[name]
        for number, seed in enumerate(reader.corpus(work)):
            (corpus / str(number)).write_bytes(seed)
            with contextlib.suppress(BenchError):
                reader.read(seed, work)  # readers import what they need when they are called
    tokens = "".join('"' + "".join(f"\\x{byte:02x}" for byte in token) + '"\n' for token in reader.tokens if token)
    (folder / "tokens").write_text(tokens)
    misdeeds = watch(work, programs=False)

    def one(content: bytes) -> None:
        try:
            reader.read(content, work)
        except BenchError as error:
            if error.exit_code not in (2, 3):
                raise
        assert not misdeeds, misdeeds

    # A gigabyte is what torch and pandas take before anything is read.
    limits = ["-timeout=10", "-rss_limit_mb=3072", f"-dict={folder / 'tokens'}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], *limits, *options, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
