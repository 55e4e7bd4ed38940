"""Measure CPU time of stores, LLM scoring and DVC, each next to a reference measured in the same run (`make bench`)."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.llm.config import LlmConfig
from tools.bench.dvc import dvc_no_op, dvc_no_op_of_a_large_corpus, dvc_no_op_same_graph, pushed_bytes
from tools.bench.store import MEASUREMENTS, cpu_seconds


def main() -> None:
    """Print two tables, with one line for each measurement."""
    argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__).parse_args()
    _line("CPU time", "ours", "reference", "reference / ours")
    with tempfile.TemporaryDirectory() as name:
        for measure in (*MEASUREMENTS, score_labels):
            title, ours, reference = measure(Path(name))
            ratio = f"{reference / ours:.2f}" if reference else "-"
            _line(title, f"{ours:.3f} s", f"{reference:.3f} s" if reference else "-", ratio)
        sys.stdout.write("\n")
        _line("DVC", "ours", "reference", "ours / reference")
        for measure in (dvc_no_op, dvc_no_op_same_graph, dvc_no_op_of_a_large_corpus):  # these share a finished project
            title, ours, reference = measure(Path(name) / "repro")
            _line(title, f"{ours:.3f} s", f"{reference:.3f} s", f"{ours / reference:.2f}")
        title, ours, reference = pushed_bytes(Path(name) / "push")
        _line(title, f"{ours:.0f} B", f"{reference:.0f} B", f"{ours / reference:.2f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(f"\npeak memory of this process: {peak:.2f} GB\n")


def _line(title: str, ours: str, reference: str, ratio: str) -> None:
    sys.stdout.write(f"{title:<78}{ours:>12}{reference:>12}{ratio:>18}\n")
    sys.stdout.flush()


def score_labels(_folder: Path) -> tuple[str, float, float]:
    """Measure scoring six labels of an utterance, in CPU seconds per utterance.

    Ours caches the prompt prefix and batches utterances; the reference runs the model on each prompt and label again.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ecmf_pipeline.llm.local import TransformersScorer
    from ecmf_pipeline.llm.prompt import as_data, load_prompt

    config, labels = LlmConfig(), MER_LABELS
    texts = [f"I told you {number} times that the train has gone." for number in range(48)]
    scorer = TransformersScorer(config)
    scorer.log_likelihoods(texts[:1], labels)  # loads the model
    scores: list[NDArray[np.float64]] = []
    ours = cpu_seconds(lambda: scores.append(scorer.log_likelihoods(texts, labels)), repeats=1)
    prompt = load_prompt(config.prompt)
    tokenizer = AutoTokenizer.from_pretrained(config.model, gguf_file=config.gguf_file)
    model = AutoModelForCausalLM.from_pretrained(config.model, gguf_file=config.gguf_file).eval()
    plain = np.empty((3, len(labels)))

    @torch.inference_mode()
    def from_scratch() -> None:
        for row, text in enumerate(texts[: len(plain)]):
            before = tokenizer(prompt.render(as_data(text), labels), add_special_tokens=False)["input_ids"]
            for column, word in enumerate(prompt.words(labels)):
                tokens = before + tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
                likelihoods = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
                plain[row, column] = sum(likelihoods[i - 1, tokens[i]] for i in range(len(before), len(tokens)))

    reference = cpu_seconds(from_scratch, repeats=1)
    difference = np.abs(plain - scores[0][: len(plain)]).max()
    title = f"score 6 labels of an utterance, vs without cache (scores differ by {difference:.0e})"
    return title, ours / len(texts), reference / len(plain)


if __name__ == "__main__":
    main()
