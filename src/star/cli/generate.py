"""`star generate`: continue prompts with a trained model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from star.cli.console import INTERRUPTED_STATUS
from star.errors import StarError

STDIN = "-"
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)  # a young model writes any byte, also those that steer a terminal
HEADING_LENGTH = 60  # characters of a prompt that its heading shows


def run(
    checkpoint: Annotated[Path, typer.Argument(help="A folder that `star train` wrote.")],
    prompts: Annotated[
        list[str],
        typer.Argument(
            metavar="PROMPT",
            help="The text to continue; - reads it from standard input. Several are decoded as one batch.",
        ),
    ],
    max_tokens: Annotated[int, typer.Option(help="Stop after this many tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="Above 1 more varied, below 1 more predictable.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Choose among the K likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest tokens that together have this probability.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens that the text has already become less likely.")
    ] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be given several times.", metavar="TEXT")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    top1: Annotated[
        bool,
        typer.Option(
            "--top1",
            help="Let a liquid router use only its favourite path for each token: less work, above all for one prompt.",
        ),
    ] = False,
) -> None:
    """Write a continuation of each PROMPT, character by character as it is decoded. It ends with the document.

    With --greedy, several prompts are continued as each would be alone.
    """
    import torch

    from star.cli.writing import batch_pieces
    from star.data import Tokenizer
    from star.lm import LanguageModel, left_pad

    if max_tokens < 1:
        raise StarError(f"--max-tokens is {max_tokens}, but it must be at least 1")
    stops = stop or []
    if "" in stops:
        raise StarError("--stop is empty; give the text to end before")
    texts = _texts(prompts)
    model = LanguageModel.load(checkpoint).eval()
    if top1:
        model.use_top1()
    tokenizer = Tokenizer.load(checkpoint)
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    # An empty prompt begins a document, which in training follows the end of another one.
    start, mask = left_pad([tokenizer.encode(text) or [tokenizer.end_of_text] for text in texts], tokenizer.end_of_text)
    stream = model.generate(
        start,
        max_new_tokens=max_tokens,
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        stop_tokens=(tokenizer.end_of_text,),
        generator=generator,
        attention_mask=mask,
    )
    _write(batch_pieces(stream, tokenizer, stops, len(texts)), texts)


def heading(number: int, prompt: str) -> str:
    """One line over the continuation of one of several prompts."""
    line = " ".join(prompt.split())
    return f"== {number}: {line if len(line) <= HEADING_LENGTH else line[: HEADING_LENGTH - 1] + '…'}"


def _texts(prompts: list[str]) -> list[str]:
    if prompts.count(STDIN) > 1:
        raise StarError("standard input was asked for several times (-), but it can be read once only")
    return [sys.stdin.read() if prompt == STDIN else prompt for prompt in prompts]


def _write(texts: Iterator[tuple[int, str]], prompts: list[str]) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a letter shows a question mark
    terminal = sys.stdout.isatty()
    shown = -1 if len(prompts) > 1 else 0
    try:
        for row, text in texts:
            if row != shown:
                shown = row
                _tell(("\n\n" if row else "") + heading(row + 1, prompts[row]) + "\n", terminal)
            _tell(text, terminal)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED_STATUS) from None
    finally:
        sys.stdout.write("\n")


def _tell(text: str, terminal: bool) -> None:
    sys.stdout.write(CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) if terminal else text)
    sys.stdout.flush()
