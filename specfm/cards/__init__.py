"""Dataset cards: ``card`` loads one and opens its scenes, ``schema`` says what it holds, ``labels`` reads rasters."""

from specfm.cards.card import Card, card_names, data_folders, load_card
from specfm.cards.schema import Labels, Part

__all__ = ["Card", "Labels", "Part", "card_names", "data_folders", "load_card"]
