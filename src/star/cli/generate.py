"""`star generate`: continue a prompt with a trained model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from star.cli.console import INTERRUPTED_STATUS
from star.errors import StarError

if TYPE_CHECKING:
    from torch import Tensor

    from star.data import Tokenizer

STDIN = "-"
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)  # a young model writes any byte, also those that steer a terminal


def run(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that `star train` wrote.")],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from standard input.")],
    max_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="Above 1 more varied, below 1 more predictable.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among the K likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest tokens that together have this probability.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
) -> None:
    """Write a continuation of PROMPT, character by character as it is decoded. It ends with the document."""
    import torch

    from star.data import Tokenizer
    from star.lm import LanguageModel

    if max_tokens < 1:
        raise StarError(f"--max-tokens is {max_tokens}, but it must be at least 1")
    text = sys.stdin.read() if prompt == STDIN else prompt
    model = LanguageModel.load(checkpoint).eval()
    tokenizer = Tokenizer.load(checkpoint)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    # An empty prompt begins a document, which in training follows the end of another one.
    start = torch.tensor([tokenizer.encode(text) or [tokenizer.end_of_text]])
    stream = model.generate(
        start,
        max_new_tokens=max_tokens,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        stop_tokens=(tokenizer.end_of_text,),
        generator=generator,
    )
    _write(pieces(stream, tokenizer))


def pieces(stream: Iterator[Tensor], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of a stream of tokens, each piece as soon as its characters are complete."""
    decoder = tokenizer.stream()
    for token in stream:
        yield decoder.push(int(token))
    yield decoder.finish()


def _write(texts: Iterator[str]) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter shows a question mark
    terminal = sys.stdout.isatty()
    try:
        for text in texts:
            sys.stdout.write(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if terminal else text)
            sys.stdout.flush()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED_STATUS) from None
    finally:
        sys.stdout.write("\n")
