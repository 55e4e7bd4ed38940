"""`make bench`: CPU seconds of each figure beside a reference, in the same run on the same cores, as a ratio."""

from __future__ import annotations

import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecmf_pipeline.corpora.config import MER_LABELS
from ecmf_pipeline.llm.config import LlmConfig
from tools.bench.dvc import dvc_no_op, dvc_no_op_of_a_large_corpus, dvc_no_op_same_graph, pushed_bytes
from tools.bench.store import FIGURES, cpu_seconds


def main() -> None:
    """Print one line a figure."""
    sys.stdout.write(f"{'CPU seconds':<62}{'ours':>12}{'reference':>12}{'less by':>10}\n")
    with tempfile.TemporaryDirectory() as name:
        for figure in (*FIGURES, score_labels):
            what, ours, reference = figure(Path(name))
            ratio = f"{reference / ours:.2f}x" if reference else "-"
            _line(what, f"{ours:.3f}", f"{reference:.3f}" if reference else "-", ratio)
        sys.stdout.write(f"{'DVC (CPU seconds; bytes)':<62}{'ours':>12}{'reference':>12}{'of it':>10}\n")
        no_ops = (dvc_no_op, dvc_no_op_same_graph, dvc_no_op_of_a_large_corpus)  # these share a finished project
        for figure, folder in (*((no_op, "repro") for no_op in no_ops), (pushed_bytes, "push")):
            what, ours, reference = figure(Path(name) / folder)
            _line(what, f"{ours:.6g}", f"{reference:.6g}", f"{ours / reference:.2f}x")
    sys.stdout.write(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB\n")


def _line(what: str, ours: str, reference: str, ratio: str) -> None:
    sys.stdout.write(f"{what:<62}{ours:>12}{reference:>12}{ratio:>10}\n")
    sys.stdout.flush()


def score_labels(_folder: Path) -> tuple[str, float, float]:
    """CPU seconds an utterance of scoring six labels: cached prefix and batches, against each from scratch."""
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
    furthest = np.abs(plain - scores[0][: len(plain)]).max()
    what = f"score 6 labels of an utterance (scores differ by {furthest:.0e})"
    return what, ours / len(texts), reference / len(plain)


if __name__ == "__main__":
    main()
