"""Views: random changes of a sample that should leave what it is made of. ``view.py`` puts them together."""
