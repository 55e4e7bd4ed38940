"""Read the files of the CMU Multimodal SDK: labels and times of the parts of films, words, and standard folds.

Layout: https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from ecmf_pipeline.core.clips import Split
from ecmf_pipeline.core.errors import CorpusError
from ecmf_pipeline.corpora.described import Source
from ecmf_pipeline.corpora.lengths import parse_seconds


def read_segments(source: Source, path: str) -> Iterator[tuple[str, int, tuple[float, float], list[float]]]:
    """Yield the film, number, times and scores of each part in a file of the SDK."""
    import h5py  # lazy: most corpora have no such file

    source.tables.append(path)
    try:
        with h5py.File(source.root / path, "r") as file:
            [data] = [group["data"] for group in file.values()]
            for video in sorted(data):
                times, scores = data[video]["intervals"][:].tolist(), data[video]["features"][:].tolist()
                for number, ((start, end), row) in enumerate(zip(times, scores, strict=True)):
                    yield video, number, (start, end), row
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise CorpusError(f"{source.root / path} cannot be read as labels of the SDK", "fetch it again") from error


def read_turns(source: Source) -> dict[tuple[str, float], tuple[str, str]]:
    """Return number and words of each part by film and start, rounded."""
    turns = {}
    for path in source.scan.unread:
        if "/Segmented/" in f"/{path}" and path.lower().endswith(".txt"):
            for parts in (line.split("___", 4) for line in source.lines(path)):
                if len(parts) == 5 and (start := parse_seconds(parts[2])) is not None:
                    turns[parts[0], round(start, 1)] = parts[1], parts[4].strip()
    return turns


def read_folds(source: Source, labels: str) -> Mapping[str, Split]:
    """Return the split of each film by the standard folds of the SDK; empty if they do not lie beside the labels.

    Raises:
        CorpusError: If they cannot be read.
    """
    splits: dict[str, Split] = {}
    name = f"{PurePosixPath(labels).name.rpartition('_')[0].lower().removesuffix('_opinion')}_std_folds.py"
    for folder in dict.fromkeys((source.root / PurePosixPath(labels).parent, source.root)):
        if (folder / name).is_file():
            try:
                for node in ast.parse((folder / name).read_text(encoding="utf-8")).body:
                    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                        split = Split.CANDIDATE if "test" in node.targets[0].id else Split.TRAIN
                        splits |= dict.fromkeys(ast.literal_eval(node.value), split)
            except (OSError, SyntaxError, ValueError, TypeError) as error:
                raise CorpusError(
                    f"{folder / name} cannot be read as folds of the SDK", "fetch it again, or remove it"
                ) from error
            break
    return splits
