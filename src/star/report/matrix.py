"""Heat maps of token-mixing matrices T as one self-contained SVG: a row for each LIV, a panel for each head."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

MOST_PANELS = 16  # heads of a LIV that are drawn one by one; of more, the mean and the strongest
STRONGEST = 3
PANELS_IN_LINE = 4
LEFT, TOP, GAP, CAPTION = 24, 34, 26, 18
SMALLEST_CELL, LARGEST_CELL, PANEL = 8, 20, 240  # pixels; a panel is about PANEL wide if its cells can be
FONT = 7.5  # of the tokens
LETTER = 0.62  # width of a letter of the monospaced tokens, over its size
LONGEST_LABEL = 8  # characters

STYLE = (
    "text{fill:#1b1f24;font:12px system-ui,sans-serif}.title{font-size:14px;font-weight:600}"
    f".token{{font:{FONT}px ui-monospace,monospace}}.frame{{fill:none;stroke:#8a949e}}"
    "image{image-rendering:pixelated}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ec}}"
)
WHITE, POSITIVE, NEGATIVE = np.array([255, 255, 255]), np.array([178, 24, 43]), np.array([33, 102, 172])
AHEAD = np.array([226, 229, 232])  # where j > i, which T never reaches


@dataclass(frozen=True)
class Operator:
    """T of one LIV: matrices [heads or channels, ℓ, ℓ], those of a second branch behind those of the first."""

    index: int
    name: str
    matrices: np.ndarray
    branches: int = 1


@dataclass(frozen=True)
class Summary:
    """How T spreads its weight Σ|T_ij|; shares are None where all of T is zero.

    diagonal: share of it on i = j. distance: mean of i - j under it, in tokens. largest: the largest |T_ij|.
    """

    heads: int
    diagonal: float | None
    distance: float | None
    largest: float
    signed: bool


def summary(operator: Operator) -> Summary:
    """The numbers that sum up one LIV."""
    weight = np.abs(operator.matrices.astype(np.float64))
    total, length = weight.sum(), weight.shape[-1]
    position = np.arange(length)
    distance = np.maximum(position[:, None] - position[None, :], 0)
    return Summary(
        heads=len(weight),
        diagonal=float(np.trace(weight, axis1=1, axis2=2).sum() / total) if total else None,
        distance=float((weight.sum(0) * distance).sum() / total) if total else None,
        largest=float(weight.max()),
        signed=bool((operator.matrices < 0).any()),
    )


def panels(operator: Operator) -> list[tuple[str, np.ndarray]]:
    """(caption, matrix [ℓ, ℓ]) of every head; of many channels the mean of |T|, and the channels with most weight."""
    matrices = operator.matrices
    half = len(matrices) // operator.branches
    kind = "head" if half <= MOST_PANELS else "channel"

    def caption(place: int) -> str:
        branch, number = divmod(place, half)
        return f"{kind} {number}" + (f" of branch {branch + 1}" if operator.branches > 1 else "")

    if len(matrices) <= MOST_PANELS:
        return [(caption(place) if len(matrices) > 1 else "T", matrix) for place, matrix in enumerate(matrices)]
    weights = np.abs(matrices).sum((1, 2))
    strongest = sorted(np.argsort(-weights, kind="stable")[:STRONGEST].tolist())
    mean = np.abs(matrices).mean(0)
    return [(f"mean |T| of {len(matrices)}", mean), *((caption(place), matrices[place]) for place in strongest)]


def draw_operators(operators: Sequence[Operator], tokens: Sequence[str], *, title: str) -> str:
    """The SVG. tokens: [ℓ], what stands at each position; row i is the token that is written, column j one it reads."""
    length = len(tokens)
    cell = min(LARGEST_CELL, max(SMALLEST_CELL, PANEL // length))
    labels = [_label(token) for token in tokens]
    margin = round(max(map(len, labels)) * FONT * LETTER) + 6
    side = cell * length
    step_x, step_y = side + margin + GAP, side + margin + CAPTION + 6
    drawn = [(operator, panels(operator)) for operator in operators]
    across = max(min(PANELS_IN_LINE, len(found)) for _, found in drawn)
    width = max(LEFT + across * step_x, 720)
    parts: list[str] = []
    y = TOP + 20
    for operator, found in drawn:
        parts.append(_text(LEFT, y + 16, f"LIV {operator.index}: {operator.name}", "title"))
        y += 26
        for place, (caption, matrix) in enumerate(found):
            x = LEFT + place % PANELS_IN_LINE * step_x + margin
            top = y + place // PANELS_IN_LINE * step_y
            parts.append(_panel(x, top, cell, matrix, labels, f"{caption}, largest {_round(np.abs(matrix).max())}"))
        y += -(-len(found) // PANELS_IN_LINE) * step_y + 6
    key = (
        "Row: the token that is written. Column: the token that it reads. Red: positive, blue: negative, "
        "by √|T|; each panel has its own scale."
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" '
            f'role="img" aria-label="{escape(title)}">',
            f"<style>{STYLE}</style>",
            _text(LEFT, 20, title, "title"),
            _text(LEFT, 38, key),
            *parts,
            "</svg>\n",
        ]
    )


def operators_page(drawing: str, *, title: str) -> str:
    """`draw_operators` as an HTML file."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        "<style>:root{color-scheme:light dark}body{margin:1rem}</style>\n</head>\n"
        f"<body>\n{drawing}</body>\n</html>\n"
    )


def colours(matrix: np.ndarray) -> np.ndarray:
    """[ℓ, ℓ, 3] uint8: white at 0, red at the largest |T| where it is positive, blue where negative; grey ahead.

    Between them colours follow √|T|: the first rows of a softmax, with few tokens to see, would hide all others.
    """
    largest = float(np.abs(matrix).max())
    share = np.sqrt(np.abs(matrix)[..., None] / largest) if largest else np.zeros((*matrix.shape, 1))
    end = np.where((matrix < 0)[..., None], NEGATIVE, POSITIVE)
    shown = np.rint(WHITE + (end - WHITE) * share)
    ahead = np.triu(np.ones(matrix.shape, dtype=bool), 1)
    return np.where((ahead & (matrix == 0))[..., None], AHEAD, shown).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """RGB pixels [height, width, 3] uint8 as a PNG file."""
    height, width, _ = pixels.shape
    lines = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter 0 before each line

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")


def _panel(x: float, y: float, cell: int, matrix: np.ndarray, labels: Sequence[str], caption: str) -> str:
    side = cell * len(labels)
    data = base64.b64encode(png(colours(matrix))).decode()
    foot = y + CAPTION + side
    parts = [
        f"<g><title>{escape(caption)}</title>",
        _text(x, y + CAPTION - 5, caption),
        f'<image x="{x}" y="{y + CAPTION}" width="{side}" height="{side}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/>',
        f'<rect class="frame" x="{x}" y="{y + CAPTION}" width="{side}" height="{side}"/>',
    ]
    for place, label in enumerate(map(escape, labels)):
        middle = (place + 0.5) * cell
        row = y + CAPTION + middle + FONT / 3
        column = x + middle + FONT / 3
        parts.append(f'<text class="token" x="{x - 3}" y="{row:.1f}" text-anchor="end">{label}</text>')
        parts.append(
            f'<text class="token" transform="translate({column:.1f} {foot + 3}) rotate(-90)" text-anchor="end">'
            f"{label}</text>"
        )
    return "".join([*parts, "</g>"])


def _label(token: str) -> str:
    """A token as a few visible characters: blanks and line ends have signs of their own, control characters none."""
    signs = {" ": "␣", "\n": "⏎", "\t": "⇥"}
    text = "".join(signs.get(letter, letter if letter.isprintable() else "·") for letter in token) or "·"
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _round(value: float) -> str:
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f'<text{mark} x="{x}" y="{y}">{escape(text)}</text>'
