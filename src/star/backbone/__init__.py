"""From a backbone genome to a torch module."""

from star.backbone.backbone import Backbone
from star.backbone.state import State

__all__ = ["Backbone", "State"]
