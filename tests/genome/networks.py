"""What a backbone genome builds, worked out anew from the rules of docs/interpretation.md and compared by brute force.

Deliberately simple-minded, and without anything from `star.genome` but the tables of a pool.
"""

from __future__ import annotations

from itertools import permutations, product

from star.genome import BackboneGenome, LivClass, OptionPool, TokenMixing


def stages_of(genome: BackboneGenome) -> list[list[int]]:
    """Positions of the LIVs, side by side or one after the other."""
    found: list[list[int]] = []
    before = 0
    for index, segment in enumerate(genome):
        if segment.liv == 0:
            continue
        if segment.path_group != 0 and segment.path_group == before:
            found[-1].append(index)
        else:
            found.append([index])
        before = segment.path_group
    return found


def reads_its_v(row: LivClass, name: str) -> bool:
    """Δ, B and C are projections of a convolved v, so who computes them matters."""
    toeplitz = TokenMixing.SCALED_TOEPLITZ
    return (
        row.operator.token_mixing is TokenMixing.SEMI_SEPARABLE
        and name in ("delta", "B", "C")
        and row.groups[name].token_mixing is toeplitz
        and row.groups["v"].token_mixing is toeplitz
    )


def uses(genome: BackboneGenome, pool: OptionPool) -> dict[int, dict[str, tuple[int | None, int]]]:
    """LIV → group → (LIV that computes the tensor, None for a constant; LIV that owns the weights)."""
    found: dict[int, dict[str, tuple[int | None, int]]] = {}
    featurizer_source: dict[tuple[int, int], int] = {}
    feature_source: dict[tuple[int, int], int] = {}
    members: dict[tuple[int, int], list[int]] = {}
    for index, segment in enumerate(genome):
        if segment.liv == 0:
            continue
        row = pool[segment.liv]
        weights_key, tensors_key = (segment.liv, segment.featurizer_group), (segment.liv, segment.feature_group)
        weights_from = featurizer_source.setdefault(weights_key, index)
        tensors_from = feature_source.setdefault(tensors_key, index)
        taken = () if tensors_from == index else row.strategies[segment.feature_strategy - 1]
        shares = weights_from != index and segment.featurizer_strategy == 2
        found[index] = {}
        for name, group in row.groups.items():
            if name in taken:
                found[index][name] = found[tensors_from][name]
            elif not group.from_input:
                found[index][name] = found[weights_from][name] if shares else (None, index)
            else:
                computing = [other for other in members.get(weights_key, []) if found[other][name][0] == other]
                found[index][name] = (index, found[computing[0]][name][1] if shares and computing else index)
        if weights_from == index or shares:
            members.setdefault(weights_key, []).append(index)
    return found


def description(genome: BackboneGenome, pool: OptionPool) -> tuple:
    """Two genomes build the same network if and only if these are equal: the smallest of the ways to write the network
    down, one for each order of the LIVs within their stages."""
    stages = stages_of(genome)
    used = uses(genome, pool)
    stage_of = {index: number for number, stage in enumerate(stages) for index in stage}
    frame = []
    first_of_group: dict[int, int] = {}
    for number, stage in enumerate(stages):
        lead = genome.segments[stage[0]]
        group = lead.residual_group
        source = first_of_group.setdefault(group, number) if group else number
        frame.append((source if source < number else -1, lead.routing if len(stage) > 1 else 1, len(stage)))

    def written(order: list[int]) -> tuple:
        numbers: dict[tuple, int] = {}
        lines = []
        for index in order:
            row = pool[genome.segments[index].liv]
            line: list[tuple] = []
            for name, (computer, owner) in used[index].items():
                weights = numbers.setdefault(("weights", name, owner), len(numbers))
                if computer is None:
                    line.append((weights,))
                    continue
                tensor = numbers.setdefault(("tensor", name, computer), len(numbers))
                line.append((weights, tensor, stage_of[computer], reads_its_v(row, name) and computer == index))
            lines.append((row.id, *line))
        return tuple(lines)

    orders = product(*(permutations(stage) for stage in stages))
    return tuple(frame), min(written([index for stage in order for index in stage]) for order in orders)
