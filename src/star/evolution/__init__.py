"""Evolutionary multi-objective search over backbone genomes: pure ``ask``/``tell``, without torch (paper 4, A.4)."""

from star.evolution.algorithm import ALGORITHMS, Algorithm, Mode, algorithm_class
from star.evolution.baselines import RandomSearch, RegularisedEvolution
from star.evolution.halving import promoted, rank_correlation, rung_budgets, rung_places
from star.evolution.individual import Individual
from star.evolution.nsga2 import NSGA2
from star.evolution.pareto import crowding_distance, hypervolume, non_dominated_ranks
from star.evolution.scalar import Firefly, GeneticAlgorithm
from star.evolution.selection import first_front, survivors
from star.evolution.steady import SteadyStateNSGA2
from star.evolution.surrogate import Screen, Surrogate

__all__ = [
    "ALGORITHMS",
    "NSGA2",
    "Algorithm",
    "Firefly",
    "GeneticAlgorithm",
    "Individual",
    "Mode",
    "RandomSearch",
    "RegularisedEvolution",
    "Screen",
    "SteadyStateNSGA2",
    "Surrogate",
    "algorithm_class",
    "crowding_distance",
    "first_front",
    "hypervolume",
    "non_dominated_ranks",
    "promoted",
    "rank_correlation",
    "rung_budgets",
    "rung_places",
    "survivors",
]
