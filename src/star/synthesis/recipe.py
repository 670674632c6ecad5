"""The recipe of a search: everything that decides its result. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from star.data import DataRecipe
from star.errors import StarError
from star.evolution import Mode, RandomSearch, algorithm_class, rung_budgets
from star.genome import BackboneGenome, LivClass, OptionPool, require_valid
from star.synthesis.files import ABLATION, named, parse_toml, read_recipe, recipe_names, toml_text
from star.synthesis.objectives import Architecture, Constraint, Objective, parse_constraint, parse_objective
from star.synthesis.pools import Extensions, OwnClass, PoolName, build_pool, require_width
from star.training import Schedule, TrainingRecipe
from star.validation import CheckedModel, listed

HALVED = ("nsga2", "random")  # searches whose population does without candidates that have no score
OPTIONAL = ("halving", "surrogate", "inheritance")  # sections that a recipe may lack
MOST_LIVS = 4096  # of a backbone


class ModelRecipe(CheckedModel):
    """What all candidates have in common; the paper keeps it fixed during a search (section 5)."""

    depth: int = Field(gt=0, le=MOST_LIVS, description="LIVs in a backbone")
    width: int = Field(gt=0, le=1 << 20, description="channels of the residual stream")
    pool: PoolName = Field(
        default="paper", description="the option pool that genomes draw from; with none, from the own classes alone"
    )
    extend: Extensions = Field(default=(), description="what a search may use beside five integers for each LIV")
    classes: tuple[OwnClass, ...] = Field(
        default=(), description="own LIV classes; one with an id of the pool takes that row's place"
    )
    tie_embeddings: bool = Field(default=True, description="one matrix for the embedding and the output head")

    @model_validator(mode="after")
    def _classes_can_be_built(self) -> Self:
        build_pool(self.pool, self.classes, self.extend)
        for row in self.classes:
            require_width(row, self.width)
        return self


class SearchRecipe(CheckedModel):
    """The evolutionary search (paper 4, A.4). The defaults are the paper's."""

    algorithm: str = "nsga2"
    mode: Mode = Field(
        default=Mode.GENERATIONAL,
        description="generational, or steady-state: breed one whenever a worker is free, and wait for nobody",
    )
    objectives: tuple[str, ...] = Field(default=("perplexity", "parameters"), description="all of them minimised")
    constraints: tuple[str, ...] = Field(
        default=(), description="what candidates must keep to, such as parameters<=80e6; any objective, >= too"
    )
    initial: tuple[str, ...] = Field(
        default=(), description="genomes that take the first places of the initial population, such as another front"
    )
    population: int = Field(default=16, ge=2, le=100_000)
    generations: int = Field(default=18, ge=1, le=1_000_000, description="the initial population is the first")
    elites: int = Field(default=2, ge=0, description="places of a generation that are not bred anew")
    mutation: float = Field(default=0.1, ge=0, le=1, description="probability of each integer")
    crossover_points: int = Field(default=2, ge=1)
    tournament: int = Field(default=2, ge=1, description="contestants for each parent")
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    calibrate: bool = Field(
        default=False,
        description="choose threads, micro-batch, compilation and, where they are auto and default, precision and "
        "matmul by training for some seconds on this machine before the search; the run keeps them",
    )

    @field_validator("algorithm")
    @classmethod
    def _known_algorithm(cls, value: str) -> str:
        algorithm_class(value)
        return value

    @field_validator("objectives", "constraints", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Also the command line's form: one text with commas."""
        return listed(value)

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise StarError("name at least one objective, such as perplexity")
        names = tuple(parse_objective(text).name for text in value)
        if len(set(names)) < len(names):
            raise StarError(f"{', '.join(names)} names an objective twice; name each once")
        return names

    @field_validator("initial")
    @classmethod
    def _readable_genomes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(BackboneGenome.parse(text)) for text in value)

    @field_validator("constraints")
    @classmethod
    def _known_constraints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(parse_constraint(text).text for text in value))

    @model_validator(mode="after")
    def _algorithm_has_the_mode(self) -> Self:
        algorithm_class(self.algorithm, self.mode)
        return self

    @model_validator(mode="after")
    def _elites_leave_room(self) -> Self:
        if self.elites >= self.population:
            raise StarError(
                f"elites = {self.elites} leaves nothing to breed in a population of {self.population}; "
                "give fewer elites or a larger population"
            )
        return self


class HalvingRecipe(CheckedModel):
    """Pareto-aware successive halving inside each generation but the first: see docs/interpretation.md."""

    rungs: int = Field(default=2, ge=2, le=8, description="of training, the last one the whole budget")
    reduction: int = Field(default=6, ge=2, le=64, description="from rung to rung, budgets up and candidates down")
    least_correlation: float = Field(
        default=0.5, ge=-1, le=1, description="of a rung with the whole budget, in the first generation; else off"
    )


class SurrogateRecipe(CheckedModel):
    """Pre-screening of offspring by a model of the scores: see docs/interpretation.md."""

    factor: int = Field(default=4, ge=2, le=1000, description="offspring bred for each one that is trained")
    random_share: float = Field(default=0.25, ge=0, le=1, description="of the places that go to blindly drawn ones")


class InheritanceRecipe(CheckedModel):
    """Children begin with their parents' trained weights where these fit: see docs/interpretation.md."""

    discount: float = Field(
        default=0.0, ge=0, lt=1, description="of the training budget, for a child that inherits every parameter"
    )


class Recipe(CheckedModel):
    """Everything that decides the result of a search; two runs of one recipe on one kind of machine are equal.

    How many workers there are, and where the run is kept, is no part of it. What ``search.calibrate`` measures is kept
    with a run; another run is equal where that is.
    """

    model: ModelRecipe
    data: DataRecipe = DataRecipe()
    training: TrainingRecipe
    search: SearchRecipe = SearchRecipe()
    halving: HalvingRecipe | None = Field(default=None, description="training in rungs; none in the paper")
    surrogate: SurrogateRecipe | None = Field(default=None, description="pre-screening; none in the paper")
    inheritance: InheritanceRecipe | None = Field(
        default=None, description="children begin with weights of their parents; none in the paper"
    )

    @model_validator(mode="after")
    def _initial_genomes_fit(self) -> Self:
        for text in self.search.initial:
            genome = BackboneGenome.parse(text)
            if genome.depth != self.model.depth:
                raise StarError(
                    f"search.initial has a genome of {genome.depth} LIVs ({text}), but model.depth = {self.model.depth}"
                )
            require_valid(genome, self.pool)
        return self

    @model_validator(mode="after")
    def _rungs_can_be_trained(self) -> Self:
        if self.halving is None:
            return self
        if self.search.mode is Mode.STEADY_STATE:
            raise StarError(
                "halving compares the candidates of a generation, for which search.mode = 'steady-state' does not "
                "wait; leave out one of the two"
            )
        if self.search.algorithm not in HALVED:
            raise StarError(
                f"halving leaves most candidates without a score, which search.algorithm = {self.search.algorithm!r} "
                f"cannot do with; use {' or '.join(HALVED)}"
            )
        if not any(objective.needs_training and not objective.timed for objective in self.objectives):
            raise StarError("halving needs an objective that training decides, such as perplexity")
        if self.training.schedule is not Schedule.TRAPEZOID:
            raise StarError(
                "halving needs a learning rate that does not depend on the budget: set training.schedule = 'trapezoid'"
            )
        for tokens in self.rung_tokens:
            try:
                self.training.replace(tokens=tokens)
            except StarError as error:
                raise StarError(f"the rung of {tokens} tokens: {error}; or change halving") from None
        return self

    @model_validator(mode="after")
    def _weights_can_be_inherited(self) -> Self:
        if self.inheritance is None:
            return self
        if self.search.algorithm == RandomSearch.name:
            raise StarError(
                "inheritance needs parents, and search.algorithm = 'random' breeds nothing; choose another algorithm, "
                "or leave out inheritance"
            )
        if self.search.mode is Mode.STEADY_STATE:
            raise StarError(
                "inheritance keeps the weights of a generation's parents, and search.mode = 'steady-state' has no "
                "generations; leave out one of the two"
            )
        if not any(objective.needs_training and not objective.timed for objective in self.objectives):
            raise StarError("inheritance needs an objective that training decides, such as perplexity")
        if self.inheritance.discount and self.halving is not None:
            raise StarError(
                "inheritance.discount changes the budget of each candidate, but the rungs of halving compare equal "
                "ones; leave out one of the two"
            )
        try:
            self.training.replace(tokens=self.discounted(1.0))
        except StarError as error:
            raise StarError(f"a child that inherits everything: {error}; or lower inheritance.discount") from None
        return self

    def discounted(self, share: float) -> int:
        """The training budget of a candidate that inherits this share of its parameters, in tokens."""
        discount = 0.0 if self.inheritance is None else self.inheritance.discount
        return round(self.training.tokens * (1 - discount * share))

    @staticmethod
    def names() -> list[str]:
        """The recipes that come with STAR; for ablations see ``Ablation.names``."""
        return recipe_names(ablations=False)

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """A recipe by name (see ``names``) or from a TOML file.

        Raises StarError for an unknown name, a file that cannot be read, no TOML, a bad setting, or an ablation.
        """
        settings = read_recipe(name)
        with named("recipe", name):
            return cls._of_one_search(settings)

    @classmethod
    def from_toml(cls, text: str) -> Recipe:
        """The inverse of ``to_toml``; StarError where the text is no TOML, a setting is bad, or it is an ablation."""
        return cls._of_one_search(parse_toml(text))

    @classmethod
    def _of_one_search(cls, settings: dict[str, Any]) -> Recipe:
        if ABLATION in settings:
            raise StarError(
                f"it has an [{ABLATION}], which is one search for each condition: run it with `star ablate`, or take "
                "that section out"
            )
        return cls.model_validate(settings)

    def to_toml(self) -> str:
        """This recipe as a TOML file with every setting."""
        sections = self.model_dump(mode="json", exclude_none=True)
        classes = sections["model"].pop("classes")
        tables = [("[model]", sections.pop("model")), *(("[[model.classes]]", row) for row in classes)]
        tables += [(f"[{section}]", settings) for section, settings in sections.items()]
        return toml_text(tables)

    def override(self, settings: Mapping[str, Any]) -> Recipe:
        """A copy with some settings changed, by dotted name (``{"training.tokens": 10**6}``); None changes nothing.

        Where ``training.tokens`` changes and ``training.warmup_tokens`` does not, the warm-up keeps its share of the
        budget. Raises StarError for an unknown or bad setting.
        """
        changes = {name: value for name, value in settings.items() if value is not None}
        tokens = changes.get("training.tokens")
        if isinstance(tokens, int) and "training.warmup_tokens" not in changes:
            changes["training.warmup_tokens"] = self.training.warmup_tokens * tokens // self.training.tokens
        tree = self.model_dump()
        for name, value in changes.items():
            section, _, setting = name.partition(".")
            if section not in tree or not setting:
                raise StarError(f"{name!r} is no setting; write SECTION.NAME with one of {', '.join(tree)}")
            if tree[section] is None:
                tree[section] = {}
            tree[section][setting] = value
        return Recipe.model_validate(tree)

    def differences(self, other: Recipe) -> list[str]:
        """Dotted names of the settings in which two recipes differ."""
        ours, theirs = self._flat(), other._flat()
        return [name for name in ours if ours[name] != theirs.get(name, ours[name])]

    def _flat(self) -> dict[str, Any]:
        sections = self.model_dump(mode="json")
        flat: dict[str, Any] = {section: None for section in OPTIONAL if sections[section] is None}
        flat |= {section: "there" for section in OPTIONAL if sections[section] is not None}
        return flat | {
            f"{section}.{name}": value for section in sections for name, value in (sections[section] or {}).items()
        }

    @property
    def pool(self) -> OptionPool:
        """The option pool of ``model.pool``, with ``model.classes`` and ``model.extend``."""
        return build_pool(self.model.pool, self.model.classes, self.model.extend)

    @property
    def objectives(self) -> list[Objective]:
        """The objectives of ``search.objectives``, in that order."""
        return [parse_objective(name) for name in self.search.objectives]

    @property
    def constraints(self) -> list[Constraint]:
        """The constraints of ``search.constraints``, in that order."""
        return [parse_constraint(text) for text in self.search.constraints]

    @property
    def rung_tokens(self) -> tuple[int, ...]:
        """The budget of each rung, the whole one last; without halving, that alone."""
        if self.halving is None:
            return (self.training.tokens,)
        return rung_budgets(self.training.tokens, self.halving.rungs, self.halving.reduction)

    @property
    def measures(self) -> list[Objective]:
        """Everything that is known of a finished candidate: the objectives, then those that only constraints name."""
        named = [*self.objectives, *(constraint.objective for constraint in self.constraints)]
        return list({objective.name: objective for objective in named}.values())

    def admits(self, genome: BackboneGenome, pool: OptionPool) -> bool:
        """Whether a genome over ``pool`` keeps to all constraints that can be decided without training it."""
        static = [constraint for constraint in self.constraints if not constraint.objective.needs_training]
        if not static:
            return True
        architecture = Architecture(genome.canonical(pool), pool, self.model.width, self.training.length)
        return all(
            constraint.holds(value)
            for constraint in static
            if (value := constraint.objective.before_training(architecture)) is not None
        )

    def fits(self, row: LivClass) -> bool:
        """Whether a derived class can be built at the width of the model."""
        try:
            require_width(row, self.model.width)
        except StarError:
            return False
        return True

    def known_scores(self, genome: BackboneGenome, pool: OptionPool) -> tuple[float | None, ...]:
        """For each objective its value where the genome, over ``pool``, decides it, else None."""
        architecture = Architecture(genome.canonical(pool), pool, self.model.width, self.training.length)
        return tuple(objective.before_training(architecture) for objective in self.objectives)

    def violated(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """The constraints that a candidate with these scores breaks."""
        return tuple(
            constraint.text
            for constraint in self.constraints
            if not constraint.holds(scores[constraint.objective.name])
        )

    @property
    def needs_training(self) -> bool:
        """Whether any objective or constraint can only be known by training."""
        return any(objective.needs_training for objective in self.measures)

    @property
    def cache_length(self) -> int:
        """Tokens at which cache sizes are quoted: the first ``cache_bytes@L``, else the training length."""
        lengths = [o.length for o in self.objectives if o.kind.name == "cache_bytes" and o.length is not None]
        return lengths[0] if lengths else self.training.length
