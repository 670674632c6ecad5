"""`star inspect CHECKPOINT --materialize`: T of the LIVs of a trained model, as numbers and as a picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from star.cli.console import NOTHING, print_json, print_table, say
from star.errors import StarError

if TYPE_CHECKING:
    from star.report.matrix import Operator

TEXT = "The cat sat on the mat, and the dog sat beside the cat."
MOST_TOKENS = 64  # labels stay readable, and T takes memory with the square of it
PICTURE_FILE = "operators.svg"
SUFFIXES = (".svg", ".html")


@dataclass(frozen=True)
class Written:
    """T of every LIV on `tokens`, the first of a text of `total` tokens."""

    operators: list[Operator]
    tokens: list[str]
    total: int


def show(checkpoint: Path, *, liv: int | None, text: str | None, out: Path | None, as_json: bool) -> None:
    """Print a table of T for each LIV, or only LIV `liv`, and draw them. Raises StarError as `write_out` does."""
    from star.report.matrix import draw_operators, operators_page, summary
    from star.report.page import write_text

    path = out or checkpoint / PICTURE_FILE
    if path.suffix.lower() not in SUFFIXES:
        raise StarError(f"--out {str(path)!r} is no picture that can be drawn; give a name in {' or '.join(SUFFIXES)}")
    written = write_out(checkpoint, TEXT if text is None else text, liv)
    if written.total > len(written.tokens):
        say(f"the text has {written.total:,} tokens; the first {len(written.tokens)} are drawn", err=True)
    title = f"T of {checkpoint.resolve().name}"
    drawing = draw_operators(written.operators, written.tokens, title=title)
    write_text(path, drawing if path.suffix.lower() == ".svg" else operators_page(drawing, title=title))
    found = [(operator, summary(operator)) for operator in written.operators]
    if as_json:
        print_json(
            {
                "tokens": written.tokens,
                "livs": [
                    {"index": operator.index, "name": operator.name, **asdict(facts)} for operator, facts in found
                ],
            }
        )
    else:
        print_table(
            [">LIV", "name", ">heads", ">diagonal", ">distance", ">largest |T|", "signs"],
            [
                (
                    str(operator.index),
                    operator.name,
                    str(facts.heads),
                    NOTHING if facts.diagonal is None else f"{facts.diagonal:.1%}",
                    NOTHING if facts.distance is None else f"{facts.distance:.2f}",
                    f"{facts.largest:.3g}",
                    "±" if facts.signed else "+",
                )
                for operator, facts in found
            ],
            title=f"T on {len(written.tokens)} tokens",
        )
        say("")
        say("heads: token-mixing matrices; diagonal: share of Σ|T_ij| on i = j; distance: mean of i - j under |T_ij|")
    say(str(path), err=as_json)


def write_out(checkpoint: Path, text: str, liv: int | None = None) -> Written:
    """T of the LIVs of a checkpoint, or of LIV `liv`, on the first tokens of `text`.

    Raises StarError where there is no checkpoint, no such LIV or no text.
    """
    import torch

    from star.data import Tokenizer
    from star.lm import LanguageModel
    from star.report.matrix import Operator

    model = LanguageModel.load(checkpoint).eval()
    tokenizer = Tokenizer.load(checkpoint)
    genome = model.config.genome.without_identities()
    depth = genome.depth
    if liv is not None and not 0 <= liv < depth:
        raise StarError(f"--liv is {liv}, but the LIVs of {str(checkpoint)!r} are 0 to {depth - 1}")
    tokens = tokenizer.encode(text)
    if not tokens:
        raise StarError("--text is empty; give some text to run through the model")
    shown = tokens[:MOST_TOKENS]
    with torch.inference_mode():
        _, matrices = model.backbone.materialize(model.embedding(torch.tensor([shown])))
    rows = [model.config.pool[segment.liv] for segment in genome]
    operators = [
        Operator(index, row.name, matrix[0].float().numpy(), 2 if row.differential else 1)
        for index, (row, matrix) in enumerate(zip(rows, matrices, strict=True))
        if liv is None or index == liv
    ]
    return Written(operators, [tokenizer.decode([token]) for token in shown], len(tokens))


def refuse(options: dict[str, Any]) -> None:
    """Raise StarError where one of `options`, which mean nothing without --materialize, was given."""
    given = [f"--{name}" for name, value in options.items() if value is not None]
    if given:
        raise StarError(f"{', '.join(given)} only goes with --materialize, for a folder that `star train` wrote")
